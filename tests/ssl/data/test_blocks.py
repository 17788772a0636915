"""Blocks against the stream they are cut from, and their order as a pure function."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgym.errors import RequestError
from rlgym.ssl.config import ByteTokenizer
from rlgym.ssl.data.blocks import Batches, Blocks, offsets, order
from rlgym.ssl.data.build_tokenizer import build_tokenizer
from rlgym.ssl.data.progress import silent
from rlgym.ssl.data.tokens import Tokens, tokenize
from tests.ssl.small_corpus import corpus_of

END = 0


def causal(lengths: list[int]) -> Tokens:
    """Documents of so many tokens, all different but for the ends."""
    ids: list[int] = []
    starts = []
    for length in lengths:
        starts.append(len(ids))
        ids += [END, *range(len(ids) + 1, len(ids) + 1 + length)]
    return Tokens(np.array([*ids, END], dtype=np.uint16), np.array(starts), 0)


def masked(lengths: list[int]) -> Tokens:
    starts = np.cumsum([0, *lengths])
    return Tokens(np.arange(starts[-1], dtype=np.uint16), starts[:-1], 0)


STREAMS = [causal([3, 7, 0, 0, 1, 12, 5]), causal([40]), masked([3, 8, 2, 2, 13, 6]), masked([30])]
EXTRAS = [1, 1, 0, 0]


def circular(tokens: Tokens, extra: int, begin: int, length: int) -> tuple[list[int], list[int]]:
    """Token by token around the circle: (ids, numbers of the documents from 0)."""
    circle = len(tokens.ids) - extra
    places = [(begin + i) % circle for i in range(length)]
    numbers = np.cumsum([0] + [place in tokens.starts for place in places[1:]])
    return tokens.ids[places].tolist(), numbers.tolist()


@pytest.mark.parametrize(("tokens", "extra"), list(zip(STREAMS, EXTRAS, strict=True)))
@pytest.mark.parametrize("block_size", [1, 4, 7, 27])
def test_blocks_are_what_the_stream_says(tokens: Tokens, extra: int, block_size: int) -> None:
    blocks = Blocks(tokens, block_size, extra)
    indices = range(len(blocks))
    for offset in range(block_size):
        ids, documents = blocks.gather(np.array(indices), offset)
        assert ids.dtype == np.int64 and ids.shape == (len(blocks), block_size + extra)
        wanted = [circular(tokens, extra, offset + i * block_size, block_size + extra) for i in indices]
        assert ids.tolist() == [row for row, _ in wanted]
        numbers = [row for _, row in wanted]
        if documents is None:
            assert not np.any(numbers), "only where every row lies in one document"
        else:
            assert documents.dtype == np.int32 and documents.tolist() == numbers and np.any(numbers)
    assert Blocks(tokens, block_size, extra, documents=False).gather(np.array(indices))[1] is None


def test_offsets_of_their_own_for_each_row() -> None:
    blocks = Blocks(STREAMS[0], 5, 1)
    indices, shifts = np.array([2, 0, 2]), np.array([4, 3, 0])
    ids, documents = blocks.gather(indices, shifts)
    for row in range(3):
        alone, numbers = blocks.gather(indices[row : row + 1], int(shifts[row]))
        assert ids[row].tolist() == alone[0].tolist() and documents is not None
        assert documents[row].tolist() == (numbers[0].tolist() if numbers is not None else [0] * 6)


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_each_token_is_a_label_once_an_epoch(offset: int) -> None:
    tokens = causal([3, 7, 1, 12, 2])  # a circle of 30
    ids, _ = Blocks(tokens, 5, 1).gather(np.arange(6), offset)
    labels, inputs = ids[:, 1:].ravel().tolist(), ids[:, :-1].ravel().tolist()
    assert sorted(labels) == sorted(inputs) == sorted(tokens.ids[1:].tolist())
    following = dict(zip(tokens.ids[:-1].tolist(), tokens.ids[1:].tolist(), strict=True))
    assert all(label == following[token] for token, label in zip(inputs, labels, strict=True) if token != END)
    assert labels.count(END) == 5, "the end of each document is learnt, whichever block it falls into"


def test_documents_from_text_to_blocks(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, ["aaaa", "bbbbbb", "cc", "held"])
    tokenizer = build_tokenizer(ByteTokenizer(), corpus, True, silent)
    train, _ = tokenize(corpus, tokenizer, True, silent)
    ids, documents = Blocks(train, 5, 1).gather(np.arange(3))
    shown = [tokenizer.decode(row.tolist(), skip_special=False).replace("<|endoftext|>", "|") for row in ids]
    assert shown == ["|aaaa|", "|bbbbb", "bb|cc|"]
    assert documents is not None
    assert documents.tolist() == [[0, 0, 0, 0, 0, 1], [0] * 6, [0, 0, 1, 1, 1, 2]]


def test_too_little_text_for_one_block() -> None:
    assert len(Blocks(causal([8]), 9, 1)) == 1 and len(Blocks(masked([9]), 9, 0)) == 1
    for tokens, size, extra in ((causal([8]), 10, 1), (masked([9]), 10, 0)):
        with pytest.raises(RequestError, match=r"model.block_size=10: the train part .* (9|10) tokens"):
            Blocks(tokens, size, extra)
    held_out = Tokens(np.arange(9, dtype=np.uint16), np.array([0]), 0, "validation")
    with pytest.raises(RequestError, match=r"the validation part.*data.validation_fraction"):
        Blocks(held_out, 10, 0)


# ---- order


@pytest.mark.parametrize(("blocks", "batch"), [(10, 3), (10, 10), (7, 16), (1, 4), (100, 1)])
def test_each_block_once_an_epoch_and_batches_run_across_the_ends(blocks: int, batch: int) -> None:
    epochs = 5
    steps = -(-blocks * epochs // batch)
    stream = np.concatenate([order(blocks, 3, step, batch) for step in range(steps)])
    shifts = np.concatenate([offsets(blocks, 64, 3, step, batch) for step in range(steps)])
    rows = stream[: blocks * epochs].reshape(epochs, blocks)
    assert (np.sort(rows, axis=1) == np.arange(blocks)).all()
    by_epoch = shifts[: blocks * epochs].reshape(epochs, blocks)
    assert (by_epoch == by_epoch[:, :1]).all() and len(set(by_epoch[:, 0].tolist())) > 1
    assert shifts.min() >= 0 and shifts.max() < 64
    if blocks == 100:
        assert len({tuple(row) for row in rows.tolist()}) == epochs, "each epoch has an order of its own"
        assert not np.array_equal(order(100, 4, 0, 100), order(100, 3, 0, 100)), "and each seed"


def test_order_is_a_pure_function() -> None:
    forward = [order(50, 1, step, 8).tolist() for step in range(30)]
    backward = [order(50, 1, step, 8).tolist() for step in reversed(range(30))]
    assert forward == backward[::-1]
    # As found when this was written: a resume under another NumPy must not silently read other data.
    assert order(20, 7, 3, 4).tolist() == PINNED and offsets(20, 256, 7, 3, 4).tolist() == PINNED_OFFSETS


PINNED = [4, 18, 5, 19]
PINNED_OFFSETS = [186] * 4


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_ranks_together_give_the_batch_of_one(world_size: int) -> None:
    for step in (0, 5, 40):
        ranks = range(world_size)
        parts = [order(31, 2, step, 12, rank, world_size) for rank in ranks]
        assert np.concatenate(parts).tolist() == order(31, 2, step, 12).tolist()
        parts = [offsets(31, 16, 2, step, 12, rank, world_size) for rank in ranks]
        assert np.concatenate(parts).tolist() == offsets(31, 16, 2, step, 12).tolist()


# ---- batches


class Maker:
    """Makes batches, and remembers of which steps and in which threads."""

    def __init__(self, fails_at: int = -1) -> None:
        self.steps: list[int] = []
        self.threads: set[int] = set()
        self.fails_at = fails_at
        self.made = threading.Semaphore(0)

    def __call__(self, ids: np.ndarray, documents: np.ndarray | None, step: int) -> dict[str, Tensor]:
        self.steps.append(step)
        self.threads.add(threading.get_ident())
        self.made.release()
        if step == self.fails_at:
            raise ArithmeticError(f"step {step}")
        return {"tokens": torch.from_numpy(ids), "step": torch.tensor(step)}


def test_batches_are_those_of_order_and_the_next_is_made_meanwhile() -> None:
    blocks, make = Blocks(STREAMS[0], 3, 1), Maker()
    batches = Batches(blocks, 5, 4, make, torch.device("cpu"))
    for step in (0, 1, 2, 7, 3, 4):
        batch = batches.get(step)
        ids, _ = blocks.gather(order(len(blocks), 5, step, 4), offsets(len(blocks), 3, 5, step, 4))
        assert batch["tokens"].tolist() == ids.tolist() and batch["step"] == step
    for _ in range(9):
        assert make.made.acquire(timeout=10)
    batches.close()
    assert make.steps == [0, 1, 2, 3, 7, 8, 3, 4, 5], "each once, unless steps were left out"
    assert threading.get_ident() not in make.threads


def test_ranks_share_a_batch() -> None:
    blocks = Blocks(STREAMS[0], 3, 1)
    parts = []
    for rank in range(2):
        batches = Batches(blocks, 5, 4, Maker(), torch.device("cpu"), rank, 2)
        parts.append(batches.get(3)["tokens"])
        batches.close()
    whole = Batches(blocks, 5, 4, Maker(), torch.device("cpu"))
    assert torch.equal(torch.cat(parts), whole.get(3)["tokens"])
    whole.close()


def test_a_failure_in_the_thread_is_raised_by_its_own_step() -> None:
    batches = Batches(Blocks(STREAMS[0], 3, 1), 5, 4, Maker(fails_at=2), torch.device("cpu"))
    batches.get(0)
    batches.get(1)
    with pytest.raises(ArithmeticError, match="step 2"):
        batches.get(2)
    batches.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_reach_a_gpu_unharmed() -> None:
    """Each batch while the one before is still being computed with, as in training."""
    tokens = masked([20_000])
    blocks = Blocks(tokens, 64, 0)
    device = torch.device("cuda")
    batches = Batches(blocks, 5, 128, Maker(), device)
    busy = torch.randn(2_000, 2_000, device=device)
    got = []
    for step in range(50):
        busy = (busy @ busy).clamp(-1, 1)
        batch = batches.get(step)["tokens"]
        assert batch.device.type == "cuda"
        got.append(batch.clone())
    for step in range(50):
        ids, _ = blocks.gather(order(len(blocks), 5, step, 128), offsets(len(blocks), 64, 5, step, 128))
        assert torch.equal(got[step].cpu(), torch.from_numpy(ids)), step
    batches.close()
