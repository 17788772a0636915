"""Games on film: what training records, and that recording changes nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlgym.cli.main import main
from rlgym.games import make_game
from rlgym.games.film import FPS, against_itself
from rlgym.games.players import RandomPlayer

QUICK = {
    "alphazero": [
        "env=tic_tac_toe",
        "steps=600",
        "agent.games=16",
        "agent.simulations=4",
        "agent.width=16",
    ],
    "nfsp": ["env=kuhn_poker", "steps=600", "agent.games=16"],
}


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four", "othello", "kuhn_poker", "leduc_poker"])
def test_a_film_has_every_position(name: str, tmp_path: Path) -> None:
    game = make_game(name)
    frames, fps = against_itself(game, RandomPlayer(game), 3)(tmp_path / "game.mp4")
    again, _ = against_itself(game, RandomPlayer(game), 3)(tmp_path / "again.mp4")
    assert fps == FPS and (frames == again).all()
    assert 2 <= len(frames) <= game.max_moves + 1 and frames.shape[3] == 3 and max(frames.shape[1:3]) <= 256
    shows = [bool((a != b).any()) for a, b in zip(frames, frames[1:], strict=False)]
    assert all(shows) or (name == "othello" and shows[0]), "every move shows, but for a pass in Othello"
    assert (tmp_path / "game.mp4").stat().st_size > 0


@pytest.mark.parametrize("agent", QUICK)
def test_training_films_a_game_at_each_evaluation_and_learns_the_same(agent: str, tmp_path: Path) -> None:
    weights = []
    for video in ("true", "false"):
        run = tmp_path / video
        words = [*QUICK[agent], "evaluate.every=300", "evaluate.episodes=2", "display=quiet", "threads=1"]
        assert main(["train", f"agent={agent}", *words, f"evaluate.video={video}", f"run.dir={run}"]) == 0
        last = max(run.glob("checkpoints/step_*"), key=lambda path: int(path.name.split("_")[1]))
        weights.append({path.name: path.read_bytes() for path in last.glob("*.safetensors")})
    evaluations = sum("eval/mean_reward" in json.loads(line) for line in (run / "metrics.jsonl").open())
    assert len(list((tmp_path / "true" / "videos").glob("eval_episode_step_*.mp4"))) == evaluations > 0
    assert weights[0].keys() == weights[1].keys() and weights[0] == weights[1]
