"""Preparations of text that end early: a full disk, a kill, damaged files in the cache."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlgym.cli.main import main
from rlgym.ssl.data import cache as cache_module
from tests.command.conftest import Answer
from tests.faults.helpers import ENVIRONMENT, files, refused, rows, tensors
from tests.ssl import tiny
from tests.ssl.corpora import staging

CORPUS = ["tokenizer=byte", "batch_size=4", "model=gpt_nano", "tokens=512", *tiny.SHAPE, *tiny.QUICK]


def same_result(first: Path, second: Path) -> None:
    last = "step_512"
    one, other = (tensors(run / "checkpoints" / last) for run in (first, second))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert rows(first) == rows(second)
    facts = [json.loads((run / "manifest.json").read_text())["data"] for run in (first, second)]
    assert facts[0] == facts[1]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in ("data_card.md",))


def prepared(folder: Path) -> dict[str, bytes]:
    """What is in the cache but not what was found where and when."""
    return {str(p.relative_to(folder)): content for p, content in files(folder).items() if "sources" not in p.parts}


@pytest.fixture
def fresh(here: Path) -> tuple[Path, Path, list[str]]:
    """A finished run, the cache that it made, and its words without the folder."""
    text = tiny.write_text(here / "text")
    words = ["pretrain", *tiny.words(text, "model=gpt_nano", "tokens=512", "tokenizer=bpe", "tokenizer.vocab_size=290")]
    with tiny.cache(here / "fresh-cache") as folder:
        assert main([*words, "run.dir=fresh"]) == 0
    return here / "fresh", folder, words


@pytest.mark.parametrize("most", ["documents.bin", "tokenizer.json", "train.bin"])
def test_a_full_disk_during_preparation_is_one_line(
    most: str, fresh: tuple[Path, Path, list[str]], here: Path, own_cache: Path, rlgym: Callable[..., Answer]
) -> None:
    """A limit on the size of files, which this file is the first to meet."""
    run, made, words = fresh
    sizes = {path.name: path.stat().st_size for path in made.rglob("*") if path.is_file()}
    if most == "train.bin":  # tokens take as much as the text, where a token is a byte and takes two; it is the largest
        words = [word for word in words if not word.startswith("tokenizer")] + ["tokenizer=byte"]
        with tiny.cache(here / "fresh-cache"):
            assert main([*words, "run.dir=bytes"]) == 0
        run = here / "bytes"
        limit = int(1.2 * sizes["documents.bin"])
    else:
        limit = sizes[most] - 100
    assert most != "tokenizer.json" or limit > sizes["documents.bin"]
    process = subprocess.run(
        [sys.executable, "-m", "rlgym", *words, "run.dir=broken"],
        cwd=here,
        env=ENVIRONMENT | {"RLGYM_CACHE": str(own_cache)},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    answer = Answer(process.returncode, process.stdout, process.stderr)
    refused(answer, f"prepared data cannot be written to {own_cache}", "make room there, or choose data.cache=FOLDER")
    assert not (here / "broken").exists() and staging(own_cache) == []
    assert not any(path.name == most for path in own_cache.rglob("*"))
    assert main([*words, "run.dir=again"]) == 0
    same_result(run, here / "again")


def test_a_disk_that_is_full_from_the_first_byte(
    here: Path, own_cache: Path, rlgym: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tiny.write_text(here / "text")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "_fsync", full)
    answer = rlgym("pretrain", *tiny.words(text, "model=gpt_nano", "tokens=512"))
    refused(answer, f"prepared data cannot be written to {own_cache}", "(No space left on device)")
    assert staging(own_cache) == [] and [path.name for path in here.iterdir()] == ["text"]


DYING = """
import os, signal, sys
from rlgym.ssl.data import cache, corpus
import rlgym.cli.main

real, deaths = cache.move_in, int(sys.argv[1])

def deadly(work, folder):
    global deaths
    if deaths == 0:
        files = sorted((f for f in work.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
        with files[-1].open("r+b") as file:
            file.truncate(files[-1].stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    deaths -= 1
    real(work, folder)

cache.move_in = corpus.move_in = deadly
sys.exit(rlgym.cli.main.main(sys.argv[2:]))
"""
"""Dies with its n-th folder half-written, just before it would take its place."""


@pytest.mark.parametrize("folder", ["corpora", "tokenizers", "tokens"])
def test_a_preparation_killed_midway_is_begun_anew(
    folder: str, fresh: tuple[Path, Path, list[str]], here: Path, own_cache: Path
) -> None:
    run, made, words = fresh
    deaths = ["corpora", "tokenizers", "tokens"].index(folder)
    process = subprocess.run(
        [sys.executable, "-c", DYING, str(deaths), *words, "run.dir=broken"],
        cwd=here,
        env=ENVIRONMENT | {"RLGYM_CACHE": str(own_cache)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not (here / "broken").exists()
    (left,) = [path for path in staging(own_cache) if path.name.startswith(".staging-")]
    assert left.parent.name == folder, "this is what it died over"
    assert main([*words, "run.dir=again"]) == 0
    same_result(run, here / "again")
    assert staging(own_cache) == [], "what the dead left is gone"
    assert prepared(own_cache) == prepared(made)


def test_damaged_preparations_are_not_used(fresh: tuple[Path, Path, list[str]], here: Path, own_cache: Path) -> None:
    """Files cut to half or gone, as after a crash of the machine itself: made anew, and the run is the same."""
    run, made, words = fresh
    for name in ("documents.bin", "held_out.npy", "train.bin", "validation_starts.npy", "facts.json"):
        shutil.rmtree(own_cache)
        shutil.copytree(made, own_cache)
        (file,) = own_cache.rglob(name)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        again = here / f"after-{name}"
        assert main([*words, f"run.dir={again}"]) == 0
        same_result(run, again)
        assert prepared(own_cache) == prepared(made)
