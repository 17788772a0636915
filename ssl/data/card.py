"""Writes a data card: a corpus's contents and source, and what was left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlgym.ssl.data.corpus import Corpus

EXAMPLES = 3
LENGTH = 300
"""Characters of an example to show."""


def card(corpus: Corpus, tokens: Mapping[str, int], overlap: Mapping[str, Any]) -> str:
    """The card as Markdown. `tokens`: {"train": n, "validation": m}; `overlap`: result of `rlgym.ssl.data.overlap`."""
    facts = corpus.facts
    sizes = np.diff(corpus.starts)
    held = corpus.held_out
    origin = facts["source"] + (f", revision {facts['revision']}" if facts["revision"] else "")
    lines = [
        "# Corpus",
        "",
        f"- Source: {origin}",
        f"- Licence: {facts['licence'] or 'not given'}",
        f"- Fingerprint: `{corpus.fingerprint}`",
        "",
        "| | documents | bytes | tokens |",
        "|---|---:|---:|---:|",
    ]
    for name, chosen in (("train", ~held), ("validation", held)):
        count = f"{tokens[name]:,}" if name in tokens else ""
        lines.append(f"| {name} | {int(chosen.sum()):,} | {int(sizes[chosen].sum()):,} | {count} |")
    lines += ["", "## Cleaning", "", *_cleaning(facts), "", "## Split", "", *_split(facts, overlap), "", "## Examples"]
    for index in _evenly(corpus):
        lines += ["", *_fenced(_begin(corpus, index))]
    return "\n".join(lines) + "\n"


def _cleaning(facts: Mapping[str, Any]) -> list[str]:
    form = facts["normalize"]
    lines = [f"- Unicode: {'as it is' if form == 'none' else f'normalised to {form}'}"]
    if facts["deduplicate"]:
        lines.append(f"- Dropped as exact duplicates of another document: {facts['duplicates']:,}")
    else:
        lines.append("- Exact duplicates are kept")
    least = facts["min_length"]
    short = "empty" if least <= 1 else f"shorter than {least} characters"
    lines.append(f"- Dropped as {short}: {facts['too_short']:,}")
    bad = f"- Left out as unreadable: {facts['bad']:,} {facts['bad_unit']}{'' if facts['bad'] == 1 else 's'}"
    return [*lines, bad + (f" (the first: {facts['first_bad']})" if facts["first_bad"] else "")]


def _split(facts: Mapping[str, Any], overlap: Mapping[str, Any]) -> list[str]:
    way = "the last part of the only document" if facts["cut"] else "whole documents, chosen by their hash"
    share = facts["held_out_bytes"] / facts["bytes"]
    sample = f" (a sample of {overlap['sampled']:.2%})" if overlap["sampled"] < 1 else ""
    return [
        f"- Held out for validation: {share:.2%} of the bytes; {way}",
        f"- Runs of 13 words in the validation text: {overlap['ngrams']:,}{sample}",
        f"- Of these also in the training text: {overlap['shared']:,} ({overlap['share']:.2%}), "
        f"in {overlap['documents']:,} of the validation documents",
    ]


def _evenly(corpus: Corpus) -> list[int]:
    """Evenly spread training documents."""
    train = np.flatnonzero(~corpus.held_out)
    picked = np.linspace(0, len(train) - 1, min(EXAMPLES, len(train))).round().astype(int)
    return [int(index) for index in train[picked]]


def _begin(corpus: Corpus, index: int) -> str:
    """The first characters of a document, without reading the rest."""
    begin, end = int(corpus.starts[index]), int(corpus.starts[index + 1])
    text = corpus.text[begin : min(end, begin + 4 * LENGTH)].tobytes().decode(errors="ignore")
    return text[:LENGTH] + (" ..." if len(text) > LENGTH or end > begin + 4 * LENGTH else "")


def _fenced(text: str) -> list[str]:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(row) for row in re.findall("`+", text)), default=0))
    return [f"{fence}text", text.rstrip("\n"), fence]
