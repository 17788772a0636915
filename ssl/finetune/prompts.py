"""Prompts for rewarded methods: the user's own, or built-in ones. By default, headers of functions from documents held
out in pretraining, to be completed; with reward=arithmetic, and after pretraining on data=additions, exercises.
"""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from rlgym.common.atomic_io import read_json, to_json
from rlgym.config.effect import refuse_given
from rlgym.config.schema import PretrainConfig
from rlgym.errors import RequestError
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.folder import Run, find_run
from rlgym.run_folder.records import expect
from rlgym.ssl.config import AdditionsData, DataConfig, StdlibData
from rlgym.ssl.data.corpus import build_corpus
from rlgym.ssl.data.documents import Row
from rlgym.ssl.data.progress import silent
from rlgym.ssl.data.stdlib_source import functions
from rlgym.ssl.finetune import examples

if TYPE_CHECKING:
    from rlgym.config.schema import FinetuneConfig

FILE = "prompts.json"
"""File of prompts in the run folder, so that resume and evaluate need neither the parent nor the data."""
PROMPT_NAMES = ("prompt", "question", "instruction", "query", "text", "input")


@dataclass
class Prompts:
    train: list[str]
    held_out: list[str]
    source: str
    bad: int = 0
    """Number of unusable rows."""
    first_bad: str = ""

    def facts(self) -> dict[str, Any]:
        """For the manifest: {"fingerprint", "documents", "bytes", "held_out", "source", "bad", "first_bad"}."""
        every = [*self.train, *self.held_out]
        digest = hashlib.sha256(to_json([self.train, self.held_out]).encode()).hexdigest()
        size = sum(len(prompt.encode()) for prompt in every)
        found = {"fingerprint": digest, "documents": len(every), "bytes": size}
        found |= {"held_out": len(self.held_out), "source": self.source}
        return found | {"bad": self.bad, "first_bad": self.first_bad}

    def to_json(self) -> str:
        return to_json({"source": self.source, "train": self.train, "held_out": self.held_out})


class Kept(TypedDict):
    source: str
    train: list[str]
    held_out: list[str]


def read_prompts(folder: Path) -> Prompts:
    """Read the prompts of a run folder."""
    try:
        kept = expect(read_json(folder / FILE), Kept)
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder / FILE}: missing or damaged; restore the file") from error
    Run(folder).check_files(FILE)
    return Prompts(kept["train"], kept["held_out"], kept["source"])


def open_prompts(config: FinetuneConfig, check: Callable[[str], None]) -> Prompts:
    """Open the prompts of data=. RequestError if there are none, or too few for a held-out split. `check`: raises
    ValueError for an unusable prompt of the user."""
    if config.data.name != "default":
        return of_table(config, check)
    corpus = _corpus_of(config.init_from)
    if config.reward.name == "arithmetic" or isinstance(corpus, AdditionsData):
        refuse_given(config, "method", ("held_out",), "the exercises that pretraining held out are held out here, too")
        return of_additions(corpus)
    return of_functions(config, corpus)


def of_table(config: FinetuneConfig, check: Callable[[str], None]) -> Prompts:
    method = config.method
    table = examples.read_table(config.data)
    column = examples.column(table, method.prompt, "method.prompt", PROMPT_NAMES, examples.looks_like_text)
    below = "" if method.prompt else examples.input_column(table, column)

    def read(row: Row) -> str:
        text = examples.with_input(row.values, column, below)
        check(text)
        return text

    _, texts = examples.usable(table, read, config.data.bad)
    found = divided(list(dict.fromkeys(texts)), method.held_out, config.seed, table.name)
    return replace(found, bad=table.bad, first_bad=table.first_bad)


def of_functions(config: FinetuneConfig, data: DataConfig) -> Prompts:
    """Headers of functions in the text held out by the parent's pretraining."""
    corpus = build_corpus(data, silent)
    found: dict[str, None] = {}
    for index in np.flatnonzero(corpus.held_out).tolist():
        for source in functions(corpus.document(index)):
            if (text := header(source)) is not None:
                found.setdefault(text)
    if not found:
        raise RequestError(
            f"data=default: the text that {config.init_from} held out has no Python functions to complete; "
            "data=jsonl data.path=... takes prompts of your own"
        )
    name = f"headers of functions held out of {corpus.facts['source']}"
    return divided(list(found), config.method.held_out, config.seed, name)


def _corpus_of(init_from: str) -> DataConfig:
    """The run's corpus; for any other parent, the standard library."""
    try:
        parent = load_config(find_run(init_from).dir)
    except RequestError:
        return StdlibData()
    data = parent.data if isinstance(parent, PretrainConfig) else None
    return data if isinstance(data, DataConfig) else StdlibData()


def header(source: str) -> str | None:
    """A function's source up to the colon before its body, with decorators; None if the body is on that line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function = ast.parse(source).body[0]
        except (SyntaxError, ValueError, RecursionError, MemoryError, IndexError):
            return None
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    body = function.body[0]
    first = min(part.lineno for part in (body, *getattr(body, "decorator_list", [])))
    lines = source.splitlines()[: first - 1]
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    text = "\n".join(lines)
    return text if text.endswith(":") else None


def of_additions(data: DataConfig) -> Prompts:
    """Exercises like `12+34=`: the training and held-out ones of pretraining on data=additions."""
    corpus = build_corpus(data if isinstance(data, AdditionsData) else AdditionsData(), silent)
    prompts = [corpus.document(index).partition("=")[0] + "=" for index in range(len(corpus.held_out))]
    train, held = ([p for p, out in zip(prompts, corpus.held_out, strict=True) if out == side] for side in (0, 1))
    return Prompts(train, held, corpus.facts["source"])


def divided(prompts: list[str], share: float, seed: int, source: str) -> Prompts:
    """Split into training and held-out prompts; prompts that differ only in blanks and case stay on one side."""
    held = examples.split([examples.same_text(prompt) for prompt in prompts], share, seed)
    train, out = ([p for p, taken in zip(prompts, held, strict=True) if taken == side] for side in (False, True))
    return Prompts(train, out, source)
