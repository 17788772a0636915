"""A gigabyte of text to tokens on the disk, beside what `tokenizers` alone does on the same pieces and cores.

    python benchmarks/tokens.py                    # about a quarter of an hour
    python benchmarks/tokens.py --gigabytes 0.1

The text is the standard library's own, over and over, each file under a line that counts. This program's time is all of
what prepares a corpus but for reading and cleaning it; beside it the clock runs inside `encode_batch_fast` only. Turns
alternate, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlgym.config.compose import compose
from rlgym.ssl.data.build_tokenizer import build_tokenizer
from rlgym.ssl.data.corpus import Corpus, build_corpus
from rlgym.ssl.data.progress import silent
from rlgym.ssl.data.stdlib_source import library_files
from rlgym.ssl.data.tokenizer import Tokenizer
from rlgym.ssl.data.tokens import _batches as batches_of_pieces
from rlgym.ssl.data.tokens import tokenize as tokenize_corpus

SEPARATOR = "<|next|>\n"


def tokenize(given: argparse.Namespace, folder: Path) -> None:
    file = folder / "corpus.txt"
    written = write_large(file, int(given.gigabytes * 1e9))
    os.utime(file, (time.time() - 60,) * 2)  # settled: what was read is remembered
    config = compose(["data=text", "tokenizer=bpe", "tokenizer.training_bytes=10_000_000"], "pretrain")
    config.data.path, config.data.separator, config.data.cache = [str(file)], SEPARATOR, str(folder / "cache")
    began = time.perf_counter()
    corpus = build_corpus(config.data, silent)
    reading = time.perf_counter() - began
    build_tokenizer(config.tokenizer, corpus, True, silent).save(folder / "tokenizer")
    facts = corpus.facts
    print(
        f"{written / 1e9:.2f} GB, {facts['documents']:,} documents, {facts['duplicates']} dropped as duplicates;",
        end=" ",
    )
    print(f"read and cleaned in {reading:.0f} s. BPE of {config.tokenizer.vocab_size:,}, {given.threads} thread(s).\n")
    found: dict[str, list[dict[str, float]]] = {"ours": [], "alone": []}
    for number in range(given.repeats):
        for who in ("ours", "alone") if number % 2 == 0 else ("alone", "ours"):
            environment = {**os.environ, "RAYON_NUM_THREADS": str(given.threads), "TOKENIZERS_PARALLELISM": "true"}
            words = [sys.executable, __file__, "--measure", who, str(folder)]
            answer = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found[who].append(json.loads(answer.stdout.splitlines()[-1]))
            print(f"{number + 1}/{given.repeats} {who}: {found[who][-1]}", file=sys.stderr)
    assert len({turn["tokens"] for turns in found.values() for turn in turns}) == 1, "the same tokens"
    print("| | s | MB/s | tokens/s | peak MB (before) |\n|---|---|---|---|---|")
    for who, name in (("ours", "this program, to the disk"), ("alone", "`encode_batch_fast` alone")):
        seconds = [turn["seconds"] for turn in found[who]]
        median = statistics.median(seconds)
        peak, before = (max(turn[key] for turn in found[who]) for key in ("peak", "before"))
        speed = f"{facts['bytes'] / median / 1e6:.1f} | {found[who][0]['tokens'] / median:,.0f}"
        print(
            f"| {name} | {median:.1f} ({min(seconds):.1f}-{max(seconds):.1f}) | {speed} | {peak:,.0f} ({before:,.0f}) |"
        )
    shares = [a["seconds"] / b["seconds"] for a, b in zip(found["alone"], found["ours"], strict=True)]
    spread = f"{min(shares):.0%}-{max(shares):.0%} over {len(shares)} pairs"
    print(f"\n{statistics.median(shares):.0%} of the encoder's speed ({spread})")


def write_large(file: Path, size: int) -> int:
    """The standard library's sources over and over, each time under a line that counts, until `size` bytes."""
    texts = []
    for path in library_files(Path(sysconfig.get_path("stdlib"))):
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
    texts = [text for text in texts if "\0" not in text and SEPARATOR not in text]
    written = copy = 0
    with file.open("w", encoding="utf-8") as out:
        while written < size:
            copy += 1
            for number, text in enumerate(texts):
                part = f"# copy {copy} of {number}\n{text}{SEPARATOR}"
                out.write(part)
                written += len(part.encode())
                if written >= size:
                    break
    return written


def measure(who: str, folder: Path) -> None:
    """One tokenising of the prepared corpus, in this process."""
    config = compose(["data=text"], "pretrain")
    config.data.path, config.data.separator = [str(folder / "corpus.txt")], SEPARATOR
    config.data.cache = str(folder / "cache")
    corpus, tokenizer = build_corpus(config.data, silent), Tokenizer.load(folder / "tokenizer")
    before = peak_mb()
    if who == "ours":
        for place in (folder / "cache").glob("tokens"):
            place.rename(folder / f"tokens-{time.time_ns()}")  # an earlier turn's
        began = time.perf_counter()
        parts = tokenize_corpus(corpus, tokenizer, True, silent)
        seconds = time.perf_counter() - began
        tokens = sum(len(part.ids) for part in parts) - len(corpus.held_out) - 2  # without the ends of text
    else:
        seconds, tokens = encode_alone(corpus, tokenizer)
    print(json.dumps({"seconds": seconds, "tokens": tokens, "peak": peak_mb(), "before": before}))


def encode_alone(corpus: Corpus, tokenizer: Tokenizer) -> tuple[float, int]:
    """The clock runs inside the encoder only: not while pieces are read, nor while what it made is freed."""
    seconds, tokens = 0.0, 0
    for held_out in (False, True):
        for batch in batches_of_pieces(corpus, np.flatnonzero(corpus.held_out == held_out)):
            texts = [piece.text for piece in batch]
            began = time.perf_counter()
            encodings = tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)
            seconds += time.perf_counter() - began
            tokens += sum(map(len, encodings))
    return seconds, tokens


def peak_mb() -> float:
    """Of this process; on Linux what getrusage says may be its parent's, from before the program was loaded."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def main(words: Sequence[str]) -> None:
    if words[:1] == ["--measure"]:
        measure(words[1], Path(words[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="turns of each program")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--folder", default=None, help="for temporary files, up to five times the gigabytes")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        tokenize(given, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
