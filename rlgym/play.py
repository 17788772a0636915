"""`play RUN`: watch a finished policy, as a video in the run folder or in a window."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from rlgym.config_file import load_config
from rlgym.envs.episodes import evaluate_policy, fresh_seed
from rlgym.envs.make import make_env
from rlgym.envs.video import record
from rlgym.errors import RequestError
from rlgym.loading import load
from rlgym.run import Run


def play(folder: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Show `episodes` episodes with the run's `checkpoint`; prints and returns their returns and a video's file."""
    config = load_config(folder, trust=words["trust"])
    policy = load(Run(folder), words["checkpoint"], trust=words["trust"])
    seed = fresh_seed(config.seed) if words["seed"] is None else words["seed"]
    if words["render"] == "window":
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise RequestError("render=window: there is no display here; render=video writes a file")
        env = make_env(config.env, num_envs=1, render_mode="human")
        try:
            episodes = evaluate_policy(policy, env, words["episodes"], seed).records["episodes"]
        finally:
            env.close()
        shown: dict[str, Any] = {"episodes": episodes}
    else:
        path = folder / "videos" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_seed_{seed}.mp4"
        video = record(config.env, policy.act, words["episodes"], seed, path)
        shown = {"episodes": [{"return": e.ret, "length": e.length} for e in video.episodes], "video": str(path)}
    for index, episode in enumerate(shown["episodes"], 1):
        print(f"episode {index}: return {episode['return']:.4g}, {episode['length']} steps")
    if "video" in shown:
        print(f"written to {shown['video']}")
    return shown
