"""Held-out documents: a function of content and sizes, near the share that was asked for, never none and never all."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from rlgym.ssl.data.split import cut_at, held_out


def digests(contents: list[str]) -> NDArray[np.uint8]:
    joined = b"".join(hashlib.sha256(content.encode()).digest() for content in contents)
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)


def sizes(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def test_documents_in_the_order_of_their_hash_until_the_share_is_reached() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        count = int(generator.integers(20, 60))
        contents = [f"{generator.random()}" for _ in range(count)]
        lengths = generator.integers(1, 100, count)
        fraction = float(generator.uniform(0.1, 0.6))
        target = fraction * lengths.sum()
        expected, total = np.zeros(count, bool), 0
        for index in sorted(range(count), key=lambda i: hashlib.sha256(contents[i].encode()).digest()):
            if total >= target:
                break
            expected[index] = True
            total += int(lengths[index])
        assert lengths.max() <= target  # none is so large that it is passed over
        assert np.array_equal(held_out(digests(contents), lengths, fraction), expected)


def test_the_split_goes_with_the_document_not_with_its_place() -> None:
    contents = [f"document {number}" for number in range(100)]
    lengths = np.array([len(content) for content in contents])
    held = held_out(digests(contents), lengths, 0.2)
    shuffled = np.random.default_rng(0).permutation(100)
    again = held_out(digests([contents[i] for i in shuffled]), lengths[shuffled], 0.2)
    assert np.array_equal(again, held[shuffled])


def test_never_none_and_never_all() -> None:
    generator = np.random.default_rng(0)
    for _ in range(500):
        count = int(generator.integers(2, 6))
        contents = [f"{generator.integers(3)}" for _ in range(count)]
        lengths = 1 + 1_000 * np.array([int(content) for content in contents])
        held = held_out(digests(contents), lengths, float(generator.uniform(0.001, 0.999)))
        assert held.any() and not held.all()


def test_a_document_larger_than_the_share_stays_in_training() -> None:
    contents = [f"{number}" for number in range(101)]
    for large in range(0, 101, 10):
        lengths = np.full(101, 10)
        lengths[large] = 9_000
        held = held_out(digests(contents), lengths, 0.05)
        assert not held[large] and 500 <= lengths[held].sum() < 510
    assert held_out(digests(["a", "b", "c"]), sizes(40, 30, 50), 0.05).tolist() == [False, True, False]
    assert held_out(digests(["a", "b"]), sizes(10_000, 3), 0.05).tolist() == [False, True]


def test_equal_documents_stay_on_one_side() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        contents = [f"{generator.integers(10)}" for _ in range(30)]
        if len(set(contents)) > 1:
            held = held_out(digests(contents), np.full(30, 5), 0.3)
            train = {text for text, out in zip(contents, held, strict=True) if not out}
            validation = {text for text, out in zip(contents, held, strict=True) if out}
            assert train and validation and not train & validation


def test_where_a_single_document_is_cut() -> None:
    generator = np.random.default_rng(2)
    for _ in range(500):
        text = "".join(generator.choice(list("a\u00e9\u20ac\U0001f600"), generator.integers(1, 12)))
        data = text.encode()
        fraction = float(generator.uniform(0.01, 0.99))
        at = cut_at(np.frombuffer(data, np.uint8), fraction)
        borders = [len(text[:k].encode()) for k in range(1, len(text))]
        if not borders:
            assert at == 0
            continue
        wanted = int(len(data) * (1 - fraction))
        assert at == max((border for border in borders if border <= wanted), default=borders[0])
