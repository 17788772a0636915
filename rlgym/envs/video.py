"""Watching a policy: episodes of one environment as an MP4 file and as frames."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlgym.config import EnvConfig
from rlgym.envs.batch import Episode
from rlgym.envs.make import make_one
from rlgym.envs.spaces import Array, Obs
from rlgym.envs.sync import SyncEnv
from rlgym.errors import RequestError

Act = Callable[[Obs, "Array | None"], Array]
"""Observations [1, ...] and the action mask [1, n] or None -> actions [1, ...]."""


THUMBNAIL = 256  # longest side of the frames kept in memory, for TensorBoard; the file has them in full


@dataclass
class Video:
    path: Path
    frames: Array  # [time, height, width, 3] uint8, every k-th pixel; each episode's first frame included
    fps: int
    episodes: list[Episode]


def require_frames(config: EnvConfig) -> None:
    """RequestError where the environment cannot be drawn, before anything is trained."""
    with _drawn(config):
        pass


def record(config: EnvConfig, act: Act, episodes: int, seed: int, path: Path, *, max_frames: int = 5_000) -> Video:
    """Plays `episodes` episodes into the file `path` (.mp4). RequestError where the environment cannot be drawn."""
    with _drawn(config) as single:
        return _play(single, act, episodes, seed, path, max_frames)


@contextlib.contextmanager
def _drawn(config: EnvConfig) -> Iterator[SyncEnv]:
    """One environment that gives its pictures as arrays."""
    kwargs = {**config.kwargs, "render_mode": "rgb_array"}
    with _no_display():
        single = SyncEnv(config.id, lambda: make_one(config, kwargs), 1, check=config.check)
        try:
            modes = single.envs[0].metadata.get("render_modes") or []
            if "rgb_array" not in modes or single.envs[0].render_mode != "rgb_array":
                has = ", ".join(modes) or "none"
                raise RequestError(f"env={single.id} cannot be filmed: it has no render mode rgb_array (it has: {has})")
            yield single
        finally:
            single.close()


def _play(single: SyncEnv, act: Act, episodes: int, seed: int, path: Path, max_frames: int) -> Video:
    fps = int(single.envs[0].metadata.get("render_fps") or 30)
    obs, played, small = single.reset(seed), [], []
    frame = _draw(single)
    writer = _mp4(path, frame, fps)
    try:
        while True:
            writer.send(np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]))
            every = -(-max(frame.shape) // THUMBNAIL)
            small.append(frame[::every, ::every].copy())
            step = single.step(act(obs, single.action_mask))
            obs = step.obs
            played += step.episodes
            if len(played) >= episodes or len(small) >= max_frames:
                break
            frame = _draw(single)  # after an episode's end: already the next one's first
    finally:
        writer.close()
    return Video(path, np.stack(small), fps, played)


def _draw(single: SyncEnv) -> Array:
    try:
        frame = np.asarray(single.envs[0].render())
    except Exception as error:
        words = " ".join(str(error).split())
        raise RequestError(f"env={single.id} cannot be drawn: {type(error).__name__}: {words}") from error
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise RequestError(
            f"env={single.id} cannot be filmed: it draws {frame.dtype} {frame.shape}, not uint8 [h, w, 3]"
        )
    return frame


def _mp4(path: Path, frame: Array, fps: int) -> Generator[None, Array, None]:
    """A started writer. H.264 wants even sides: an odd last row or column is cut off."""
    import imageio_ffmpeg

    path.parent.mkdir(parents=True, exist_ok=True)
    size = frame.shape[1] // 2 * 2, frame.shape[0] // 2 * 2
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=fps, codec="libx264", macro_block_size=2, ffmpeg_log_level="error"
    )
    writer.send(None)
    return writer  # type: ignore[no-any-return]


@contextlib.contextmanager
def _no_display() -> Iterator[None]:
    """Drawing into memory needs no screen; without this SDL complains on stderr where there is none."""
    before = os.environ.get("SDL_VIDEODRIVER")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("SDL_VIDEODRIVER", None)
