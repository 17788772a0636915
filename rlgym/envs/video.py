"""Records episodes of one environment as an MP4 file and as frames."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlgym.config.schema import EnvConfig
from rlgym.envs.batch import Episode
from rlgym.envs.episodes import Acts
from rlgym.envs.make import make_one
from rlgym.envs.spaces import Array
from rlgym.envs.sync import SyncEnv
from rlgym.errors import RequestError

THUMBNAIL = 256  # longest side of the frames kept in memory, for TensorBoard; the file has them in full


@dataclass
class Video:
    path: Path
    frames: Array  # [time, height, width, 3] uint8, every k-th pixel; each episode's first frame included
    fps: int
    episodes: list[Episode]
    running: Episode | None  # return so far, for an episode cut off by the end of the video


def require_frames(config: EnvConfig) -> None:
    """RequestError where the environment cannot render, before training starts."""
    with drawn(config, "rgb_array"):
        pass


def record(
    config: EnvConfig,
    policy: Acts,
    episodes: int,
    seed: int,
    path: Path,
    *,
    max_frames: int = 5_000,
    thumbnails: bool = True,
) -> Video:
    """Record `episodes` episodes to the file `path` (.mp4), at most `max_frames`. Without `thumbnails` no frames are
    kept in memory. RequestError where the environment cannot render."""
    with drawn(config, "rgb_array") as single:
        return _play(single, policy, episodes, seed, path, max_frames, thumbnails)


VERBS = {"rgb_array": "filmed", "human": "shown"}


@contextlib.contextmanager
def drawn(config: EnvConfig, mode: str) -> Iterator[SyncEnv]:
    """Build one environment that renders to arrays (`rgb_array`) or to a window (`human`)."""
    kwargs = {**config.kwargs, "render_mode": mode}
    with _no_display() if mode == "rgb_array" else contextlib.nullcontext():
        try:
            single = SyncEnv(config.id, lambda: make_one(config, kwargs), 1, check=config.check)
        except RequestError as error:
            if "unexpected keyword argument 'render_mode'" in str(error):
                why = f"env={config.id} cannot be {VERBS[mode]}: its constructor takes no render_mode"
                raise RequestError(why) from error
            raise
        try:
            modes = single.envs[0].metadata.get("render_modes") or []
            # Gymnasium opens a window itself for environments that only render to arrays.
            if not {mode, "rgb_array"} & set(modes) or single.envs[0].render_mode != mode:
                has = ", ".join(modes) or "none"
                why = f"it has no render mode {mode} (it has: {has})"
                raise RequestError(f"env={single.id} cannot be {VERBS[mode]}: {why}")
            yield single
        finally:
            single.close()


def _play(
    single: SyncEnv, policy: Acts, episodes: int, seed: int, path: Path, max_frames: int, thumbnails: bool
) -> Video:
    fps = int(single.envs[0].metadata.get("render_fps") or 30)
    obs, played, small = single.reset(seed), [], []
    running, count = Episode(0, 0.0, 0), 0
    policy.start(1)
    frame = _draw(single)
    writer = mp4(path, frame, fps)
    try:
        while True:
            writer.send(np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]))
            every = -(-max(frame.shape) // THUMBNAIL)
            if thumbnails:
                small.append(frame[::every, ::every].copy())
            count += 1
            step = single.step(policy.act(obs, single.action_mask))
            obs = step.obs
            running = Episode(0, running.ret + float(step.reward[0]), running.length + 1)
            if step.episodes:
                played += step.episodes
                running = Episode(0, 0.0, 0)
                policy.ended([0])
            if len(played) >= episodes or count >= max_frames:
                break
            frame = _draw(single)  # after an episode's end: already the next one's first
    finally:
        writer.close()
    kept = np.stack(small) if thumbnails else np.zeros((0, 0, 0, 3), np.uint8)
    return Video(path, kept, fps, played, running if len(played) < episodes and running.length else None)


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


def mp4(path: Path, frame: Array, fps: int) -> Generator[None, Array, None]:
    """Start a writer of frames `[height, width, 3]` uint8 to `path`. OSError naming `path` where the file cannot be
    written. H.264 needs even sides, so an odd last row or column is cropped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = _encode(path, f"{frame.shape[1] // 2 * 2}x{frame.shape[0] // 2 * 2}", fps)
    next(writer)
    return writer


def _encode(path: Path, size: str, fps: int) -> Generator[None, Array, None]:
    from imageio_ffmpeg import get_ffmpeg_exe

    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "-"]
    made = ["-an", "-vcodec", "libx264", "-pix_fmt", "yuv420p", "-crf", "25", str(path.absolute())]
    process = subprocess.Popen(
        [get_ffmpeg_exe(), "-y", "-v", "error", *given, *made], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it has exited: see its exit code
            while True:
                process.stdin.write((yield).tobytes())
    finally:
        _, said = process.communicate()
        if process.returncode:
            path.unlink(missing_ok=True)
            number = 256 - process.returncode  # ffmpeg exits with -errno
            line = said.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            known = number in errno.errorcode
            raise OSError(
                number if known else errno.EIO, os.strerror(number) if known else f"ffmpeg: {line[0]}", str(path)
            )


@contextlib.contextmanager
def _no_display() -> Iterator[None]:
    """Set SDL's dummy driver: rendering to arrays needs no screen, and SDL would warn without one."""
    before = os.environ.get("SDL_VIDEODRIVER")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("SDL_VIDEODRIVER", None)
