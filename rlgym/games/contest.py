"""`evaluate RUN` of a run whose environment is a game: games against opponents by name, from either seat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlgym.evaluate import conclude
from rlgym.games import make_game
from rlgym.games.judging import SEATS, judge
from rlgym.games.opponents import as_player, make_players, usual
from rlgym.table import print_table


def contest(
    loaded: Any, id: str, folder: Path, words: dict[str, Any], seed: int, subject: dict[str, Any]
) -> dict[str, Any]:
    """`words["episodes"]` games of what was `loaded` against each of `words["opponents"]`; writes and returns what
    `rlgym.evaluate.evaluate` does, prints a table by opponent and seat."""
    game, games = make_game(id.split(":")[-1]), words["episodes"]
    given = words["opponents"]
    opponents = make_players(given, game, trust=words["trust"]) if given else usual(game)
    found = judge(game, as_player(loaded, game), opponents, games, seed)
    rows = []
    for opponent in opponents:
        rate = {seat: found.metrics.get(f"eval/{opponent.name}/win_rate_{seat}") for seat in SEATS}
        rows.append(
            {"opponent": opponent.name, "games": games, "win_rate": found.metrics[f"eval/{opponent.name}/win_rate"]}
            | rate
        )
    print_table(rows, ["opponent", "games", "win_rate", *SEATS])
    return conclude(found, folder, f"{games * len(opponents)} games", seed, subject)
