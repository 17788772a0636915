"""What a run asks of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from rlgym.agents.configs.on_policy import PPOConfig
from rlgym.agents.ppo import PPO
from rlgym.config import device
from rlgym.config.schema import TrainConfig

FAULTS = """
import resource, torch
from rlgym.config.device import keep_freed_memory
if {keep}:
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in range(500_000, 5_000_000, 250_000):
    torch.ones(size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="its allocator is glibc's")
def test_freed_memory_is_not_given_back() -> None:
    """Tensors that come and go, each larger than those before: every page of each is asked for, or but the new ones."""

    def faults(keep: bool) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert 2 * faults(True) < faults(False)


COUNTS = """
import sys
import torch
from threadpoolctl import threadpool_info
import rlgym.agents.sac
from rlgym.config.compose import compose
from rlgym.config.device import resolve_auto
config = compose(["agent=sac", "env=Pendulum-v1", "threads=" + sys.argv[1]], "train")
resolve_auto(config, torch.device("cpu"), False, 1)
blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
print(torch.get_num_threads(), len(blas), set(blas))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_counts_for_numpys_and_scipys_products_too(threads: int) -> None:
    """In a process of its own: left alone they take every core, and beside another program each waits for the other."""
    said = subprocess.run([sys.executable, "-c", COUNTS, str(threads)], capture_output=True, text=True, check=True)
    torchs, libraries, blas = said.stdout.split(maxsplit=2)
    assert (int(torchs), blas.strip()) == (threads, f"{{{threads}}}") and int(libraries) >= 1


@pytest.mark.parametrize(("minutes", "choice"), [(None, "on"), (10.0, "on"), (0.05, "off")])
def test_a_run_that_minutes_end_soon_is_not_compiled(
    minutes: float | None, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "can_compile", lambda device: True)
    config = TrainConfig(minutes=minutes, threads=1)
    device.resolve_auto(config, torch.device("cpu"), True, 1)
    assert config.compile == choice


@pytest.mark.parametrize(("updates", "steps"), [(None, 10**8 // 1024 * 3 * 8), (5, 5 * 3 * 8)])
def test_the_gradient_steps_that_compiling_is_weighed_by_are_those_of_the_budget_that_ends_first(
    updates: int | None, steps: int
) -> None:
    config = TrainConfig(steps=10**8, updates=updates, agent=PPOConfig(n_steps=128, n_epochs=3, batch_size=128))
    assert PPO.gradient_steps(config) == steps
