"""Records games as an MP4 file and, smaller, for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlgym.envs.video import THUMBNAIL, mp4
from rlgym.games.game import DONE, Game
from rlgym.games.match import Played, play_games
from rlgym.games.players import Player

FPS = 1
"""Moves per second."""


def film(game: Game, positions: list[Tensor], path: Path) -> tuple[np.ndarray, int]:
    """Write pictures of `positions`, `[words]` each, to the file `path`. Returns them as well, `[time, height, width,
    3]` uint8 with every k-th pixel, and the frame rate."""
    frames = [game.image(position.cpu()) for position in positions]
    height, width, _ = frames[0].shape
    writer = mp4(path, frames[0], FPS)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame[: height // 2 * 2, : width // 2 * 2]))
    writer.close()
    every = -(-max(height, width) // THUMBNAIL)
    return np.stack([frame[::every, ::every] for frame in frames]), FPS


def against_itself(
    game: Game, player: Player, seed: int, device: torch.device | str = "cpu"
) -> Callable[[Path], tuple[np.ndarray, int]]:
    """A `film` of one game of `player` against itself, for `Evaluation.videos`."""

    def record(path: Path) -> tuple[np.ndarray, int]:
        generator = torch.Generator(device).manual_seed(seed)
        start = game.init(1, device, generator)
        return film(game, replay(game, start, play_games(game, [player, player], start, generator)), path)

    return record


def replay(game: Game, start: Tensor, played: Played) -> list[Tensor]:
    """All positions `[words]` of a game from `start [1, words]` on."""
    position, positions = start, [start[0]]
    for action in played.moves[0].tolist():
        if not position[0, DONE]:
            position = game.play(position, torch.tensor([action], device=start.device))
            positions.append(position[0])
    return positions
