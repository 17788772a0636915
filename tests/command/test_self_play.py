"""Games through the real command line: learning, evaluating by seat, watching, resuming, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command.conftest import Answer

FEW = ["device=cpu", "compile=off", "tuned=off", "display=quiet", "evaluate.episodes=4", "log.every=64"]
AGENTS = {
    "ppo": ["agent=ppo", "env.num_envs=4", "agent.n_steps=16", "agent.batch_size=32", "agent.net_arch=[16]"],
    "dqn": ["agent=dqn", "env.num_envs=4", "agent.learning_starts=30", "agent.train_freq=32", "agent.net_arch=[16]"],
}


@pytest.mark.parametrize("agent", AGENTS)
def test_learns_is_evaluated_resumed_and_watched(agent: str, command: Callable[..., Answer], tmp_path: Path) -> None:
    words = [*AGENTS[agent], *FEW, "env=tic_tac_toe", "env.self_play.pool.every=64", "steps=192"]
    assert command(*words, "run.dir=run").code == 0
    run = tmp_path / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = {tag for row in rows for tag in row}
    assert {"eval/random/win_rate_first", "eval/one_ply/win_rate_second", "eval/mean_reward", "eval/rating"} <= told
    assert {"self_play/win_rate_latest", "self_play/members", "rollout/ep_rew_mean"} <= told
    checkpoint = max((run / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
    assert (checkpoint / "pool.safetensors").is_file() and (checkpoint / "standings.safetensors").is_file()

    evaluated = command("evaluate", "run", "episodes=6", "opponents=one_ply,mcts_2,run", "seed=1")
    assert evaluated.code == 0, evaluated.err
    table = [line.split() for line in evaluated.out.splitlines()]
    assert table[0] == ["opponent", "games", "win", "rate", "first", "second"]
    assert [row[:2] for row in table[1:4]] == [["one_ply", "6"], ["mcts_2", "6"], ["run", "6"]]
    (written,) = (run / "evaluations").glob("*_18_episodes_seed_1.json")
    found = json.loads(written.read_text())
    assert len(found["episodes"]) == 18 and sum(found["first_moves"]) == 9
    assert {e["opponent"] for e in found["episodes"]} == {"one_ply", "mcts_2", "run"}
    assert 0 <= found["mcts_2/win_rate_first"] <= 1

    assert command("play", "run", "render=video").code == 0 and len(list((run / "videos").glob("*.mp4"))) == 1
    assert command("resume", "run", "steps=320", "display=quiet").code == 0
    assert json.loads((run / "summary.json").read_text())["steps"] >= 320

    # A run is an opponent, by name; written down as its folder.
    against = command(*AGENTS[agent], *FEW, "env=tic_tac_toe", "env.self_play.opponent=run", "steps=64", "run.dir=b")
    assert against.code == 0, against.err
    assert f"opponent: {run}" in (tmp_path / "b" / "config.yaml").read_text()
    # ... of its own game only.
    other = command(*AGENTS[agent], *FEW, "env=connect_four", "env.self_play.opponent=run", "run.dir=c")
    assert (other.code, other.out) == (2, "")
    assert f"opponent {run} is a run of tic_tac_toe, and this is connect_four" in other.err


@pytest.mark.parametrize("game", ["connect_four", "othello_6x6", "kuhn_poker"])
def test_every_kind_of_game_is_learned(game: str, command: Callable[..., Answer], tmp_path: Path) -> None:
    assert command(*AGENTS["ppo"], *FEW, f"env={game}", "steps=64", "run.dir=run", "evaluate.every=0").code == 0
    assert command("evaluate", "run", "episodes=2").code == 0
    assert command("play", "run", "render=video").code == 0


WRONG = {
    "env.self_play.opponent=nobody": "opponent nobody: no run 'nobody' under runs/",
    "env.self_play.opponent=onne_ply": "opponent onne_ply not found - did you mean one_ply?",
    "env.self_play.seat=third": "env.self_play.seat=third: must be one of first, second, random",
    "env.self_play.pool.random=0.7 env.self_play.pool.one_ply=0.7": "add up to more than 1",
    "env.self_play.pool.every=0": "env.self_play.pool.every=0: must be > 0",
    "env.backend=sync": "env.self_play.opponent=pool plays in native batches, not with env.backend=sync",
    "env.frame_stack=2": "env.frame_stack=2: one observation of env=connect_four tells everything",
    "agent.recurrent=lstm agent.batch_size=128": "agent.recurrent=lstm: an observation of env=connect_four tells all",
    "agent=sb3/ppo": "env.self_play.opponent=pool needs an agent that keeps its past selves",
    "agent=sac": "agent=sac",
    "env=kuhn_poker env.self_play.opponent=one_ply": "opponent one_ply would look at hidden cards of kuhn_poker",
    "env=CartPole-v1 env.self_play.seat=first": "env.self_play.seat=first has no effect because env=CartPole-v1 is",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_requests_are_one_line(words: str, command: Callable[..., Answer], tmp_path: Path) -> None:
    asked = words.split(" ")
    groups = {word.partition("=")[0] for word in asked}
    asked += [word for word in ("agent=ppo", "env=connect_four") if word.partition("=")[0] not in groups]
    answer = command(*asked, "display=quiet")
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("rlgym: ") and WRONG[words] in line
    assert list(tmp_path.iterdir()) == []


def test_opponents_are_for_games(command: Callable[..., Answer]) -> None:
    assert command(*FEW, "agent=ppo", "env=CartPole-v1", "steps=256", "agent.n_steps=32", "run.dir=run").code == 0
    answer = command("evaluate", "run", "opponents=random")
    assert (
        answer.code == 2
        and "opponents=random has no effect because env=CartPole-v1 is no game of rlgym's" in answer.err
    )


def test_help_lists_the_games(command: Callable[..., Answer]) -> None:
    out = command("--help").out
    for game in ("tic_tac_toe", "connect_four", "othello", "othello_6x6", "kuhn_poker", "leduc_poker"):
        assert f"env={game} " in out
    assert "env.self_play.pool.every=20000" in command("train", "--help").out
