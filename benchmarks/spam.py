"""SMS spam from this program's own pretrained model, beside TF-IDF, and what pretraining brings.

    python benchmarks/spam.py sms_spam.tsv runs/spam                  # five seeds, two threads: about half an hour
    python benchmarks/spam.py sms_spam.tsv runs/spam --seeds 1 2

FILE is the SMS Spam Collection: label and text, by a tab, without header or quoting. With each seed a fifth of the
texts is held out; a small encoder is pretrained on the others alone, without their labels; it and the same shape with
random weights are fine-tuned on all their labels and on a twentieth of them. Every step is the real command, into a
folder of its own; what is there already is not run again. Accuracies are those of the last weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kept_runs import summary  # type: ignore[import-not-found]  # beside this
from turns import machine  # type: ignore[import-not-found]

from rlgym.ssl.config import CsvData
from rlgym.ssl.finetune.examples import read_table, same_text, split

PRETRAIN = [
    *("pretrain", "objective=masked", "model=modernbert_micro", "model.block_size=128", "optimizer=muon"),
    *("tokenizer=bpe", "tokenizer.vocab_size=1024", "data=jsonl", "tokens=1_200_000"),
]
TABLE = ["data=csv", "data.columns=[label,text]", "data.quoting=false"]
QUIET = ["display=quiet", "log.histograms=false"]
KINDS = {
    "pretrained": [],
    "random": ["adapt.init=random"],
    "pretrained, 5 %": ["method.label_share=0.05"],
    "random, 5 %": ["method.label_share=0.05", "adapt.init=random"],
}


def evaluated(folder: Path) -> dict[str, Any]:
    """The last evaluation of a run."""
    files = (folder / "evaluations").glob("step_*.json")
    found: dict[str, Any] = json.loads(max(files, key=lambda path: int(path.stem.split("_")[1])).read_text())
    return found


def training_texts(file: Path, seed: int, out: Path) -> None:
    """Write the texts that `finetune seed=...` learns from, as JSON lines without labels."""
    rows = read_table(CsvData(path=[str(file)], columns=["label", "text"], quoting=False)).rows
    texts, labels = ([str(row.values[name]) for row in rows] for name in ("text", "label"))
    held = split([same_text(text) for text in texts], 0.2, seed, labels)
    lines = [json.dumps({"text": text}) for text, away in zip(texts, held, strict=True) if not away]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")


def spread(values: list[float], form: str = "{:.2f}") -> str:
    return f"{form.format(np.mean(values))} ({form.format(min(values))}-{form.format(max(values))})"


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path, help="where the runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    given = parser.parse_args(words)
    file, folder = given.file.resolve(), given.folder.resolve()
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in ("pretraining", *KINDS)}
    for seed in given.seeds:
        texts = folder / f"texts_{seed}.jsonl"
        training_texts(file, seed, texts)
        parent = folder / f"parent_{seed}"
        found = summary([*PRETRAIN, f"data.path={texts}", f"seed={seed}", *QUIET], parent)
        seconds["pretraining"].append(found["wall_time_s"])
        for kind, words in KINDS.items():
            run = folder / f"{kind.replace(', ', '_').replace(' %', '')}_{seed}"
            begin = ["finetune", f"init_from={parent}", *TABLE, f"data.path={file}", f"seed={seed}", *words, *QUIET]
            seconds[kind].append(summary(begin, run)["wall_time_s"])
            rows[kind].append(evaluated(run))
            print(f"seed {seed}, {kind}: {100 * rows[kind][-1]['validation/accuracy']:.2f}", file=sys.stderr)
    print(f"{machine()}\n\nseeds {given.seeds}; means (least-most)\n")
    print("| | accuracy, % | macro-F1 | s | TF-IDF: accuracy | macro-F1 | difference, points, by seed (95 %) |")
    print("|---|---|---|---|---|---|---|")
    print(f"| pretraining | | | {spread(seconds['pretraining'], '{:.0f}')} | | | |")
    for kind, found_rows in rows.items():
        cheap = [next(v for k, v in row["baselines"].items() if k.startswith("TF-IDF")) for row in found_rows]
        gains = [f"{100 * b['gain']:+.2f} ({100 * b['gain_low']:+.2f} to {100 * b['gain_high']:+.2f})" for b in cheap]
        print(
            f"| {kind} | {spread([100 * row['validation/accuracy'] for row in found_rows])}"
            f" | {spread([row['validation/macro_f1'] for row in found_rows], '{:.4f}')}"
            f" | {spread(seconds[kind], '{:.0f}')} | {spread([100 * b['accuracy'] for b in cheap])}"
            f" | {spread([b['macro_f1'] for b in cheap], '{:.4f}')} | {', '.join(gains)} |"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
