"""Preference data: a prompt, the chosen and the rejected answer, as text and tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlgym.errors import RequestError
from rlgym.ssl.data.documents import Row, unknown_column
from rlgym.ssl.finetune import corruptions, examples, template

if TYPE_CHECKING:
    from rlgym.ssl.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Pair:
    prompt: str
    chosen: str
    rejected: str
    where: str = ""
    """Its row in the table."""
    margin: float = 0.0
    """How much better the chosen answer is, if the data have it."""
    kind: str = ""
    """For the default pairs: kind of corruption of the rejected answer."""


@dataclass(frozen=True)
class Tokens:
    """A prompt with each of its answers; the prompt's tokens are the first `prompt` of both."""

    chosen: list[int]
    rejected: list[int]
    prompt: int
    cut: bool
    """Whether an answer was truncated."""


@dataclass
class Pairs:
    pairs: list[Pair]
    tokens: list[Tokens]
    held: np.ndarray
    """bool `[pairs]`: held-out pairs; equal prompts are on one side."""
    source: str
    bad: int
    first_bad: str

    def facts(self) -> dict[str, Any]:
        """For the manifest: {"fingerprint", "documents", "bytes", "held_out", "cut", "source", "bad", "first_bad"}."""
        digest, size = hashlib.sha256(), 0
        for pair in self.pairs:
            content = repr((pair.prompt, pair.chosen, pair.rejected, pair.margin)).encode()
            digest.update(len(content).to_bytes(8, "little") + content)
            size += len(content)
        counts = {"documents": len(self.pairs), "bytes": size, "held_out": int(self.held.sum())}
        cut = sum(tokens.cut for tokens in self.tokens)
        found = {"fingerprint": digest.hexdigest(), **counts, "cut": cut, "source": self.source}
        return found | {"bad": self.bad, "first_bad": self.first_bad}


def open_pairs(data: Any, method: Any, seed: int, tokenizer: Tokenizer, longest: int) -> Pairs:
    """Read the pairs of `data=`, at most `longest` tokens each side. RequestError naming the first unusable row, unless
    data.bad=skip."""
    if data.name == "default":
        return _default(method, seed, tokenizer, longest)
    table = examples.read_table(data)
    keys = [key for key in ("prompt", "chosen", "rejected", "margin") if getattr(method, key, "")]
    for key in keys:
        name = getattr(method, key)
        if name not in table.columns:
            raise unknown_column(name, table.columns, table.name, f"method.{key}")

    chat = bool(getattr(method, "chat", False))

    def read(row: Row) -> tuple[Pair, Tokens]:
        pair = read_pair({key: row.values.get(getattr(method, key)) for key in keys}, row.where)
        return pair, tokenized(pair, tokenizer, longest, chat)

    _, found = examples.usable(table, read, data.bad)
    pairs, tokens = [pair for pair, _ in found], [tokens for _, tokens in found]
    held = examples.split([examples.same_text(pair.prompt) for pair in pairs], method.held_out, seed)
    return Pairs(pairs, tokens, held, table.name, table.bad, table.first_bad)


def _default(method: Any, seed: int, tokenizer: Tokenizer, longest: int) -> Pairs:
    """Default pairs from the standard library that fit into the model's block."""
    pairs, tokens, held, first = [], [], [], ""
    made = corruptions.corrupted_functions(method.held_out, seed)
    for each in made:
        function = each.function
        pair = Pair(function.header, function.body, each.body, function.where, kind=each.kind)
        try:
            found = tokenized(pair, tokenizer, longest, bool(getattr(method, "chat", False)))
        except ValueError as error:
            first = first or f"{pair.where}: {error}"
            continue
        pairs.append(pair)
        tokens.append(found)
        held.append(each.held)
    if len(set(held)) < (2 if method.held_out < 1 else 1):
        raise RequestError(f"data=default: no function of the library fits, the first: {first}")
    return Pairs(pairs, tokens, np.array(held), corruptions.NAME, len(made) - len(pairs), first)


def read_pair(values: dict[str, Any], where: str) -> Pair:
    """Build a pair from columns `prompt`, `chosen`, `rejected` and optionally `margin`; ValueError if invalid."""
    prompt = examples.value(values, "prompt", examples.as_string)
    chosen, rejected = (examples.value(values, key, examples.as_text) for key in ("chosen", "rejected"))
    if chosen == rejected:
        raise ValueError("chosen and rejected are equal: neither is better")
    margin = examples.value(values, "margin", examples.as_number) if "margin" in values else 0.0
    return Pair(prompt, chosen, rejected, where, margin)


def tokenized(pair: Pair, tokenizer: Tokenizer, longest: int, chat: bool = False) -> Tokens:
    """ValueError if the answers are equal after truncation."""
    (chosen, start, cut), (rejected, _, also) = (
        joined(pair.prompt, answer, tokenizer, longest, chat=chat) for answer in (pair.chosen, pair.rejected)
    )
    if chosen == rejected:
        raise ValueError(f"chosen and rejected are equal in the {longest:,} tokens that are read of them")
    return Tokens(chosen, rejected, start, cut or also)


def joined(
    prompt: str, answer: str, tokenizer: Tokenizer, longest: int, ended: bool = True, chat: bool = False
) -> tuple[list[int], int, bool]:
    """(tokens of prompt and answer, number of prompt tokens, whether the answer was cut), at most `longest`. Both are
    encoded separately, so that the prompt has the same tokens as in generation. Starts with the document's first token,
    and ends with the end of text if the answer `ended` and was not cut. ValueError if the prompt leaves no room.
    `chat`: frame both by the model's template, up to the end of the answer.
    """
    start = template.asked(tokenizer, prompt, chat)
    if len(start) >= longest:
        raise ValueError(
            f"the prompt has {len(start):,} tokens, which leave nothing to score of the {longest:,} that are read"
        )
    if chat:
        turns = [{"role": "user", "content": prompt}, {"role": template.ANSWERS, "content": answer}]
        whole = template.chat(tokenizer, turns).ids
    else:
        whole = start + tokenizer.encode(answer) + [tokenizer.eos_id] * ended
    return whole[:longest], len(start), len(whole) > longest


def calibration(predicted: np.ndarray, bins: int = 10) -> tuple[float, list[dict[str, float]]]:
    """(expected calibration error, reliability) of the predicted probabilities `[pairs]` that the chosen answers are
    better.

    For each pair the more likely answer is the prediction. Rows of the table: {"from", "to", "pairs", "confidence",
    "accuracy"}; empty ones are omitted (Guo et al. 2017, arXiv:1706.04599, equation 3).
    """
    sure = np.maximum(predicted, 1 - predicted)
    right = predicted > 0.5
    edges = np.linspace(0.5, 1.0, bins + 1)
    place = np.minimum(((sure - 0.5) * 2 * bins).astype(int), bins - 1)
    table, error = [], 0.0
    for i in range(bins):
        inside = place == i
        if count := int(inside.sum()):
            confidence, accuracy = float(sure[inside].mean()), float(right[inside].mean())
            error += count / len(predicted) * abs(confidence - accuracy)
            row = {"from": float(edges[i]), "to": float(edges[i + 1]), "pairs": count}
            table.append(row | {"confidence": confidence, "accuracy": accuracy})
    return error, table


def reliability_table(table: Sequence[dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| predicted preference | pairs | mean prediction | came true |", "|---|---:|---:|---:|"]
    for row in table:
        cells = f"{row['pairs']:,} | {row['confidence']:.1%} | {row['accuracy']:.1%}"
        lines.append(f"| {row['from']:.0%} to {row['to']:.0%} | {cells} |")
    return "\n".join(lines)


def by_kind(right: np.ndarray, kinds: Sequence[str]) -> dict[str, dict[str, float]]:
    """Kind of corruption -> {"accuracy", "pairs"}, from the correctly ranked pairs, `right` bool `[pairs]`."""
    found = {}
    for kind in sorted(set(kinds) - {""}):
        those = right[[i for i, own in enumerate(kinds) if own == kind]]
        found[kind] = {"accuracy": float(those.mean()), "pairs": len(those)}
    return found


def kind_table(kinds: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| rejected answer | pairs | accuracy |", "|---|---:|---:|"]
    return "\n".join([*lines, *(f"| {k} | {v['pairs']:,} | {v['accuracy']:.1%} |" for k, v in kinds.items())])
