"""Learning from text beside a plain torch loop and transformers' Trainer: the same model, optimiser, text and threads.

    python benchmarks/pretrain.py                           # every part, two threads: about an hour
    python benchmarks/pretrain.py small medium --rounds 20  # some of: small, medium, encoder, hf, tokenize
    python benchmarks/pretrain.py tokenize --gigabytes 0.1

small, medium: GPT-2 of 4 x 128 (block 64, 12 blocks a step) and 6 x 384 (block 256, 16 blocks), on characters. This
program is its real learner, data path included, at the precision and compilation it chooses; beside it a nanoGPT-style
loop in fp32 and bf16, eager and compiled, and `Trainer`. encoder: BERT of the same sizes, masked, beside `Trainer`. hf:
transformers' own modules in this program's loop, beside the ones written here. tokenize: a gigabyte of text to tokens
on the disk, beside `encode_batch_fast` alone on the same pieces.

Programs take turns, a block of steps each, round after round, each round begun by another, so that a machine whose
speed drifts favours none. Times are medians over rounds (quartiles); a ratio is the median over the rounds' pairs, with
the 95 % bootstrap interval of that median. GFLOP/s count the model's arithmetic as MFU does (the half of causal
attention that nobody sees included); the ceiling is square matrix products in fp32, measured in every round. Every part
is a process of its own. `Trainer` needs accelerate: pip install -c constraints.txt -e ".[bench]".
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.compose import compose
from rlgym.ssl.data.corpus import Corpus, build_corpus
from rlgym.ssl.data.progress import silent
from rlgym.ssl.data.stdlib_source import library_files
from rlgym.ssl.data.tokenizer import Tokenizer, build_tokenizer
from rlgym.ssl.data.tokens import _batches as batches_of_pieces
from rlgym.ssl.data.tokens import tokenize as tokenize_corpus
from rlgym.ssl.models.transformers_model import TransformersBackbone
from rlgym.ssl.precision import matrix_rate
from rlgym.ssl.pretraining import Pretraining

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES = {"small": (4, 128, 4, 64, 12), "medium": (6, 384, 6, 256, 16)}  # layers, width, heads, block, blocks a step
DECODERS, ENCODERS = ("gpt2", "llama", "qwen3"), ("bert", "modernbert")
TRAINERS = (("fp32", False), ("fp32", True), ("bf16", False))
"""(precision, compiled) of `Trainer`."""
HOPELESS = 5.0
"""Times as slow as this program: such a setting, as bf16 without units for it, is measured a few steps long."""
PROBE_SECONDS = 10.0
"""Of warming up; and of a step that is not cut down to fewer blocks."""
SEPARATOR = "<|next|>\n"


class Program:
    name: str
    share = 1.0
    """Of a step's blocks that one of its steps computes: 1 but where all of them would take minutes."""

    def step(self) -> None:
        raise NotImplementedError

    def run(self, steps: int) -> float:
        """Seconds that so many steps take."""
        began = time.perf_counter()
        for _ in range(steps):
            self.step()
        return time.perf_counter() - began

    def close(self) -> None:
        pass


# ---- this program


class Ours(Program):
    def __init__(self, learner: Pretraining, name: str = "") -> None:
        config = learner.config
        compiled = "compiled" if config.compile == "on" else "eager"
        self.learner, self.name = learner, name or f"this program ({config.precision}, {compiled})"

    def step(self) -> None:
        self.learner.update()

    def close(self) -> None:
        self.learner.close()


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


# ---- a plain loop: nanoGPT's model and training loop, https://github.com/karpathy/nanoGPT


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.size()
        q, k, v = (
            part.view(batch, time, self.heads, width // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0, is_causal=True)
        out: Tensor = self.c_proj(y.transpose(1, 2).contiguous().view(batch, time, width))
        return out


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.gelu, self.c_proj = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), SelfAttention(width, heads)
        self.ln_2, self.mlp = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class PlainGPT(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, block: int, vocab_size: int) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, width),
                "wpe": nn.Embedding(block, width),
                "h": nn.ModuleList(Block(width, heads) for _ in range(layers)),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight  # type: ignore[assignment]

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        body: Any = self.transformer
        x = body.wte(tokens) + body.wpe(torch.arange(tokens.size(1), device=tokens.device))
        for block in body.h:
            x = block(x)
        logits = self.lm_head(body.ln_f(x))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)


class Plain(Program):
    def __init__(self, learner: Pretraining, size: str, precision: str, compiled: bool, rows: int) -> None:
        layers, width, heads, block, batch = SHAPES[size]
        self.name = f"plain loop ({precision}, {'compiled' if compiled else 'eager'})"
        self.share, self.rows, self.block, self.dtype = rows / batch, rows, block, DTYPES[precision]
        self.ids = learner.data.train.ids
        self.model = PlainGPT(layers, width, heads, block, learner.tokenizer.vocab_size)
        found = self.model.load_state_dict(learner.model.state_dict(), strict=False)
        assert found.missing_keys == ["lm_head.weight"] and not found.unexpected_keys, found
        matrices = [p for p in self.model.parameters() if p.dim() >= 2]
        vectors = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        rate = learner.config.optimizer.learning_rate
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
        self.call: Any = torch.compile(self.model) if compiled else self.model

    def get_batch(self) -> tuple[Tensor, Tensor]:
        offsets = torch.randint(len(self.ids) - self.block, (self.rows,))
        x = torch.stack([torch.from_numpy(self.ids[i : i + self.block].astype(np.int64)) for i in offsets])
        y = torch.stack([torch.from_numpy(self.ids[i + 1 : i + 1 + self.block].astype(np.int64)) for i in offsets])
        return x, y

    def step(self) -> None:
        x, y = self.get_batch()
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            _, loss = self.call(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


# ---- transformers' Trainer: its own loop in a thread of its own, which a callback holds between turns


class Sequences(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, ids: np.ndarray, block: int, labels: bool) -> None:
        self.ids, self.block, self.labels = ids, block, labels

    def __len__(self) -> int:
        return len(self.ids) // self.block

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x = torch.from_numpy(self.ids[index * self.block : (index + 1) * self.block].astype(np.int64))
        return {"input_ids": x, "labels": x} if self.labels else {"input_ids": x}


class Trainer(Program):
    def __init__(self, learner: Pretraining, precision: str, compiled: bool, rows: int, folder: Path) -> None:
        import transformers

        config, causal = learner.config, learner.model.causal
        self.name = f"Trainer ({precision}, {'compiled' if compiled else 'eager'})"
        self.share, self.dtype = rows / int(config.batch_size or rows), DTYPES[precision]
        shape, weights = learner.model.to_transformers()
        auto: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
        self.model: Any = auto.from_config(shape, attn_implementation="sdpa")
        self.model.load_state_dict(weights, strict=False)
        self.model.tie_weights()
        collator: Any = transformers.default_data_collator
        if not causal:
            learner.tokenizer.save(folder / "tokenizer")
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
            rate = config.objective.rate
            collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=rate)
        arguments = transformers.TrainingArguments(
            output_dir=str(folder / "trainer"),
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
        data = Sequences(learner.data.train.ids, config.model.block_size, causal)
        self.trainer = transformers.Trainer(self.model, arguments, data_collator=collator, train_dataset=data)
        self.trainer.remove_callback(transformers.PrinterCallback)
        self.trainer.add_callback(self._turns(transformers.TrainerCallback))
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.left, self.over = 0, False
        self.failure: BaseException | None = None
        self.seen: set[torch.dtype] = set()
        if not compiled:
            self.model.get_output_embeddings().register_forward_hook(lambda *found: self.seen.add(found[2].dtype))
        self.thread = threading.Thread(target=self._train, args=(torch.get_num_threads(),), daemon=True)
        self.thread.start()

    def _turns(self, base: Any) -> Any:
        program = self

        class Turns(base):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
                program.left -= 1
                if program.left == 0:
                    program.done.release()
                    program.go.acquire()
                    control.should_training_stop = program.over
                return control

        return Turns()

    def _train(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.go.acquire()
        try:
            if not self.over:
                self.trainer.train()
        except BaseException as error:  # told to the thread that waits
            self.failure = error
        self.done.release()

    def run(self, steps: int) -> float:
        self.left = steps
        began = time.perf_counter()
        self.go.release()
        self.done.acquire()
        seconds = time.perf_counter() - began
        if self.failure is not None:
            raise self.failure
        assert self.seen <= {self.dtype}, f"{self.name} computed in {self.seen}"
        return seconds

    def close(self) -> None:
        self.over = True
        self.go.release()
        self.thread.join()


# ---- turns


def compare(learner: Pretraining, others: list[Callable[[], Program]], given: argparse.Namespace) -> None:
    """Warm up, set the hopeless apart, take turns, print the table; ratios to the best of each kind (`KIND (...)`)."""
    ours = Ours(learner)
    step = warm(ours)
    programs: list[Program] = [ours]
    slow: dict[str, float] = {}
    for make in others:
        program = make()
        took = warm(program) / program.share
        if took > HOPELESS * step:
            part = f"{program.share:.2g} of a step" if program.share < 1 else "a few steps"
            slow[f"{program.name}, {part}"] = 1e3 * took
            program.close()
        else:
            programs.append(program)
    steps = max(2, math.ceil(given.seconds / step))
    times, rates = rounds_of(programs, steps, given.rounds)
    ceiling, tokens = statistics.median(rates), learner.tokens_per_update
    flop = tokens * learner.estimate.flops_per_token
    print(f"{steps} steps a turn, {given.rounds} rounds; {tokens:,} tokens and {flop / 1e9:.2f} GFLOP a step; ceiling")
    print(f"{ceiling:.0f} GFLOP/s ({min(rates):.0f}-{max(rates):.0f}).\n")
    print("| program | ms a step (quartiles) | tokens/s | GFLOP/s | of the ceiling |\n|---|---|---|---|---|")
    rows = {name: (statistics.median(found), quartiles(found)) for name, found in times.items()}
    rows |= {name: (took, "") for name, took in slow.items()}
    for name, (median, spread) in rows.items():
        rate = flop / median / 1e6
        print(f"| {name} | {median:,.1f}{spread} | {1e3 * tokens / median:,.0f} | {rate:.1f} | {rate / ceiling:.0%} |")
    kinds: dict[str, list[str]] = {}
    for name in list(times)[1:]:
        kinds.setdefault(name.split(" (")[0], []).append(name)
    for names in kinds.values():
        best = min(names, key=lambda name: statistics.median(times[name]))
        print(f"\nThis program beside {best}, the best: {ratio(times[best], times[ours.name])}")
    sys.stdout.flush()
    for program in programs:
        program.close()


def warm(program: Program) -> float:
    """Seconds of a step once compiled and warm; of a slow program, those of few steps."""
    steps = min(5, int(PROBE_SECONDS / program.run(1)))
    if steps:
        program.run(steps)
    return program.run(max(1, steps)) / max(1, steps)


def rounds_of(programs: list[Program], steps: int, rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Program -> milliseconds a step of each round, and each round's matrix rate in GFLOP/s."""
    times: dict[str, list[float]] = {program.name: [] for program in programs}
    rates = []
    for number in range(rounds):
        first = number % len(programs)
        for program in programs[first:] + programs[:first]:
            times[program.name].append(1e3 * program.run(steps) / steps)
        rates.append(matrix_rate(CPU, torch.float32) / 1e9)
        shown = ", ".join(f"{name} {found[-1]:.1f}" for name, found in times.items())
        print(f"round {number + 1}/{rounds}: {shown} ms", file=sys.stderr)
    return times, rates


def quartiles(values: list[float]) -> str:
    low, high = np.percentile(values, [25, 75])
    return f" ({low:,.1f}-{high:,.1f})"


def ratio(theirs: list[float], ours: list[float]) -> str:
    """How many times as fast: the median over the pairs, with the 95 % bootstrap interval of the median."""
    pairs = np.array(theirs) / np.array(ours)
    drawn = np.random.default_rng(0).choice(pairs, (10_000, len(pairs)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return f"{np.median(pairs):.2f} x ({low:.2f}-{high:.2f})"


def probe_rows(learner: Pretraining, precision: str) -> int:
    """Blocks of a step: all, or as few as take seconds where this precision has no units here."""
    rows = int(learner.config.batch_size or 1)
    fp32, rate = (matrix_rate(CPU, DTYPES[name]) for name in ("fp32", precision))
    seconds = learner.estimate.flops_per_token * learner.tokens_per_update / rate
    return rows if rate * HOPELESS > fp32 else max(1, min(rows, int(rows * PROBE_SECONDS / seconds)))


def check_same(learner: Pretraining, theirs: Callable[[Tensor], Tensor]) -> None:
    """Two programs train the same function: from the same weights the same logits."""
    model = learner.model
    tokens = torch.randint(4, model.tokens, (2, model.block_size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (model.logits(model(tokens)) - theirs(tokens)).abs().max().item()
    assert difference < 1e-4, f"the logits differ by {difference}"


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- the parts


def decoder(size: str, given: argparse.Namespace, folder: Path) -> None:
    learner = make_learner(size, "gpt2", text_of(given, folder), given.threads)
    plain = Plain(learner, size, "fp32", False, 1)
    check_same(learner, lambda tokens: plain.model(tokens)[0])
    check_trainer(learner, folder, f"plain loop {count(plain.model):,}, ")
    others: list[Callable[[], Program]] = []
    for precision in DTYPES:
        rows = probe_rows(learner, precision)
        others += [partial(Plain, learner, size, precision, compiled, rows) for compiled in (False, True)]
    compare(learner, others + trainers(learner, folder), given)


def encoder(given: argparse.Namespace, folder: Path) -> None:
    for size in SHAPES:
        print(f"\n#### {size}\n\nMasked at a rate of 0.15.", end=" ")
        learner = make_learner(size, "bert", text_of(given, folder), given.threads)
        check_trainer(learner, folder)
        compare(learner, trainers(learner, folder), given)


def trainers(learner: Pretraining, folder: Path) -> list[Callable[[], Program]]:
    rows = {precision: probe_rows(learner, precision) for precision in DTYPES}
    return [partial(Trainer, learner, precision, compiled, rows[precision], folder) for precision, compiled in TRAINERS]


def check_trainer(learner: Pretraining, folder: Path, others: str = "") -> None:
    """That the model is the same one, and how large all take it to be."""
    trainer = Trainer(learner, "fp32", False, 1, folder)
    check_same(learner, lambda tokens: trainer.model(tokens).logits)
    trainer.close()
    sizes = f"this program {count(learner.model):,}, {others}Trainer {count(trainer.model):,}"
    print(f"Vocabulary {learner.tokenizer.vocab_size}; parameters: {sizes};", end=" ")


def hf(given: argparse.Namespace, folder: Path) -> None:
    """A module is written here only where transformers' own costs more than 10 % of the speed."""
    text = text_of(given, folder)
    print("| size | architecture | parameters | written here, ms a step | transformers', ms a step | gain |")
    print("|---|---|---|---|---|---|")
    for size in SHAPES:
        for family in (*DECODERS, *ENCODERS):
            fast = make_learner(size, family, text, given.threads)
            theirs = make_learner(
                size, family, text, given.threads, partial(by_transformers, fast.model.configuration())
            )
            other = theirs.model
            assert isinstance(other, TransformersBackbone)
            other.inner.load_state_dict(fast.model.to_transformers()[1], strict=False)
            other.inner.tie_weights()
            check_same(fast, partial(logits_of, other))
            programs: list[Program] = [Ours(fast, "fast"), Ours(theirs, "theirs")]
            step = [warm(program) for program in programs][0]
            times, _ = rounds_of(programs, max(2, math.ceil(given.seconds / step)), given.rounds)
            cells = [f"{statistics.median(times[name]):,.1f}{quartiles(times[name])}" for name in ("fast", "theirs")]
            gain = ratio(times["theirs"], times["fast"])
            print(f"| {size} | {family} | {count(fast.model):,} | {' | '.join(cells)} | {gain} |", flush=True)
            for program in programs:
                program.close()


def by_transformers(values: dict[str, Any], config: Any) -> None:
    """The same shape as `model=transformers model.model_type=...` with `+model.config.KEY=...`."""
    other = compose(["model=transformers", f"model.model_type={values['model_type']}"], "pretrain").model
    own = ("model_type", "architectures", "vocab_size")
    other.config = {key: value for key, value in values.items() if key not in own and value is not None}
    other.block_size, other.vocab_multiple = config.model.block_size, 1
    config.model = other
    config.optimizer.learning_rate = 1e-3


def logits_of(model: TransformersBackbone, tokens: Tensor) -> Tensor:
    return model.logits(model(tokens))


# ---- tokens


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


# ---- the text


def text_of(given: argparse.Namespace, folder: Path) -> Path:
    """The file of `--text` in the folder, or a megabyte that is on every machine: Python's reference and source, in its
    65 commonest characters."""
    file = folder / "text.txt"
    if given.text:
        file.write_bytes(Path(given.text).read_bytes())
    elif not file.exists():
        library = Path(sysconfig.get_path("stdlib"))
        paths = [library / "pydoc_data" / "topics.py", *sorted(library.glob("*.py"))]
        text = "".join(path.read_text(encoding="utf-8") for path in paths)[:1_100_000]
        common = {character for character, _ in Counter(text).most_common(65)}
        file.write_text("".join(c for c in text if c in common), encoding="utf-8")
    return file


# ---- the command

PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "small": partial(decoder, "small"),
    "medium": partial(decoder, "medium"),
    "encoder": encoder,
    "hf": hf,
    "tokenize": tokenize,
}


def facts(threads: int) -> str:
    versions = []
    for name in ("torch", "transformers", "accelerate", "tokenizers"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    machine = f"{platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    python = f"Python {platform.python_version()}"
    return f"{machine}, {os.cpu_count()} cores, {threads} thread(s){load}, {python}, {', '.join(versions)}"


def spawn(part: str, given: argparse.Namespace, words: list[str]) -> int:
    """A part in a process of its own, the threads set before any library counts them."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(given.threads))
    print(f"\n### {part}\n", flush=True)
    command = [sys.executable, "-W", "ignore", __file__, *words, "--one", part]
    return subprocess.run(command, env=environment, check=False).returncode


def main() -> int:
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], Path(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each program")
    parser.add_argument("--seconds", type=float, default=3.0, help="of this program's turn, two steps at least")
    parser.add_argument("--repeats", type=int, default=3, help="tokenize: turns of each program")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="tokenize: size of the text")
    parser.add_argument("--text", default="", help="a file to learn from; empty: Python's own reference")
    parser.add_argument("--folder", default=None, help="for temporary files, up to five times the gigabytes")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if wrong := [part for part in given.parts if part not in PARTS]:
        parser.error(f"{wrong[0]}: one of {', '.join(PARTS)}")
    if given.one:
        torch.set_num_threads(given.threads)
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            PARTS[given.one](given, Path(folder))
        return 0
    print(facts(given.threads), flush=True)
    words = [word for word in sys.argv[1:] if word not in PARTS]
    return max(spawn(part, given, words) for part in given.parts or PARTS)


if __name__ == "__main__":
    sys.exit(main())
