"""`play RUN` of a run whose environment is a game: a person against the program, two programs, or a video of either."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlgym.envs.episodes import fresh_seed
from rlgym.games import make_game
from rlgym.games.film import film, replay
from rlgym.games.game import Game
from rlgym.games.match import play_games
from rlgym.games.opponents import as_player, make_player
from rlgym.games.players import Player
from rlgym.games.terminal import SEATS, amount, play_in_terminal
from rlgym.run_folder.folder import Run
from rlgym.run_folder.loading import load


def play(config: Any, folder: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Play `episodes` games with the run's `checkpoint`, in the terminal or to a video; prints and returns their
    returns. Without `against` a person plays in the terminal from `seat`, switching seats after each game; in a video
    the run plays itself. With `against` the opponent plays from `seat`.
    """
    game = make_game(config.env.id)
    program = as_player(load(Run(folder), words["checkpoint"], trust=words["trust"]), game)
    seed = words["seed"]
    if seed is None:  # another game each time for a person
        seed = fresh_seed(config.seed) if words["against"] or words["render"] == "video" else time.time_ns() % 2**31
    generator = torch.Generator().manual_seed(seed)
    seats = [(SEATS.index(words["seat"] or "first") + number) % 2 for number in range(words["episodes"])]
    if not words["against"] and words["render"] != "video":
        return {"episodes": with_person(game, program, seats, generator)}
    other = make_player(words["against"], game, trust=words["trust"]) if words["against"] else program
    path = None
    if words["render"] == "video":
        path = folder / "videos" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_seed_{seed}.mp4"
    return between(game, program, other, seats, generator, path)


def with_person(game: Game, program: Player, seats: list[int], generator: torch.Generator) -> list[dict[str, Any]]:
    """Games of a person in `seats`; returns the program's results of finished games."""
    found = []
    for seat in seats:
        won = play_in_terminal(game, program, seat, generator)
        if won is None:
            break
        found.append({"return": -won, "seat": SEATS[1 - seat]})
    return found


def between(
    game: Game, program: Player, other: Player, seats: list[int], generator: torch.Generator, path: Path | None
) -> dict[str, Any]:
    """Play games with `other` in `seats`, printed move by move, and recorded to `path` if given."""
    found: dict[str, Any] = {"episodes": []}
    shown: list[Tensor] = []
    for number, seat in enumerate(seats, 1):
        players = [other, program] if seat == 0 else [program, other]
        start = game.init(1, generator=generator)
        played = play_games(game, players, start, generator)
        won = float(played.won[0]) * (2 * seat - 1)
        moves = [action for action in played.moves[0].tolist() if action >= 0]
        found["episodes"].append({"return": won, "length": len(moves), "seat": SEATS[1 - seat]})
        names = " ".join(game.move_name(action) for action in moves)
        end = "a draw" if won == 0 else f"{(program if won > 0 else other).name} wins{amount(game, won)}"
        print(f"game {number}: {program.name} moves {SEATS[1 - seat]}, {other.name} {SEATS[seat]}: {names}: {end}")
        positions = replay(game, start, played)
        if number == len(seats):
            print(game.text(positions[-1]))
        if path is not None:
            shown += positions
    points = [0.5 + 0.5 * ((e["return"] > 0) - (e["return"] < 0)) for e in found["episodes"]]
    print(f"{program.name} has {sum(points):g} of {len(points)} points against {other.name}")
    if path is not None:
        film(game, shown, path)
        found["video"] = str(path)
        print(f"written to {path}")
    return found
