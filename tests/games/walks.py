"""Positions of games to test rules on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rlgym.games.game import DONE, Game, random_moves


def walk(game: Game, games: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Random games in lockstep: before each move all positions and the moves drawn; at last the positions when all are
    over, and no moves."""
    generator = torch.Generator().manual_seed(seed)
    position = game.init(games, generator=generator)
    while not position[:, DONE].all():
        action = random_moves(game.legal(position), generator)
        yield position, action
        position = game.step(position, action)
    yield position, position[:0, 0]


def going(game: Game, games: int, seed: int = 0) -> Tensor:
    """Positions of random games that are not over, from first moves to last, `[n, words]`."""
    return torch.cat([position[position[:, DONE] == 0] for position, _ in walk(game, games, seed)])


def moved(game: Game, position: Tensor) -> Tensor:
    """The positions after each legal move in each of `position`."""
    row, action = game.legal(position).nonzero(as_tuple=True)
    return game.play(position[row], action)


def reached(game: Game) -> Iterator[Tensor]:
    """Every position of a small game once, ply by ply from the starts on."""
    position = game.starts()[0]
    while len(position):
        yield position
        position = moved(game, position).unique(dim=0)


def at(game: Game, *moves: str) -> Tensor:
    """The position `[1, words]` after moves by name."""
    position = game.init(1)
    for name in moves:
        action = game.parse_move(name)
        assert action is not None and game.legal(position)[0, action], name
        position = game.play(position, torch.tensor([action]))
    return position
