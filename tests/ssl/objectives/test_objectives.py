"""Losses by brute force, the invariance of gradients to how a batch is cut, and the metrics of held-out text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlgym.ssl.config import MaskedConfig, NextTokenConfig
from rlgym.ssl.objectives.base import IGNORED, Batch, Objective, parts, token_counts
from rlgym.ssl.objectives.masked import Masked
from rlgym.ssl.objectives.next_token import NextToken
from tests.ssl.toy_model import ToyModel, ToyVocabulary, toy_ids

WORDS = ToyVocabulary()
COUNTS = np.array([0, 90, 90, 0, 5, 6, 50, 3, 1, 1, 1, 1, 1, 1, 1, 1])
ROWS, BLOCK = 8, 12


def next_token() -> NextToken:
    return NextToken(NextTokenConfig(), WORDS, COUNTS, seed=1)


def masked(rate: float = 0.3, fixed_shapes: bool = False, **knobs: Any) -> Masked:
    return Masked(MaskedConfig(rate=rate, **knobs), WORDS, COUNTS, seed=1, fixed_shapes=fixed_shapes)


def ids_and_documents(extra: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two documents `[CLS] ... [SEP]` of unequal lengths."""
    ids = toy_ids(ROWS, BLOCK + extra)
    documents = np.zeros(ids.shape, dtype=np.int32)
    for row in range(ROWS):
        cut = 2 + row % 5
        ids[row, [0, cut, cut + 1]] = 1, 2, 1
        documents[row, cut + 1 :] = 1
    return ids, documents


def batch_of(objective: Objective, step: int = 0, cut: int = 1, packed: bool = True) -> Batch:
    ids, documents = ids_and_documents(objective.extra)
    return objective.make(ids, documents if packed else None, step, cut)


def mean_loss(objective: Objective, model: ToyModel, batch: Batch) -> Tensor:
    """Back-propagates the parts of a batch; returns its mean loss."""
    model.zero_grad()
    losses: list[Tensor] = []
    for part in parts(batch):
        loss = objective.loss(model, part)[0] / part["total"]
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def gradients(model: ToyModel) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


# ---- next token


def test_next_token_loss_is_shifted_once() -> None:
    model, objective = ToyModel(), next_token()
    ids, _ = ids_and_documents(1)
    (part,) = parts(objective.make(ids, None, 0))
    loss, count = objective.loss(model, part)
    logits = model.logits(model(torch.from_numpy(ids)))
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), torch.from_numpy(ids)[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert count == part["total"] == ROWS * BLOCK


def test_every_token_is_a_label_the_ends_of_documents_too() -> None:
    objective = next_token()
    ids, documents = ids_and_documents(1)
    (part,) = parts(objective.make(ids, documents, 0))
    assert torch.equal(part["labels"], torch.from_numpy(ids[:, 1:])) and (part["labels"] == 2).sum() == ROWS
    assert torch.equal(part["documents"], torch.from_numpy(documents[:, :-1]))


def test_padding_leaves_loss_and_gradients_equal() -> None:
    model, objective = ToyModel(), next_token()
    (part,) = parts(batch_of(objective))
    loss, count = objective.loss(model, part)
    model.zero_grad()
    loss.backward()
    before = gradients(model)
    padded = dict(part)
    padded["tokens"] = F.pad(part["tokens"], (0, 3), value=0)
    padded["labels"] = F.pad(part["labels"], (0, 3), value=IGNORED)
    padded["documents"] = F.pad(part["documents"], (0, 3), value=-1)
    again, same = objective.loss(model, padded)
    model.zero_grad()
    again.backward()
    assert count == same
    torch.testing.assert_close(again, loss)
    for a, b in zip(gradients(model), before, strict=True):
        torch.testing.assert_close(a, b)


# ---- masked


def test_masked_loss_is_that_of_all_positions_where_labels_stand() -> None:
    """Against the plain form: logits everywhere, labels -100 where nothing is hidden; the head runs on few."""
    model, objective = ToyModel(causal=False), masked()
    ids, documents = ids_and_documents(0)
    (part,) = parts(objective.make(ids, documents, 3))
    labels = torch.full((ROWS * BLOCK,), IGNORED)
    real = part["labels"] != IGNORED
    labels[part["positions"][real]] = part["labels"][real]
    assert (labels.view(ROWS, BLOCK)[torch.from_numpy(ids) < 4] == IGNORED).all()
    seen = part["tokens"].flatten()
    assert (labels[seen != torch.from_numpy(ids).flatten()] != IGNORED).all()
    assert torch.equal(labels[labels != IGNORED], torch.from_numpy(ids).flatten()[labels != IGNORED])
    loss, count = objective.loss(model, part)
    assert model.head_rows == len(part["labels"]) < 0.6 * ids.size
    expected = F.cross_entropy(model.logits(model(part["tokens"], part["documents"])).flatten(0, 1), labels)
    torch.testing.assert_close(loss / count, expected)


def test_fixed_shapes_hide_the_same_and_cost_nothing_but_rows() -> None:
    model = ToyModel(causal=False)
    widths, found = set(), []
    for fixed in (False, True):
        objective = masked(0.15, fixed_shapes=fixed)
        for step in range(8):
            batch = batch_of(objective, step, cut=2)
            if fixed:
                widths.add(tuple(batch["labels"].shape))
            found.append((mean_loss(objective, model, batch), gradients(model)))
    assert len(widths) == 1
    for (loss, grads), (padded, others) in zip(found[:8], found[8:], strict=True):
        torch.testing.assert_close(loss, padded)
        for a, b in zip(grads, others, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("knobs", [{}, {"unit": "word"}, {"unit": "span"}])
def test_fixed_shapes_have_room_for_what_is_hidden(knobs: dict[str, Any]) -> None:
    ids = toy_ids(16, 256)
    loose, fixed = (Masked(MaskedConfig(**knobs), WORDS, COUNTS, 1, fixed) for fixed in (False, True))
    for step in range(40):
        assert (loose.make(ids, None, step)["labels"] != IGNORED).sum() == (
            fixed.make(ids, None, step)["labels"] != IGNORED
        ).sum()
    assert fixed.width(ids.size) < 0.45 * ids.size


def test_a_surplus_beyond_the_fixed_shape_is_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = masked(0.5, fixed_shapes=True)
    monkeypatch.setattr(Masked, "width", lambda self, tokens: 5)
    (part,) = parts(batch_of(objective))
    assert part["labels"].shape == (5,) and part["total"] == 5


def test_masks_depend_on_seed_step_and_stream_alone() -> None:
    ids, _ = ids_and_documents(0)
    objective = masked()
    first = objective.make(ids, None, 5)
    objective.make(ids, None, 6)
    again = masked().make(ids, None, 5)
    assert all(torch.equal(first[name], again[name]) for name in first)
    others = [
        objective.make(ids, None, 6),
        objective.make(ids, None, 5, held_out=True),
        Masked(MaskedConfig(), WORDS, COUNTS, seed=2).make(ids, None, 5),
    ]
    assert all(not torch.equal(first["tokens"], other["tokens"]) for other in others)


def test_a_batch_in_which_nothing_is_hidden_has_loss_zero() -> None:
    model, objective = ToyModel(causal=False), masked()
    (part,) = parts(objective.make(np.full((2, 4), 1), None, 0))
    loss, count = objective.loss(model, part)
    assert loss == 0 and count == 0 and part["total"] == 1


# ---- both


@pytest.mark.parametrize("objective", [next_token(), masked(), masked(fixed_shapes=True)])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(objective: Objective) -> None:
    """1 x 8 == 8 x 1: parts hold unequal numbers of labels, so that a mean of means would differ."""
    model = ToyModel(causal=objective.causal)
    whole = batch_of(objective, cut=1)
    loss, expected = mean_loss(objective, model, whole), gradients(model)
    labels = [int((labels != IGNORED).sum()) for labels in batch_of(objective, cut=8)["labels"]]
    assert isinstance(objective, NextToken) or len(set(labels)) > 1
    for cut in (2, 4, 8):
        torch.testing.assert_close(mean_loss(objective, model, batch_of(objective, cut=cut)), loss)
        for a, b in zip(gradients(model), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("objective", [next_token(), masked()])
def test_the_softmax_is_of_float32_under_autocast(objective: Objective) -> None:
    model = ToyModel(causal=objective.causal)
    (part,) = parts(batch_of(objective, packed=False))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, labels = objective.predict(model, part)  # type: ignore[attr-defined]
        loss, _ = objective.loss(model, part)
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    exact = F.cross_entropy(logits.double(), labels, ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("objective", [next_token(), masked()])
def test_metrics_by_hand(objective: Objective) -> None:
    """Over unequal batches, label by label; bits per byte leaves special tokens out of both sums."""
    model = ToyModel(causal=objective.causal)
    model.dropout.p = 0.9
    ids, documents = ids_and_documents(objective.extra)
    batches = [objective.make(ids[a:b], documents[a:b], 0, held_out=True) for a, b in ((0, 5), (5, 8))]
    found = objective.evaluate(model, iter(batches))
    assert model.training
    model.eval()
    nats = text_nats = 0.0
    size = right = unigram = count = 0
    commonest = 1 if objective.causal else 6  # [CLS] is the commonest of all tokens, 6 of what can be hidden
    for batch in batches:
        (part,) = parts(batch)
        logits = model.logits(model(part["tokens"], part["documents"])).flatten(0, 1).detach().double()
        where = part.get("positions", torch.arange(len(logits)))
        for at, label in zip(where.tolist(), part["labels"].flatten().tolist(), strict=True):
            if label == IGNORED:
                continue
            loss = -float(logits[at].log_softmax(-1)[label])
            nats, count = nats + loss, count + 1
            size += int(WORDS.token_bytes[label])
            text_nats += loss if label >= 4 else 0.0
            right += int(logits[at].argmax()) == label
            unigram += label == commonest
    expected = {
        "loss": nats / count,
        "perplexity": math.exp(nats / count),
        "bits_per_byte": text_nats / math.log(2) / size,
        "accuracy": right / count,
        "unigram_accuracy": unigram / count,
        "tokens": count,
        "bytes": size,
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_uniform_predictions_have_the_entropy_of_the_vocabulary() -> None:
    model, objective = ToyModel(), next_token()
    with torch.no_grad():
        model.wte.weight.zero_()
    found = objective.evaluate(model, [batch_of(objective)])
    assert found["loss"] == pytest.approx(math.log(16)) and found["perplexity"] == pytest.approx(16)


def test_no_held_out_text_is_no_number() -> None:
    assert all(math.isnan(next_token().evaluate(ToyModel(), [])[name]) for name in ("loss", "bits_per_byte"))


def test_token_counts_are_exact_and_for_long_text_spread_evenly() -> None:
    ids = toy_ids(1, 1 << 21)[0].astype(np.uint16)
    assert (token_counts(ids, 20) == np.bincount(ids, minlength=20)).all()
    rising = np.arange(1 << 21, dtype=np.uint32) >> 15  # 64 tokens, each a 64th of the text
    assert (token_counts(rising, 64, most=1 << 16) == 1 << 10).all()
