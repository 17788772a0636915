"""The recipes for text reach what docs/results.md says, through the real command line (slow: `make test-all`).

The Shakespeare recipes need their corpus: RLGYM_SHAKESPEARE=tinyshakespeare.txt.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlgym
from rlgym.run_folder.config_file import load_config
from rlgym.ssl.data.corpus import build_corpus
from rlgym.ssl.data.progress import silent
from tests.learning.python_lines import is_python, is_python_or_begins_it, lines_of, share

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
SHAKESPEARE = os.environ.get("RLGYM_SHAKESPEARE", "")
with_shakespeare = pytest.mark.skipif(not SHAKESPEARE, reason="RLGYM_SHAKESPEARE=FILE gives the corpus")


def pretrain(folder: Path, *words: str) -> dict[str, Any]:
    """What `python -m rlgym pretrain` says of its run at the end."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "rlgym", "pretrain", f"run.dir='{folder}'", "display=quiet", *words]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


@with_shakespeare
def test_reference_recipe_is_nanogpts(tmp_path: Path) -> None:
    words = ("experiment=shakespeare_char_reference", f"data.path='{SHAKESPEARE}'")
    found = pretrain(tmp_path / "run", *words)
    assert found["steps"] == 1_536_000
    assert found["final"]["validation/loss"] == pytest.approx(1.886, abs=0.02)


@with_shakespeare
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_own_recipe_learns_more_from_the_same_tokens(seed: int, tmp_path: Path) -> None:
    words = ("experiment=shakespeare_char", f"data.path='{SHAKESPEARE}'", f"seed={seed}")
    found = pretrain(tmp_path / "run", *words)
    assert found["steps"] == 1_536_000
    assert sum(w.numel() for w in rlgym.load(tmp_path / "run").model.parameters()) <= 810_000
    assert found["final"]["validation/loss"] <= 1.62


def test_the_bare_command_writes_python(tmp_path: Path) -> None:
    found = pretrain(tmp_path / "run")
    assert found["final"]["validation/bits_per_byte"] <= 2.2
    language = rlgym.load(tmp_path / "run")
    texts = [text for seed in range(10) for text in language.generate([""] * 16, seed=seed)]
    sampled = drawn(lines_of(texts), 200)  # lines of one document pass or fail together
    real = held_out_lines(tmp_path / "run")
    figures = {check.__name__: (share(sampled, check), share(real, check)) for check in CHECKS}
    print("sampled lines, real ones:", figures)
    assert share(sampled) >= 0.8, figures


def test_masked_model_beats_twice_the_unigram(tmp_path: Path) -> None:
    found = pretrain(tmp_path / "run", "objective=masked", "model=bert_mini", "minutes=10")["final"]
    assert found["validation/accuracy"] >= 2 * found["validation/unigram_accuracy"] > 0


CHECKS = (is_python, is_python_or_begins_it)


def held_out_lines(run: Path, count: int = 8_000) -> list[str]:
    """As many lines of the standard library's held-out files, drawn at random."""
    corpus = build_corpus(load_config(run).data, silent)
    return drawn(lines_of([corpus.document(int(i)) for i in np.flatnonzero(corpus.held_out)]), count)


def drawn(lines: list[str], count: int) -> list[str]:
    """`count` of the lines at random, or all."""
    chosen = np.random.default_rng(0).choice(len(lines), size=min(count, len(lines)), replace=False)
    return [lines[int(i)] for i in chosen]
