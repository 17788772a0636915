"""What the program does on a CUDA GPU: its tests there, then rates, as rows for docs/results.md.

    python benchmarks/gpu.py                                   # ppo and pretrain: under ten minutes
    python benchmarks/gpu.py pretrain --seconds 20
    python benchmarks/gpu.py shakespeare --text tinyshakespeare.txt    # two more

ppo: small networks (CartPole, 8 and 1,024 environments) and 84x84 images through the Nature CNN (an environment of
random images, so that the network is what is measured), eager and compiled, beside the CPU. pretrain: decoders of
GPT-2's smallest size (block 1,024, vocabulary of 50,257) on the standard library's source, bf16 and compiled: tokens/s,
and MFU by the device's measured rate of matrix products. shakespeare: 10.65M parameters (6 x 384, block 256) to their
best validation loss on characters, 5,000 updates of 64 blocks, as nanoGPT's published run (1.4697).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import rlgym
from rlgym.agents.configs.on_policy import PPOConfig
from rlgym.agents.ppo import PPO
from rlgym.config.compose import compose
from rlgym.config.schema import EnvConfig, TrainConfig
from rlgym.ssl.pretraining import Pretraining

TESTS = Path(__file__).resolve().parent.parent / "tests"


class Images(gym.Env[Any, Any]):
    """Random 4x84x84 images that cost nothing to make."""

    observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    action_space = gym.spaces.Discrete(6)

    def __init__(self) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (64, 4, 84, 84), np.uint8)
        self.now = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = 0
        return self.images[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.now += 1
        return self.images[self.now % 64], float(action == 0), False, self.now >= 200, {}


CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "CartPole-v1, 8 envs, batch 256": ("CartPole-v1", 8, {"n_steps": 128, "batch_size": 256}),
    "CartPole-v1, 1024 envs, batch 8192": ("CartPole-v1", 1024, {"n_steps": 32, "batch_size": 8192}),
    "84x84 images, 32 envs, batch 1024": ("RandomImages-v0", 32, {"n_steps": 128, "batch_size": 1024}),
}
GPT = ["tokenizer.vocab_size=50_257", "precision=bf16"]
PRETRAIN = (("gpt_small", "stream"), ("qwen_small", "stream"), ("gpt_small", "documents"))
"""(model, packing): with one plain stream the kernel skips what a token cannot see; documents need a mask."""
COMPILE = ("off", "on")
UPDATES = 10
"""Of PPO, of which the first three are left out."""
FAST = ["device=cuda", "compile=on"]


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# ---- PPO


def ppo(given: argparse.Namespace) -> None:
    gym.register("RandomImages-v0", entry_point=lambda **_: Images())
    print("| case | device | compile | steps/s (min-max) |\n|---|---|---|---|", flush=True)
    for case, (env, num_envs, knobs) in CASES.items():
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            for compile in COMPILE:
                rates = steps_per_second(env, num_envs, knobs, device, compile)
                middle = f"{statistics.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"
                print(f"| {case} | {device} | {compile} | {middle} |", flush=True)


def steps_per_second(env: str, num_envs: int, knobs: dict[str, Any], device: str, compile: str) -> list[float]:
    config = TrainConfig(steps=10**7, device=device, compile=compile, env=EnvConfig(env, num_envs, backend="auto"))
    config.agent = PPOConfig(**knobs)
    learner = PPO(config)
    rates: list[float] = []
    began = time.perf_counter()
    while len(rates) < UPDATES and time.perf_counter() - began < 20:
        at, step = time.perf_counter(), learner.progress.step
        learner.update()
        synchronize()
        rates.append((learner.progress.step - step) / (time.perf_counter() - at))
    learner.close()
    return rates[3:] or rates[-1:]


# ---- learning from text


def pretrain(given: argparse.Namespace) -> None:
    print("| model | parameters | packing | batch | tokens/s | TFLOP/s | of products' | MFU | peak GiB | warm-up s |")
    print("|---" * 10 + "|", flush=True)
    for model, packing in PRETRAIN:
        words = [
            f"model={model}",
            f"data.packing={packing}",
            f"batch_size={given.batch_size or blocks_that_fit(model)}",
        ]
        print(pretraining_row([*words, *GPT, *FAST], given.seconds), flush=True)


def pretraining_row(words: list[str], seconds: float) -> str:
    """Rate over `seconds` of updates, the data path included, after ten that compile and warm up."""
    learner = Pretraining(compose([*words, "tokens=1_000_000_000", "display=quiet"], "pretrain"))
    began = time.perf_counter()
    for _ in range(10):
        learner.update()
    synchronize()
    warm = time.perf_counter() - began
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    began, step = time.perf_counter(), learner.progress.step
    while time.perf_counter() - began < seconds:
        for _ in range(5):
            loss = learner.update()["train/loss"]
        assert torch.isfinite(torch.as_tensor(loss)), "training went astray"  # waits for the device too
    rate = (learner.progress.step - step) / (time.perf_counter() - began)
    flops, products = learner.arithmetic or (0.0, 1.0)
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    config = learner.config
    learner.close()
    return (
        f"| {config.model.name} | {learner.estimate.parameters / 1e6:.1f}M | {config.data.packing} "
        f"| {config.batch_size} x {config.model.block_size} | {rate:,.0f} | {rate * flops / 1e12:.1f} "
        f"| {products / 1e12:.1f} | {rate * flops / products:.1%} | {peak:.1f} | {warm:.0f} |"
    )


def blocks_that_fit(model: str) -> int:
    """A power of two up to 64: about 1 GiB a block, and room to spare."""
    memory = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 2**34
    return max(n for n in (4, 8, 16, 32, 64) if n == 4 or n * 2**30 * 1.6 < memory)


SHAKESPEARE = ["model=gpt_mini", "model.dropout=0.2", "batch_size=64", "tokens=81_920_000", "evaluate.every=4_096_000"]
RECIPES = {
    "AdamW, nanoGPT's recipe": ["optimizer=adamw", "optimizer.learning_rate=1e-3", "optimizer.beta2=0.99"],
    "Muon, this program's": ["optimizer=muon"],
}


def shakespeare(given: argparse.Namespace) -> None:
    print("| recipe | best validation loss | at tokens | s |\n|---|---|---|---|", flush=True)
    for recipe, optimizer in RECIPES.items():
        with tempfile.TemporaryDirectory() as folder:
            words = [
                *(*SHAKESPEARE, *optimizer, *FAST),
                *("data=text", f"data.path=['{given.text}']", "data.packing=stream", "data.validation_fraction=0.1"),
                *("tokenizer=char", "tokenizer.byte_fallback=false", "evaluate.tokens=200_000", "sample.count=0"),
                *("log.histograms=false", "checkpoint.every=0", "display=quiet"),
                *(f"data.cache={folder}/cache", f"run.dir={folder}/run"),
            ]
            began = time.perf_counter()
            best = rlgym.pretrain(*words).summary["best"]
            seconds = time.perf_counter() - began
        print(f"| {recipe} | {best['validation/loss']:.4f} | {best['step']:,} | {seconds:.0f} |", flush=True)


PARTS = {"ppo": ppo, "pretrain": pretrain, "shakespeare": shakespeare}


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none: ppo pretrain, and the last with --text")
    parser.add_argument("--text", default="", help="shakespeare: the file")
    parser.add_argument("--seconds", type=float, default=60.0, help="pretrain: of each measurement")
    parser.add_argument("--batch-size", type=int, default=0, help="pretrain: blocks of an update; 0: by the memory")
    given = parser.parse_args(words)
    parts = given.parts or ["ppo", "pretrain", *(["shakespeare"] if given.text else [])]
    if wrong := [part for part in parts if part not in PARTS]:
        parser.error(f"{wrong[0]}: one of {', '.join(PARTS)}")
    if "shakespeare" in parts and not Path(given.text).is_file():
        parser.error(f"--text {given.text or '(empty)'}: no such file, and shakespeare learns from one")
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    if torch.cuda.is_available():
        tests = [str(path) for path in sorted(TESTS.glob("*/test_gpu.py"))]
        subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], check=False)
    elif set(parts) - {"ppo"}:
        parser.error("learning from text is measured on a CUDA GPU; ppo alone runs without")
    for part in parts:
        print(f"\n### {part}\n", flush=True)
        PARTS[part](given)


if __name__ == "__main__":
    main(sys.argv[1:])
