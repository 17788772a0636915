"""NFSP: what it stores is what happened, its losses by hand, a reservoir that favours nothing, and exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from rlgym.agents.nfsp import NFSP, NetworkPlayer, draw
from rlgym.agents.selfplay.reservoir import Reservoir
from rlgym.config.compose import compose
from rlgym.errors import RequestError
from rlgym.games import make_game
from rlgym.games.exploitability import nash_conv
from rlgym.games.game import DONE, TURN, rewards
from rlgym.learner import REPLAY, Shared
from rlgym.run_folder import checkpoint

SMALL = (
    "agent.games=16", "agent.n_steps=4", "agent.train_freq=16", "agent.batch_size=16", "agent.average_batch_size=16",
    "agent.learning_starts=64", "agent.net_arch=[16]", "agent.buffer_size=320", "agent.reservoir_size=100",
    "agent.target_update_interval=150", "agent.anticipatory=0.4", "steps=2000", "evaluate.episodes=4", "device=cpu",
)  # fmt: skip


OF_AVERAGES = ("agent.average_batch_size=", "agent.reservoir_size=", "agent.anticipatory=")


def learner(*words: str, env: str = "kuhn_poker") -> NFSP:
    left_out = OF_AVERAGES if "agent.average=false" in words else ()
    small = [word for word in SMALL if not word.startswith(left_out)]
    return NFSP(compose(["agent=nfsp", f"env={env}", *small, *words], "train"))


@pytest.mark.parametrize("env", ("kuhn_poker", "leduc_poker", "tic_tac_toe"))
def test_every_move_is_stored_with_what_came_of_it_for_who_made_it(env: str) -> None:
    made = learner("agent.buffer_size=3200", env=env)
    for _ in range(16):
        made.update()
    game, stored = made.game, {name: part[: made.replay.written] for name, part in made.replay.parts.items()}
    position, after, seat = stored["position"], stored["after"], stored["position"][:, TURN]
    over = after[:, DONE] > 0
    assert (position[:, DONE] == 0).all() and over.any() and (~over).any()
    assert game.legal(position).gather(1, stored["action"][:, None]).all()
    assert (after[~over, TURN] == seat[~over]).all(), "the same player moves next"
    assert torch.equal(stored["reward"], rewards(after, seat) / game.max_return)
    # All moves are there but the latest of each player in games under way.
    assert len(position) == made.progress.step - int((made.last_action >= 0).sum())
    # A move and what the other answered lead there.
    reached = game.play(position, stored["action"])
    found = (reached == after).all(1)
    rows = (~found).nonzero().squeeze(1)
    for row in rows[:8].tolist():
        frontier, seen = reached[row : row + 1], set()
        while len(frontier) and tuple(after[row].tolist()) not in seen:
            others = frontier[(frontier[:, DONE] == 0) & (frontier[:, TURN] != seat[row])]
            at, action = game.legal(others).nonzero(as_tuple=True)
            frontier = game.play(others[at], action)
            seen |= {tuple(each) for each in frontier.tolist()}
        assert tuple(after[row].tolist()) in seen


def test_the_reservoir_holds_moves_of_best_responses_alone() -> None:
    made = learner(
        "agent.exploration_initial_eps=0",
        "agent.learning_starts=2000",
        "agent.buffer_size=2000",
        "agent.reservoir_size=2000",
    )
    for _ in range(30):
        made.update()
    share = made.reservoir.seen / made.progress.step
    assert 0.3 < share < 0.5  # anticipatory
    held = {name: part[: len(made.reservoir)] for name, part in made.reservoir.parts.items()}
    with torch.no_grad():  # nothing was learned yet: the best moves are those of the network as it is
        best = made.response(made.game.observe(held["position"])).argmax(1)
    assert torch.equal(best, held["action"])


def test_losses_by_hand() -> None:
    made = learner(env="leduc_poker")
    for _ in range(20):
        made.update()
    game, batch = made.game, made.replay.draw(64, made.replay_rng)
    loss, mean = made.response_loss(batch)
    errors, values = [], []
    with torch.no_grad():
        for i in range(64):
            one = {name: part[i : i + 1] for name, part in batch.items()}
            q = float(made.response(game.observe(one["position"]))[0, one["action"]])
            aim = float(one["reward"])
            if not one["after"][0, DONE]:
                legal = game.legal(one["after"])[0]
                own, theirs = made.response(game.observe(one["after"]))[0], made.target(game.observe(one["after"]))[0]
                aim += float(theirs[max((a for a in range(game.actions) if legal[a]), key=lambda a: float(own[a]))])
            errors.append((q - aim) ** 2)
            values.append(q)
    assert loss.item() == pytest.approx(sum(errors) / 64, rel=1e-4) and mean.item() == pytest.approx(
        sum(values) / 64, abs=1e-5
    )
    held = made.reservoir.draw(32, made.replay_rng)
    assert made.average is not None
    logits = made.average(game.observe(held["position"]))
    legal = game.legal(held["position"])
    by_hand = [
        -F.log_softmax(row[may], 0)[int(may[:action].sum())]
        for row, may, action in zip(logits, legal, held["action"], strict=True)
    ]
    assert made.average_loss(held).item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-4)


def test_the_target_network_moves_when_it_is_due_and_not_between() -> None:
    made = learner("agent.target_update_interval=640")
    moved = []
    for _ in range(24):
        before = {name: x.clone() for name, x in made.target.state_dict().items()}
        made.update()
        moved.append(any(not torch.equal(x, before[name]) for name, x in made.target.state_dict().items()))
    assert [update for update, did in enumerate(moved, 1) if did] == [10, 20]  # 64 moves each


def test_naive_self_play_has_no_average_and_is_evaluated_by_its_best_response() -> None:
    made = learner("agent.average=false")
    for _ in range(10):
        made.update()
    assert list(made.networks) == ["best_response"] and made.responds.all() and made.reservoir.seen == 0
    found = made.evaluate().metrics
    assert "eval/best_response_nash_conv" not in found
    assert 6 * found["eval/nash_conv"] == pytest.approx(round(6 * found["eval/nash_conv"]))  # a pure strategy's
    assert "average_optimizer" not in made.state_dict()


def test_evaluation_is_exact_and_leaves_no_trace() -> None:
    made, other = learner(), learner()
    for _ in range(8):
        made.update()
        other.update()
    first, second = made.evaluate(), made.evaluate()
    assert first.metrics == second.metrics
    game = make_game("kuhn_poker")
    player = NetworkPlayer(game, made.networks)
    assert first.metrics["eval/nash_conv"] == nash_conv(game, player.chances)
    assert first.metrics["eval/best_response_nash_conv"] >= 0
    assert "eval/mean_reward" in first.metrics
    made.update()
    other.update()
    same(made, other)


def same(one: NFSP, other: NFSP) -> None:
    left, right = flat(one.state_dict()), flat(other.state_dict())
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]) if isinstance(value, torch.Tensor) else value == right[name], name


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(state, Shared):
        state = state.make()
    if not isinstance(state, dict):
        return {prefix: state}
    return {name: x for key, part in state.items() for name, x in flat(part, f"{prefix}/{key}").items()}


@pytest.mark.parametrize(
    "words", (("env=kuhn_poker",), ("env=leduc_poker",), ("env=kuhn_poker", "agent.average=false"))
)
def test_a_resumed_run_equals_one_that_went_on(words: tuple[str, ...], tmp_path: Path) -> None:
    """Replay and reservoir are full by then."""
    straight = learner(*words)
    for _ in range(9):
        straight.update()
    folder = checkpoint.save(tmp_path, straight.progress.step, straight.state_dict(), {}, {})
    state, _ = checkpoint.load(folder)
    resumed = learner(*words)
    resumed.load_state_dict(state)
    same(resumed, straight)
    for _ in range(4):
        straight.update()
        resumed.update()
    same(resumed, straight)


def test_without_its_replay_a_resume_says_so_and_gathers_anew(tmp_path: Path) -> None:
    made = learner("agent.save_replay=false", "agent.learning_starts=100")
    for _ in range(10):
        made.update()
    assert "left out by agent.save_replay=false" in made.exactness["replay"]
    folder = checkpoint.save(tmp_path, made.progress.step, made.state_dict(), {}, {})
    state, _ = checkpoint.load(folder)
    assert REPLAY not in state
    resumed = learner("agent.save_replay=false", "agent.learning_starts=100")
    resumed.load_state_dict(state)
    assert any("without the replay" in line for line in resumed.notices)
    assert "train/loss" not in resumed.update() and "train/loss" in resumed.update()


@pytest.mark.parametrize(
    "words, says",
    (
        (("env=CartPole-v1",), "agent=nfsp plays games against itself"),
        (("env=connect_four",), "connect_four has more than 200,000 positions"),
        (("env=kuhn_poker", "env.num_envs=4"), "agent.games says how many games run at once"),
    ),
)
def test_what_cannot_be_is_refused(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        learner(*words)


def test_a_reservoir_favours_nothing() -> None:
    """Rows 0..999 through 100 places, in batches of odd sizes: each is held with probability 1/10."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(1000)
    for _ in range(200):
        reservoir, at = Reservoir(100, {"x": torch.zeros(1, dtype=torch.int64)}), 0
        for size in (1, 37, 200, 0, 333, 400, 29):
            reservoir.add({"x": torch.arange(at, at + size)}, generator)
            at += size
        held = reservoir.parts["x"]
        assert len(held.unique()) == 100
        counts[held] += 1
    expected = 20.0
    assert float(((counts - expected) ** 2 / expected).sum()) < 1000 * 0.9 + 5 * (2 * 1000) ** 0.5 * 0.9
    thirds = counts.split(250)
    assert all(abs(float(part.mean()) - expected) < 1.5 for part in thirds)


def test_moves_are_drawn_by_their_probabilities() -> None:
    chances = torch.tensor([0.5, 0.3, 0.2])
    drawn = draw(chances.log().expand(40_000, 3), torch.Generator().manual_seed(0))
    assert torch.bincount(drawn) / 40_000 == pytest.approx(chances, abs=0.01)
