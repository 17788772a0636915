"""`evaluate RUN` of a run whose environment is a game: games against named opponents, from both seats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlgym.common.table import print_table
from rlgym.envs.evaluation import report
from rlgym.errors import RequestError
from rlgym.games import make_game
from rlgym.games.evaluation import SEATS, evaluate_player
from rlgym.games.game import Game
from rlgym.games.opponents import as_player, make_players, usual
from rlgym.games.players import Player


def contest(
    loaded: Any, id: str, folder: Path, words: dict[str, Any], seed: int, subject: dict[str, Any]
) -> dict[str, Any]:
    """Play `words["episodes"]` games of the `loaded` player against each of `words["opponents"]`; writes and returns
    the same as `rlgym.cli.evaluate.evaluate`, and prints a table by opponent and seat."""
    game, games = make_game(id), words["episodes"]
    given = words["opponents"]
    opponents = make_players(given, game, trust=words["trust"]) if given else usual(game)
    player = as_player(loaded, game)
    errors = exact(game, player, words["positions"], seed) if words["positions"] else []
    found = evaluate_player(game, player, opponents, games, seed)
    rows = []
    for opponent in opponents:
        rate = {seat: found.metrics.get(f"eval/{opponent.name}/win_rate_{seat}") for seat in SEATS}
        rows.append(
            {"opponent": opponent.name, "games": games, "win_rate": found.metrics[f"eval/{opponent.name}/win_rate"]}
            | rate
        )
    print_table(rows, ["opponent", "games", "win_rate", *SEATS])
    if errors:
        found.records["exact_error"] = errors
        print_table(errors, list(errors[0]))
    return report(found, folder, f"{games * len(opponents)} games", seed, subject)


def exact(game: Game, player: Player, positions: str, seed: int) -> list[dict[str, Any]]:
    """Error rates in positions of known value: a row for the player and, if it searches, one for its network."""
    if game.name != "connect_four":
        raise RequestError(f"positions={positions}: only connect_four is solved, and this is a run of {game.name}")
    from rlgym.games.connect_four.positions import drawn_positions, exact_errors, file_positions

    stages = drawn_positions() if positions == "drawn" else {"file": file_positions(positions)}
    players = [player, *([player.alone] if hasattr(player, "alone") else [])]
    rows = []
    for who in players:
        found = exact_errors(who, stages, seed)
        rows += [
            {"player": who.name, "positions": stage, "count": len(stages[stage]), "exact_error": error}
            for stage, error in found.items()
        ]
    return rows
