"""A replay of a million Atari frames, and what its checkpoints write.

    python benchmarks/replay.py FOLDER          # takes 8 GB of memory and as much of the disk; some minutes

Eight environments' worth of 84 x 84 frames (random numbers in place of a game), four of them a stack: fills the replay,
saves it, gathers a twentieth more, saves it again, and reads the second checkpoint back.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.turns import machine
from rlgym.agents.off_policy.replay import Replay
from rlgym.envs.batch import Step
from rlgym.run_folder import checkpoint

ENVS = 8


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an empty or new one, for the checkpoints")
    parser.add_argument("--frames", type=int, default=1_000_000)
    given = parser.parse_args(words)
    folder, frames, more = given.folder, given.frames, given.frames // 20
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: name a new one")
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    leaf = SimpleNamespace(name="obs", shape=(4, 84, 84), dtype=np.dtype(np.uint8))
    env: Any = SimpleNamespace(num_envs=ENVS, leaves=[leaf], phantoms=False, id="ALE/Pong-v5")
    replay = Replay(frames, env, (), torch.int64, torch.device("cpu"), stack=4)
    rng = np.random.default_rng(0)
    obs = {"obs": np.zeros((ENVS, 4, 84, 84), np.uint8)}
    replay.start(obs, None)

    def gather(transitions: int) -> None:
        for _ in range(transitions // ENVS):
            terminated = rng.random(ENVS) < 0.001
            obs["obs"][:, :-1] = obs["obs"][:, 1:]
            obs["obs"][:, -1] = np.frombuffer(rng.bytes(ENVS * 84 * 84), np.uint8).reshape(ENVS, 84, 84)
            obs["obs"][terminated] = obs["obs"][terminated, -1:]
            none = np.zeros(ENVS, bool)
            replay.add(rng.integers(6, size=ENVS), Step(obs, rng.normal(size=ENVS), terminated, none, {}))

    def save(step: int) -> tuple[float, float]:
        before, began = written(), time.perf_counter()
        checkpoint.save(folder, step, {"replay": replay.state_dict()}, {}, {})
        return time.perf_counter() - began, (written() - before) / 1e9

    def written() -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    began = time.perf_counter()
    gather(frames)
    filled = time.perf_counter() - began
    held = psutil.Process().memory_info().rss / 1e9
    print(f"filled in {filled:.0f} s; the replay has {replay.nbytes / 1e9:.2f} GB, the whole process {held:.2f} GB")
    print("\n| checkpoint | s | GB written |\n|---|---|---|")
    print(f"| of {frames:,} frames | {{:.1f}} | {{:.2f}} |".format(*save(1)))
    gather(more)
    print(f"| after {more:,} more | {{:.1f}} | {{:.2f}} |".format(*save(2)))
    began = time.perf_counter()
    again = Replay(frames, env, (), torch.int64, torch.device("cpu"), stack=4)
    again.load_state_dict(checkpoint.load(folder / "checkpoints" / "step_2")[0]["replay"])
    print(f"\nread back in {time.perf_counter() - began:.1f} s")
    places = replay.draw(1_000, torch.Generator().manual_seed(0))
    one, other = replay.gather(places), again.gather(places)
    same = all(torch.equal(one[key]["obs"], other[key]["obs"]) for key in ("obs", "next_obs"))
    print(f"1,000 transitions drawn from both are {'equal' if same else 'NOT equal'}")


if __name__ == "__main__":
    main(sys.argv[1:])
