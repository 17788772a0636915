"""Run folders as training leaves them, written in no time: for `runs` and `compare`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml


def fake_run(
    root: Path,
    agent: str = "ppo",
    env: str = "CartPole-v1",
    seed: int = 1,
    evaluations: Mapping[int, float] | None = None,
    *,
    status: str = "finished",
    evaluated: float | None = None,
    tag: str = "eval/mean_reward",
    config: Mapping[str, Any] | None = None,
    hours: float = 1.0,
    name: str = "",
    monitor: list[str] | None = None,
) -> Path:
    """A run of `agent` on `env` that began `hours` ago. `evaluations`: step -> value of `tag`; `evaluated`: what
    `evaluate RUN` found; `config`: dotted keys besides the usual; `monitor`: as in manifests, but for older ones."""
    curve = {1_000: 10.0, 2_000: 20.0} if evaluations is None else dict(evaluations)
    folder = root / (
        name or f"run_{agent.replace('/', '-')}_{env.replace('/', '-')}_s{seed}_{len(list(root.glob('*')))}"
    )
    folder.mkdir(parents=True)
    text = tag.startswith("validation/")
    nested: dict[str, Any] = {"seed": seed}
    nested |= {"objective": {"name": "next_token"}} if text else {"agent": {"name": agent}, "env": {"id": env}}
    for key, value in (config or {}).items():
        node = nested
        *sections, last = key.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(nested))
    start = (datetime.now() - timedelta(hours=hours)).astimezone().isoformat()
    manifest = {"agent": agent, "env": env, "seed": seed, "status": status, "start": start, "host": "elsewhere"}
    manifest |= {} if monitor is None else {"monitor": monitor}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"root": "pretrain" if text else "train"}))
    rows = [{"step": step, "time": step / 1e3, tag: value} for step, value in curve.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if rows and status != "killed":
        summary = {"status": status, "steps": rows[-1]["step"], "wall_time_s": 1.0, "final": rows[-1], "best": None}
        (folder / "summary.json").write_text(json.dumps(summary))
    if evaluated is not None:
        (folder / "evaluations").mkdir()
        record = {
            tag.rsplit("/", 1)[-1]: evaluated,
            "checkpoint": "best",
            "episodes": [{"return": evaluated, "length": 1}],
        }
        (folder / "evaluations/2026-01-01_00-00-00_1_episodes_seed_1.json").write_text(json.dumps(record))
        (folder / "evaluations/step_9.json").write_text(json.dumps({"eval/mean_reward": -1, "mean_reward": -1}))
    return folder
