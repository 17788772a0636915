"""Learning from text beside a plain torch loop and transformers' Trainer: the same model, optimiser, text and threads.

    python benchmarks/pretrain.py                           # every part, two threads: about an hour
    python benchmarks/pretrain.py small medium --rounds 20  # some of: small, medium, encoder, hf

small, medium: GPT-2 of 4 x 128 (block 64, 12 blocks a step) and 6 x 384 (block 256, 16 blocks), on characters. This
program is its real learner, data path included, at the precision and compilation it chooses; beside it a nanoGPT-style
loop in fp32 and bf16, eager and compiled, and `Trainer`. encoder: BERT of the same sizes, masked, beside `Trainer`. hf:
transformers' own modules in this program's loop, beside the ones written here.

Every program is a process of its own, which sleeps until its turn: a block of steps each, round after round, each round
begun by another, so that a machine whose speed drifts favours none. Times are medians over rounds (quartiles); a ratio
is the median over the rounds' pairs, with the 95 % bootstrap interval of that median. GFLOP/s count the model's
arithmetic as MFU does (the half of causal attention that nobody sees included); the ceiling is square matrix products
in a program's own precision, measured in every round. `Trainer` needs accelerate:
pip install -c constraints.txt -e ".[bench]".
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nanogpt import PlainGPT  # type: ignore[import-not-found]  # beside this script
from torch import Tensor, nn

from rlgym.config.compose import compose
from rlgym.ssl.models.precision import matrix_rate
from rlgym.ssl.models.transformers_model import TransformersBackbone
from rlgym.ssl.pretraining import Pretraining

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES = {"small": (4, 128, 4, 64, 12), "medium": (6, 384, 6, 256, 16)}  # layers, width, heads, block, blocks a step
DECODERS, ENCODERS = ("gpt2", "llama", "qwen3"), ("bert", "modernbert")
PLAIN = ("plain fp32 eager", "plain fp32 compiled", "plain bf16 eager", "plain bf16 compiled")
TRAINER = ("trainer fp32 eager", "trainer fp32 compiled", "trainer bf16 eager")
HOPELESS = 5.0
"""Times as slow as this program: such a setting, as bf16 without units for it, is measured once and set apart."""


# ---- a program: a process that answers each order, a number of steps, with the seconds they took


def orders() -> int:
    """The steps of the next turn; the process ends where nobody asks any more."""
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    return int(line)


def answer(**values: Any) -> None:
    sys.__stdout__.write(json.dumps(values) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def serve(step: Callable[[], object]) -> None:
    while True:
        steps = orders()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        answer(seconds=time.perf_counter() - began)


def run_program(name: str, size: str, family: str, text: Path, threads: int) -> None:
    """First what it is, as JSON, then a line for each order."""
    torch.set_num_threads(threads)
    learner = make_learner(size, family, text, threads)
    kind, precision, compiled = [*name.split(), "", ""][:3]
    # Where a precision has no units, one block instead of all: a step of them would take minutes.
    dtype, rows = DTYPES.get(precision, torch.float32), int(learner.config.batch_size or 1)
    if matrix_rate(CPU, dtype) * HOPELESS < matrix_rate(CPU, torch.float32):
        rows = 1
    facts = {
        "share": rows / int(learner.config.batch_size or 1),
        "tokens": learner.tokens_per_update,
        "flop": learner.tokens_per_update * learner.estimate.flops_per_token,
        "precision": precision or learner.config.precision,
        "chosen": f"{learner.config.precision}, compile={learner.config.compile}",
    }
    if kind == "ours":
        answer(parameters=count(learner.model), **facts)
        serve(learner.update)
    elif kind == "modules":
        other = with_their_modules(learner, size, family, text, threads)
        answer(parameters=count(other.model), **facts)
        serve(other.update)
    elif kind == "plain":
        model = plain_model(learner, size)
        answer(parameters=count(model), **facts)
        serve(plain_step(model, learner, rows, dtype, compiled == "compiled"))
    else:
        run_trainer(learner, rows, precision, compiled == "compiled", text.parent, facts)


def make_learner(
    size: str, family: str, text: Path, threads: int, edit: Callable[[Any], None] | None = None
) -> Pretraining:
    """The learner of `python -m rlgym pretrain` with these words. `edit` may change the config before it is built."""
    layers, width, heads, block, rows = SHAPES[size]
    objective = ["objective=masked", "objective.rate=0.15"] if family in ENCODERS else ["objective=next_token"]
    shape = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "block_size": block}
    words = [
        *(*objective, f"model={family}", "data=text", "tokenizer=char", "optimizer=adamw"),
        *(f"model.{key}={value}" for key, value in shape.items()),
        *("model.vocab_multiple=1", "tokenizer.byte_fallback=false", "data.packing=stream", "evaluate.tokens=4096"),
        *(f"batch_size={rows}", "tokens=10_000_000", f"threads={threads}", "device=cpu", "display=quiet"),
    ]
    config = compose(words, "pretrain")
    config.data.path, config.data.cache = [str(text)], str(text.parent / "cache")
    if edit is not None:
        edit(config)
    return Pretraining(config)


def with_their_modules(learner: Pretraining, size: str, family: str, text: Path, threads: int) -> Pretraining:
    """The same as `model=transformers model.model_type=...` with `+model.config.KEY=...`, from the same weights."""
    values = learner.model.configuration()

    def edit(config: Any) -> None:
        other = compose(["model=transformers", f"model.model_type={values['model_type']}"], "pretrain").model
        own = ("model_type", "architectures", "vocab_size")
        other.config = {key: value for key, value in values.items() if key not in own and value is not None}
        other.block_size, other.vocab_multiple = config.model.block_size, 1
        config.model, config.optimizer.learning_rate = other, 1e-3

    found = make_learner(size, family, text, threads, edit)
    model = found.model
    assert isinstance(model, TransformersBackbone)
    model.inner.load_state_dict(learner.model.to_transformers()[1], strict=False)
    model.inner.tie_weights()
    check_same(learner, lambda tokens: model.logits(model(tokens)))
    return found


def plain_model(learner: Pretraining, size: str) -> PlainGPT:
    layers, width, heads, block, _ = SHAPES[size]
    model = PlainGPT(layers, width, heads, block, learner.tokenizer.vocab_size)
    found = model.load_state_dict(learner.model.state_dict(), strict=False)
    assert found.missing_keys == ["lm_head.weight"] and not found.unexpected_keys, found
    check_same(learner, lambda tokens: model(tokens)[0])
    return model


def plain_step(
    model: PlainGPT, learner: Pretraining, rows: int, dtype: torch.dtype, compiled: bool
) -> Callable[[], None]:
    """nanoGPT's: a random batch, forward, backward, clip, fused AdamW."""
    ids, block = learner.data.train.ids, learner.model.block_size
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    rate = learner.config.optimizer.learning_rate or 1e-3
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
    call: Any = torch.compile(model) if compiled else model

    def cut(at: int) -> Tensor:
        return torch.from_numpy(ids[at : at + block].astype(np.int64))

    def step() -> None:
        offsets = torch.randint(len(ids) - block, (rows,)).tolist()
        x, y = torch.stack([cut(at) for at in offsets]), torch.stack([cut(at + 1) for at in offsets])
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            _, loss = call(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class Sequences(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, ids: np.ndarray, block: int, labels: bool) -> None:
        self.ids, self.block, self.labels = ids, block, labels

    def __len__(self) -> int:
        return len(self.ids) // self.block

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x = torch.from_numpy(self.ids[index * self.block : (index + 1) * self.block].astype(np.int64))
        return {"input_ids": x, "labels": x} if self.labels else {"input_ids": x}


def run_trainer(
    learner: Pretraining, rows: int, precision: str, compiled: bool, folder: Path, facts: dict[str, Any]
) -> None:
    """transformers' own loop, held after each turn by a callback."""
    import transformers

    config, causal = learner.config, learner.model.causal
    shape, weights = learner.model.to_transformers()
    auto: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
    model: Any = auto.from_config(shape, attn_implementation="sdpa")
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    check_same(learner, lambda tokens: model(tokens).logits)
    collator: Any = transformers.default_data_collator
    if not causal:
        place = folder / f"tokenizer-{os.getpid()}"
        learner.tokenizer.save(place)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        collator = transformers.DataCollatorForLanguageModeling(
            tokenizer, mlm=True, mlm_probability=config.objective.rate
        )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / f"trainer-{os.getpid()}"),
        per_device_train_batch_size=rows,
        max_steps=10**7,
        learning_rate=config.optimizer.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        adam_beta2=0.95,
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        use_cpu=True,
        bf16=precision == "bf16",
        torch_compile=compiled,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )

    class Held(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.left, self.began = orders(), time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.left -= 1
            if self.left == 0:
                answer(seconds=time.perf_counter() - self.began)
                self.on_train_begin()

    data = Sequences(learner.data.train.ids, config.model.block_size, causal)
    trainer = transformers.Trainer(model, arguments, data_collator=collator, train_dataset=data)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Held())
    answer(parameters=count(model), **facts)
    trainer.train()


def check_same(learner: Pretraining, theirs: Callable[[Tensor], Tensor]) -> None:
    """Two programs train the same function: from the same weights the same logits."""
    model = learner.model
    tokens = torch.randint(4, model.tokens, (2, model.block_size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (model.logits(model(tokens)) - theirs(tokens)).abs().max().item()
    assert difference < 1e-4, f"the logits differ by {difference}"


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- taking turns


class Program:
    """The other end of such a process."""

    def __init__(self, name: str, size: str, family: str, text: Path, threads: int) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        words = [sys.executable, "-W", "ignore", __file__, "--program", name, size, family, str(text), str(threads)]
        self.name = name
        self.process = subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.facts = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"{self.name} ended with {self.process.wait()}")

    def step(self, steps: int) -> float:
        """Milliseconds a step, over `count` steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        return 1e3 * float(self._answer()["seconds"]) / steps / float(self.facts["share"])

    def warm(self) -> float:
        """Milliseconds of a step once compiled and warm; of a slow program, of its second step."""
        first = self.step(1)
        return self.step(1 if first * self.facts["share"] > 10_000 else 5)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def take_turns(names: list[str], size: str, family: str, text: Path, given: argparse.Namespace) -> Turns:
    programs: list[Program] = []
    slow: dict[str, float] = {}
    ours = 0.0
    for name in names:
        program = Program(name, size, family, text, given.threads)
        took = program.warm()
        ours = ours or took
        if took > HOPELESS * ours:
            slow[name] = took
            program.close()
        else:
            programs.append(program)
    steps = max(2, math.ceil(1e3 * given.seconds / ours))
    times: dict[str, list[float]] = {program.name: [] for program in programs}
    rates: dict[str, list[float]] = {program.facts["precision"]: [] for program in programs}
    for number in range(given.rounds):
        first = number % len(programs)
        for program in programs[first:] + programs[:first]:
            times[program.name].append(program.step(steps))
        for precision, found in rates.items():
            found.append(matrix_rate(CPU, DTYPES[precision]) / 1e9)
        shown = ", ".join(f"{name} {took[-1]:.1f}" for name, took in times.items())
        print(f"round {number + 1}/{given.rounds}: {shown} ms", file=sys.stderr, flush=True)
    for program in programs:
        program.close()
    return Turns(times, slow, rates, steps, {program.name: program.facts for program in programs})


class Turns:
    """What was measured: milliseconds a step by program and round, those of hopeless programs, GFLOP/s of products by
    precision."""

    def __init__(
        self,
        times: dict[str, list[float]],
        slow: dict[str, float],
        rates: dict[str, list[float]],
        steps: int,
        facts: dict[str, dict[str, Any]],
    ) -> None:
        self.times, self.slow, self.rates, self.steps, self.facts = times, slow, rates, steps, facts

    def cell(self, name: str) -> str:
        low, high = np.percentile(self.times[name], [25, 75])
        return f"{statistics.median(self.times[name]):,.1f} ({low:,.1f}-{high:,.1f})"

    def ratio(self, theirs: str, ours: str) -> str:
        """How many times as fast: the median over the pairs, with the 95 % bootstrap interval of the median."""
        pairs = np.array(self.times[theirs]) / np.array(self.times[ours])
        drawn = np.random.default_rng(0).choice(pairs, (10_000, len(pairs)))
        low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
        return f"{np.median(pairs):.2f}x ({low:.2f}-{high:.2f})"

    def table(self) -> None:
        facts = self.facts["ours"]
        print(f"{self.steps} steps a turn, {len(self.times['ours'])} rounds; {facts['tokens']:,} tokens and", end=" ")
        print(f"{facts['flop'] / 1e9:.2f} GFLOP a step; this program chose {facts['chosen']}. Parameters:", end=" ")
        print(", ".join(sorted({f"{found['parameters']:,}" for found in self.facts.values()})), end=". ")
        ceiling = {precision: statistics.median(found) for precision, found in self.rates.items()}
        spread = (f"{ceiling[p]:.0f} in {p} ({min(found):.0f}-{max(found):.0f})" for p, found in self.rates.items())
        print(f"Ceiling, GFLOP/s: {', '.join(spread)}.\n")
        print("| program | ms a step (quartiles) | tokens/s | GFLOP/s | of the ceiling |\n|---|---|---|---|---|")
        medians = {name: statistics.median(found) for name, found in self.times.items()} | self.slow
        for name, median in medians.items():
            shown = self.cell(name) if name in self.times else f"{median:,.0f}, a few steps"
            rate = facts["flop"] / median / 1e6
            share = f"{rate / ceiling[self.facts[name]['precision']]:.0%}" if name in self.facts else ""
            print(f"| {name} | {shown} | {1e3 * facts['tokens'] / median:,.0f} | {rate:.1f} | {share} |")
        for kind in ("plain", "trainer"):
            if names := [name for name in self.times if name.startswith(kind)]:
                best = min(names, key=lambda name: medians[name])
                print(f"\nThis program beside {best}, the best of its kind: {self.ratio(best, 'ours')}")
        sys.stdout.flush()


# ---- the parts


def decoder(size: str, text: Path, given: argparse.Namespace) -> None:
    take_turns(["ours", *PLAIN, *TRAINER], size, "gpt2", text, given).table()


def encoder(text: Path, given: argparse.Namespace) -> None:
    for size in SHAPES:
        print(f"\n#### {size}\n\nMasked at a rate of 0.15;", end=" ", flush=True)
        take_turns(["ours", *TRAINER], size, "bert", text, given).table()


def hf(text: Path, given: argparse.Namespace) -> None:
    """A module is written here only where transformers' own costs more than 10 % of the speed."""
    print("| size | architecture | parameters | written here, ms a step | transformers', ms a step | gain |")
    print("|---|---|---|---|---|---|", flush=True)
    for size in SHAPES:
        for family in (*DECODERS, *ENCODERS):
            found = take_turns(["ours", "modules"], size, family, text, given)
            cells = f"{found.facts['ours']['parameters']:,} | {found.cell('ours')}"
            if "modules" in found.times:
                cells += f" | {found.cell('modules')} | {found.ratio('modules', 'ours')}"
            print(f"| {size} | {family} | {cells} |", flush=True)


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "small": lambda text, given: decoder("small", text, given),
    "medium": lambda text, given: decoder("medium", text, given),
    "encoder": encoder,
    "hf": hf,
}


def write_text(given: str, file: Path) -> None:
    """The file of `--text`, or a megabyte that is on every machine: Python's reference and source, in its 65 commonest
    characters."""
    if given:
        file.write_bytes(Path(given).read_bytes())
        return
    library = Path(sysconfig.get_path("stdlib"))
    paths = [library / "pydoc_data" / "topics.py", *sorted(library.glob("*.py"))]
    text = "".join(path.read_text(encoding="utf-8") for path in paths)[:1_100_000]
    common = {character for character, _ in Counter(text).most_common(65)}
    file.write_text("".join(c for c in text if c in common), encoding="utf-8")


def machine(threads: int) -> str:
    versions = []
    for name in ("torch", "transformers", "accelerate"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    processor = f"{platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    python = f"Python {platform.python_version()}"
    return f"{processor}, {os.cpu_count()} cores, {threads} thread(s){load}, {python}, {', '.join(versions)}"


def main(words: Sequence[str]) -> None:
    if words[:1] == ["--program"]:
        _, name, size, family, text, threads = words
        sys.stdout = sys.stderr  # what libraries print is no answer
        run_program(name, size, family, Path(text), int(threads))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each program")
    parser.add_argument("--seconds", type=float, default=2.0, help="of this program's turn, two steps at least")
    parser.add_argument("--text", default="", help="a file to learn from; empty: Python's own reference")
    given = parser.parse_args(words)
    if wrong := [part for part in given.parts if part not in PARTS]:
        parser.error(f"{wrong[0]}: one of {', '.join(PARTS)}")
    torch.set_num_threads(given.threads)
    print(machine(given.threads), flush=True)
    for part in given.parts or PARTS:
        print(f"\n### {part}\n", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "text.txt"
            write_text(given.text, file)
            PARTS[part](file, given)


if __name__ == "__main__":
    main(sys.argv[1:])
