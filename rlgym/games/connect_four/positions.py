"""Connect Four positions of known value, from a file or random games, and a player's error rate in them. A file has one
line per position: the columns played, digits 1 to 7 from the first move on, and a score, positive where the player to
move wins, negative where the opponent does: `44455554221 2`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlgym.common.atomic_io import write_atomic
from rlgym.errors import RequestError
from rlgym.games.connect_four.rules import ConnectFour
from rlgym.games.connect_four.solver import Solver
from rlgym.games.game import DONE, random_moves
from rlgym.games.players import winning

if TYPE_CHECKING:
    from rlgym.games.players import Player

STAGES = {"opening": range(12, 16), "middle": range(16, 26), "end": range(26, 36)}
"""Stages by number of stones. With two fewer, solving takes four times as long."""
COUNT = 1000
"""Random positions of each stage."""
VERSION = 1
"""Version of the sampling, in the cache's file name."""
AT_ONCE = 2048
"""Random games played at a time."""
GAME = ConnectFour()


@dataclass
class Positions:
    """Solved positions: `position [n, words]`, `value [n]` (1, 0 or -1 for the player to move), and `keeps [n,
    actions]` bool, the moves that preserve it."""

    position: Tensor
    value: Tensor
    keeps: Tensor

    def __len__(self) -> int:
        return len(self.value)


def exact_error(player: Player, positions: Positions, seed: int = 0, device: torch.device | str = "cpu") -> float:
    """Error rate: the share of positions in which the player's move loses value (a win or draw given away)."""
    generator = torch.Generator(device).manual_seed(seed)
    chosen = player.choose(positions.position.to(device), generator).cpu()
    return 1 - positions.keeps.gather(1, chosen[:, None]).float().mean().item()


def exact_errors(
    player: Player, stages: Mapping[str, Positions], seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Stage -> `exact_error`."""
    return {stage: exact_error(player, positions, seed, device) for stage, positions in stages.items()}


# ---- a file


def read_positions(path: str | Path) -> tuple[Tensor, list[int], list[int]]:
    """Read a file: `position [n, words]`, scores, and line numbers. RequestError where it cannot be read, or where a
    line is not a sequence of legal moves to a running game, and a number.
    """
    try:
        lines = Path(path).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise RequestError(f"{path}: positions cannot be read ({reason})") from error
    games, scores, numbers = [], [], []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        where = f"{path}, line {number}"
        if len(words) != 2:
            raise RequestError(f"{where}: must be moves and a score, as in 44455554221 2")
        moves, score = words
        if not set(moves) <= set("1234567"):
            raise RequestError(f"{where}: moves={moves[:50]} must be columns, digits 1 to 7")
        try:
            scores.append(int(score))
        except ValueError:
            raise RequestError(f"{where}: score={score[:50]} is no whole number") from None
        games.append([int(digit) - 1 for digit in moves])
        numbers.append(number)
    if not games:
        raise RequestError(f"{path}: holds no position; a line is moves and a score, as in 44455554221 2")
    return _played(games, [f"{path}, line {number}" for number in numbers]), scores, numbers


def _played(games: list[list[int]], where: list[str]) -> Tensor:
    """The positions `[n, words]` after playing the games; RequestError, naming `where`, for an illegal move."""
    position = GAME.init(len(games))
    for move in range(max(map(len, games))):
        rows = torch.tensor([row for row, game in enumerate(games) if len(game) > move])
        action = torch.tensor([games[row][move] for row in rows.tolist()])
        here = position[rows]
        legal = GAME.legal(here).gather(1, action[:, None]).squeeze(1)
        if not legal.all():
            wrong = int((~legal).nonzero()[0])
            why = "the game is over before it" if here[wrong, DONE] else f"column {int(action[wrong]) + 1} is full"
            raise RequestError(f"{where[int(rows[wrong])]}: move {move + 1} is not legal: {why}")
        position[rows] = GAME.play(here, action)
    over = position[:, DONE] > 0
    if over.any():
        raise RequestError(f"{where[int(over.nonzero()[0])]}: the game is over after these moves: nothing is to decide")
    return position


def file_positions(path: str | Path, say: Callable[[str], None] | None = None) -> Positions:
    """The solved positions of a file; solutions are cached. `say` reports slow steps. RequestError as in
    `read_positions`, and where a score contradicts the solution.
    """
    position, scores, numbers = read_positions(path)
    text = f"{VERSION} {position.tolist()} {scores}"

    def make() -> Positions:
        (say or _stderr)(f"{path}: solving {len(position):,} positions, once")
        solver = Solver()
        values, keeps = [], []
        for row, score, number in zip(position, scores, numbers, strict=True):
            value = solver.value(row)
            if value != (score > 0) - (score < 0):
                truth = ("is a draw", "is won for the player to move", "is lost for the player to move")[value]
                raise RequestError(f"{path}, line {number}: score={score}, and the position {truth}")
            values.append(value)
            keeps.append(solver.keeping(row, value))
        return Positions(position, torch.tensor(values), torch.tensor(keeps))

    return _cached(f"file_{sha256(text.encode()).hexdigest()[:24]}", lambda: {"file": make()})["file"]


# ---- drawn


def drawn_positions(
    count: int = COUNT, seed: int = 0, say: Callable[[str], None] | None = None
) -> dict[str, Positions]:
    """Stage -> `count` distinct solved positions of random games, equally many for each number of stones; cached. `say`
    reports slow steps. Excluded are positions with an immediate win, and those in which all moves have the same value.
    """

    def make() -> dict[str, Positions]:
        (say or _stderr)(f"drawing and solving {count:,} positions of each stage of Connect Four, once")
        solver, generator = Solver(), torch.Generator().manual_seed(seed)
        return {stage: _draw(stones, count, solver, generator) for stage, stones in STAGES.items()}

    return _cached(f"drawn_{count}_seed_{seed}_v{VERSION}", make)


def _draw(stones: range, count: int, solver: Solver, generator: torch.Generator) -> Positions:
    rows: list[Tensor] = []
    values, keeps = [], []
    for place, after in enumerate(stones):
        wanted = count * (place + 1) // len(stones)
        seen: set[tuple[int, ...]] = set()
        while len(rows) < wanted:
            for row in _undecided(after, generator):
                value = -1 if tuple(row.tolist()) in seen else solver.value(row)
                seen.add(tuple(row.tolist()))
                if value < 0:  # all moves have the same value
                    continue
                keep = solver.keeping(row, value)
                if keep != GAME.legal(row[None])[0].tolist():
                    rows.append(row)
                    values.append(value)
                    keeps.append(keep)
                if len(rows) == wanted:
                    break
    return Positions(torch.stack(rows), torch.tensor(values), torch.tensor(keeps))


def _undecided(moves: int, generator: torch.Generator) -> Tensor:
    """Positions of random games after `moves` moves, running and without an immediate win: `[some, words]`."""
    position = GAME.init(AT_ONCE)
    for _ in range(moves):
        position = GAME.play(position, random_moves(GAME.legal(position), generator))
        position = position[position[:, DONE] == 0]
    return position[~winning(GAME, position, GAME.legal(position)).any(1)]


# ---- the cache


def _cached(name: str, make: Callable[[], dict[str, Positions]]) -> dict[str, Positions]:
    """Load this name from the cache folder, else build it by `make` and write it there atomically."""
    folder = Path(os.environ.get("RLGYM_CACHE") or "~/.cache/rlgym").expanduser().absolute() / "positions"
    path = folder / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        held = json.loads(path.read_text("utf-8"))
        return {
            stage: Positions(
                torch.tensor(part["position"]), torch.tensor(part["value"]), torch.tensor(part["keeps"]).bool()
            )
            for stage, part in held.items()
        }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"solved positions cannot be kept in {folder} ({error.strerror}); set RLGYM_CACHE to a folder that can be "
            "written to"
        ) from error
    made = make()
    held = {
        stage: {
            "position": part.position.tolist(),
            "value": part.value.tolist(),
            "keeps": part.keeps.long().tolist(),
        }
        for stage, part in made.items()
    }
    write_atomic(path, json.dumps(held), f".{path.name}.{os.getpid()}.tmp")
    return made


def _stderr(line: str) -> None:
    print(f"rlgym: {line}", file=sys.stderr)
