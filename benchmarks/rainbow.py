"""Rainbow without each of its parts in turn, on one task (as in Hessel et al. 2018, arXiv:1710.02298, figure 3).

    python benchmarks/rainbow.py runs/rainbow                     # LunarLander-v3, five seeds: about an hour
    python benchmarks/rainbow.py runs/rainbow --seeds 1 2 --steps 10_000

Every run is the real command, one thread each, into a folder of its own; what is there already is not run again. A
run's score is the mean of its evaluations (20 greedy episodes every 5,000 steps), which says how soon and how well it
learned; beside it is the last of them. Interquartile means over the seeds with 95 % stratified-bootstrap intervals, and
the probability that full Rainbow scores higher.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from kept_runs import summary  # type: ignore[import-not-found]  # beside this
from turns import ONE_THREAD, machine  # type: ignore[import-not-found]

from rlgym.analysis.statistics import improvement_interval, interval, iqm, probability_of_improvement

COMMON = [
    *("env.num_envs=1", "tuned=off", "threads=1", "display=quiet", "checkpoint.every=0"),
    *("evaluate.every=5_000", "evaluate.episodes=20", "log.every=1_000", "log.histograms=false"),
    *("agent.learning_rate=5e-4", "agent.learning_rate_schedule=linear", "agent.adam_eps=1.5e-4"),
    *("agent.net_arch=[128,128]", "agent.batch_size=64", "agent.buffer_size=100_000", "agent.learning_starts=1_000"),
    *("agent.train_freq=4", "agent.target_update_interval=1_000", "agent.gamma=0.99"),
]
"""One setting for all, chosen once and not tuned: what differs is the part. Without noise it explores as DQN does."""
EPSILON = ["agent.exploration_initial_eps=1", "agent.exploration_final_eps=0.05", "agent.exploration_fraction=0.2"]
SUPPORT = ["agent.v_min=-200", "agent.v_max=200"]
RAINBOW = ["agent=rainbow", *SUPPORT]
VARIANTS = {
    "rainbow": RAINBOW,
    "without double": [*RAINBOW, "agent.double=false"],
    "without dueling": [*RAINBOW, "agent.dueling=false"],
    "without n-step": [*RAINBOW, "agent.n_step=1"],
    "without priorities": [*RAINBOW, "agent.prioritized=false"],
    "without noise": [*RAINBOW, "agent.noisy=false", *EPSILON],
    "without distribution": ["agent=rainbow", "agent.distributional=none"],
    "dqn": ["agent=dqn", *EPSILON],
}


def evaluations(words: list[str], folder: Path) -> list[float]:
    """The mean rewards of a run's evaluations in order; trains it where it is not there."""
    summary(words, folder, **ONE_THREAD)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["eval/mean_reward"] for row in rows if "eval/mean_reward" in row]


def shown(scores: np.ndarray) -> str:
    low, high = interval(iqm, scores[:, None])
    return f"{iqm(scores[:, None]):.1f} ({low:.1f} to {high:.1f})"


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs go")
    parser.add_argument("--env", default="LunarLander-v3")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    given = parser.parse_args(words)
    folder = given.folder.resolve()
    scores: dict[str, np.ndarray] = {}
    last: dict[str, np.ndarray] = {}
    for seed in given.seeds:
        for name, words in VARIANTS.items():
            path = folder / f"{given.env}_{given.steps}" / f"{name.replace(' ', '_')}_{seed}"
            found = evaluations([*words, *COMMON, f"env={given.env}", f"steps={given.steps}", f"seed={seed}"], path)
            scores[name] = np.append(scores.get(name, []), np.mean(found))
            last[name] = np.append(last.get(name, []), found[-1])
            print(f"seed {seed}, {name}: {scores[name][-1]:.1f}, at last {last[name][-1]:.1f}", file=sys.stderr)
    print(f"{machine()}\n\n{given.env}, {given.steps:,} steps, seeds {given.seeds}\n")
    print("| agent | mean of the evaluations | the last evaluation | P(rainbow is better) |\n|---|---|---|---|")
    for name in VARIANTS:
        better = ""
        if name != "rainbow" and len(given.seeds) > 1:
            both = scores["rainbow"][:, None], scores[name][:, None]
            low, high = improvement_interval(*both)
            better = f"{probability_of_improvement(*both):.2f} ({low:.2f} to {high:.2f})"
        print(f"| {name} | {shown(scores[name])} | {shown(last[name])} | {better} |")


if __name__ == "__main__":
    main(sys.argv[1:])
