"""`evaluate RUN [data=...]`: loss of a finished language model on its held-out text, or on any other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rlgym.config import registry
from rlgym.config.effect import no_effect
from rlgym.config.parser import build
from rlgym.errors import RequestError
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import load
from rlgym.ssl.config import CsvData
from rlgym.ssl.data.blocks import Blocks
from rlgym.ssl.data.corpus import Corpus, build_corpus, check_separator
from rlgym.ssl.data.csv_source import first_row
from rlgym.ssl.data.documents import left_out
from rlgym.ssl.data.paths import find_files
from rlgym.ssl.data.progress import bar
from rlgym.ssl.data.sources import TABLES, kind_of
from rlgym.ssl.data.tokens import Tokens, tokenize
from rlgym.ssl.inference.language_model import LanguageModel
from rlgym.ssl.objectives.base import IGNORED, Batch, token_counts

ANY_KIND = ("column", "normalize")
FORMAT = (*ANY_KIND, "separator", "delimiter", "columns", "quoting")
"""Data settings about the format of the text; other data is read with those of training."""
NOT_JUDGED = ("packing", "validation_fraction", "licence")
"""Data settings that only matter in training."""


def evaluate(folder: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Compute loss, perplexity and bits per byte of the run's `checkpoint` on a corpus; for masked models also
    accuracy.

    Writes evaluations/*.json with `{"loss", "perplexity", "bits_per_byte", "tokens", ...}`, prints a summary, and
    returns the result.
    """
    config = load_config(folder, trust=words["trust"])
    model: LanguageModel = load(Run(folder), words["checkpoint"], words["device"], words["trust"])
    chosen = words["data"] or "held_out"
    data = data_config(config.data, words["data"], words["settings"])
    refuse_idle(words["settings"])
    with bar() as report:
        corpus = build_corpus(data, report)
        if "separator" in words["settings"]:
            check_separator(corpus, data)
        if model.causal:
            found = evaluate_causal(
                model, _documents(corpus, held_out=chosen == "held_out"), words["tokens"], words["batch_size"]
            )
        else:
            found = evaluate_masked(
                model, config, corpus, chosen == "held_out", words["tokens"], words["batch_size"], report
            )
    result = {**found, "data": chosen, "fingerprint": corpus.fingerprint, "checkpoint": words["checkpoint"]}
    shown = ("loss", "perplexity", "bits_per_byte", "accuracy", "unigram_accuracy")
    numbers = "  ".join(f"{name} {result[name]:.4g}" for name in shown if name in result)
    facts = corpus.facts
    bad = left_out(facts["bad"], facts["first_bad"], facts["bad_unit"]) if words["data"] and data.bad == "skip" else ""
    print(f"{numbers}  over {result['tokens']:,.0f} tokens, {result['bytes']:,.0f} bytes{bad}")
    Run(folder).keep_evaluation(result, chosen.replace("/", "-")[-40:])
    return result


def data_config(own: Any, name: str, settings: dict[str, str], tables: bool = False) -> Any:
    """The corpus config for the given options: a named corpus, a file, or the run's own. `tables`: it must be a table.
    A file's kind follows from its extension if training's data is a table; settings in `FORMAT` default to those of
    training.
    """
    if not name:
        if settings:
            raise RequestError(f"data.{next(iter(settings))} needs data=NAME, as in data=text data.path=corpus.txt")
        return own
    path = Path(name).expanduser()
    if path.exists() and "path" not in settings:
        by_name = kind_of(path) if tables or isinstance(own, TABLES) else ""
        name, settings = by_name or (own.name if tables else "text"), {"path": str(path), **settings}
    cls = registry.resolve(registry.entry("data", name).config)
    kept = FORMAT if own.name == name else ANY_KIND
    taken = {f.name: getattr(own, f.name) for f in fields(cls) if f.name in kept and hasattr(own, f.name)}
    if ".tsv" in settings.get("path", "").lower():
        taken.pop("delimiter", None)  # the extension implies tabs
    config = build(cls, {"name": name, **taken, **settings}, "data")
    if taken.get("columns") and "columns" not in settings and _has_header(config):
        config.columns = []
    return config


def refuse_idle(settings: Mapping[str, str]) -> None:
    """RequestError for a corpus setting that only matters in training."""
    for key in NOT_JUDGED:
        if key in settings:
            raise no_effect(f"data.{key}", settings[key], "all of the text is evaluated, read as in training")


def _has_header(config: CsvData) -> bool:
    """Whether the first file begins with column names."""
    files = find_files(config.path, (".csv", ".tsv"))
    return bool(set(first_row(files[0], config)) & set(config.columns))


def _documents(corpus: Corpus, held_out: bool) -> Iterator[str]:
    """The held-out documents, or all; a single document that was split is joined again."""
    if not held_out and corpus.facts["cut"]:
        yield corpus.text[:].tobytes().decode()
        return
    for index in range(len(corpus.held_out)):
        if corpus.held_out[index] or not held_out:
            yield corpus.document(index)


# ---- next-token


def evaluate_causal(
    model: LanguageModel, documents: Iterator[str], limit: int | None, batch_size: int
) -> dict[str, Any]:
    """Predict every token of every document once, with as much context as the block allows. Windows as in lm-eval's
    `loglikelihood_rolling`: disjoint, each conditioned on the token before it (initially the document's first token),
    the last one extended to the left. Bits per byte divides the sum over all documents by the bytes of their text.
    """
    nats, right, tokens, size, count = 0.0, 0, 0, 0, 0
    rows: list[tuple[list[int], list[int]]] = []

    def flush() -> None:
        nonlocal nats, right
        if rows:
            loss, hits = _score(model, rows)
            nats, right = nats + loss, right + hits
            rows.clear()

    for text in documents:
        if limit is not None and tokens >= limit:
            break
        ids = model.tokenizer.encode(text)
        if limit is not None and tokens + len(ids) > limit:
            ids = ids[: limit - tokens]
            text = model.tokenizer.decode(ids)
        count, tokens, size = count + 1, tokens + len(ids), size + len(text.encode())
        for window in windows(ids, model.tokenizer.bos_id, model.model.block_size):
            rows.append(window)
            if len(rows) == batch_size:
                flush()
    flush()
    if not tokens:
        raise RequestError("data: there is no text to evaluate")
    loss = nats / tokens
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_byte": nats / math.log(2) / size,
        "accuracy": right / tokens,
        "tokens": tokens,
        "bytes": size,
        "documents": count,
    }


def windows(ids: list[int], prefix: int, length: int) -> Iterator[tuple[list[int], list[int]]]:
    """(inputs, labels) of at most `length` tokens; labels are IGNORED where another window predicts the token."""
    whole = [prefix, *ids]
    for begin in range(0, len(ids), length):
        end = min(begin + length, len(ids))
        first = max(0, end - length)  # the last window extends further back: more context for the same cost
        yield whole[first:end], [IGNORED] * (begin - first) + ids[begin:end]


@torch.inference_mode()
def _score(model: LanguageModel, rows: list[tuple[list[int], list[int]]]) -> tuple[float, int]:
    """Nats and hits over the labels of some windows; shorter ones are right-padded."""
    length = max(len(inputs) for inputs, _ in rows)
    tokens = torch.tensor([i + [model.tokenizer.pad_id] * (length - len(i)) for i, _ in rows], device=model.device)
    labels = torch.tensor([y + [IGNORED] * (length - len(y)) for _, y in rows], device=model.device)
    logits = model.model.logits(model.model(tokens)).float()
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    hits = (logits.argmax(-1) == labels).sum()
    return float(loss.double().sum()), int(hits)


# ---- masked


def evaluate_masked(
    model: LanguageModel, config: Any, corpus: Corpus, held_out: bool, limit: int | None, batch_size: int, report: Any
) -> dict[str, Any]:
    """The objective's metrics over all blocks of the text, masked with a seed not used in training."""
    training, validation = tokenize(corpus, model.tokenizer, False, report)
    tokens = validation if held_out else _joined(training, validation)
    cls = registry.resolve(registry.entry("objective", config.objective.name).target)
    counts = token_counts(training.ids, model.tokenizer.vocab_size)
    objective = cls(config.objective, model.tokenizer, counts, config.seed)
    length = model.model.block_size
    enough = min(len(tokens.ids), len(tokens.ids) if limit is None else limit)
    if enough < length:
        raise RequestError(
            f"data: {enough:,} tokens are fewer than one block of {length:,}, which the model reads at once"
        )
    blocks = Blocks(tokens, length, objective.extra, config.data.packing == "documents")
    count = min(len(blocks), enough // length)

    def batches() -> Iterator[Batch]:
        for number, at in enumerate(range(0, count, batch_size)):
            ids, documents = blocks.gather(np.arange(at, min(at + batch_size, count)))
            batch = objective.make(ids, documents, number, held_out=True)
            yield {name: tensor.to(model.device) for name, tensor in batch.items()}

    found: dict[str, Any] = objective.evaluate(model.model, batches())
    return found


def _joined(training: Tokens, validation: Tokens) -> Tokens:
    """Both parts of another corpus, as none of it was trained on."""
    return Tokens(
        np.concatenate([training.ids, validation.ids]),
        np.concatenate([training.starts, len(training.ids) + validation.starts]),
        training.text_bytes + validation.text_bytes,
    )
