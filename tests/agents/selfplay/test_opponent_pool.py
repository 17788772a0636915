"""Past selves: who is drawn, who is kept, that they do not move, and that a resume has them all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgym.agents.dqn import DQN
from rlgym.agents.ppo import PPO
from rlgym.agents.selfplay.elo import outcomes, rounds
from rlgym.agents.selfplay.opponent_pool import FIRST_SELF, ONE_PLY, RANDOM, WINDOW, Pool, Record
from rlgym.config.compose import compose
from rlgym.config.schema import PoolConfig
from rlgym.envs.self_play import SelfPlay
from rlgym.errors import RequestError
from rlgym.games import make_game
from rlgym.games.evaluation import evaluate_player
from rlgym.games.game import Game, random_moves
from rlgym.games.opponents import PolicyPlayer, seen, usual
from rlgym.games.players import OnePlyPlayer, RandomPlayer
from rlgym.run_folder.checkpoint import load, save

SMALL = ["env=tic_tac_toe", "env.num_envs=4", "device=cpu", "compile=off", "tuned=off", "evaluate.episodes=6"]
POOL = ["env.self_play.pool.every=64", "env.self_play.pool.size=3"]
PPO_WORDS = ["agent=ppo", "agent.n_steps=16", "agent.batch_size=32", "agent.n_epochs=1", "agent.learning_rate=0.01"]
DQN_WORDS = ["agent=dqn", "agent.train_freq=32", "agent.gradient_steps=4", "agent.learning_starts=40"]


def agent(*words: str) -> Any:
    config = compose([*SMALL, *POOL, *words])
    return {"ppo": PPO, "dqn": DQN}[config.agent.name](config)


def pool(draw: str = "prioritized", game: str = "connect_four", **knobs: Any) -> tuple[Pool, Any]:
    """One of stand-ins for past selves, and the learner's stand-in, whose step moves on."""
    network = SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)
    network.requires_grad_ = lambda wanted: network
    policy = SimpleNamespace(network=network)
    learner: Any = SimpleNamespace(progress=SimpleNamespace(step=0), policy=policy, config=None, env=None)
    learner.policy_for = lambda config, env, device: policy
    return Pool(PoolConfig(draw=draw, every=10, **knobs), make_game(game), learner), learner


def grown(found: Pool, learner: Any, members: int) -> list[int]:
    for _ in range(members):
        found.draw(0.0)
        learner.progress.step += 10
    found.next_step = 10**9
    return found.active


def shares(found: Pool) -> dict[int, float]:
    """How often each key is drawn: uniform numbers on a grid are exact to its spacing."""
    keys = [found.draw(float(u)) for u in (np.arange(4_000) + 0.5) / 4_000]
    return {key: keys.count(key) / 4_000 for key in sorted(set(keys))}


def test_fixed_shares_and_win_rates_decide_who_sits_opposite() -> None:
    found, learner = pool(power=2.0, random=0.1, one_ply=0.2)
    a, b, c = grown(found, learner, 3)
    for key, rate in ((a, 0.9), (b, 0.5), (c, 0.3)):
        found.members[key].record.rate = rate
    weights = np.array([0.1, 0.5, 0.7]) ** 2
    expected = {RANDOM: 0.1, ONE_PLY: 0.2} | dict(zip((a, b, c), 0.7 * weights / weights.sum(), strict=True))
    assert shares(found) == pytest.approx(expected, abs=2e-3)


def test_uniform_and_latest() -> None:
    found, learner = pool("uniform", random=0.0, one_ply=0.0)
    keys = grown(found, learner, 4)
    assert shares(found) == pytest.approx(dict.fromkeys(keys, 0.25), abs=1e-3)
    found, learner = pool("latest", random=0.0, one_ply=0.5)
    keys = grown(found, learner, 4)
    assert shares(found) == pytest.approx({ONE_PLY: 0.5, keys[-1]: 0.5}, abs=1e-3)


def test_whoever_always_loses_is_drawn_when_all_do() -> None:
    found, learner = pool(random=0.0, one_ply=0.0)
    keys = grown(found, learner, 2)
    for key in keys:
        found.members[key].record.rate = 1.0
    assert shares(found) == pytest.approx(dict.fromkeys(keys, 0.5), abs=1e-3)


def test_games_that_are_all_against_fixed_opponents() -> None:
    found, learner = pool(random=0.5, one_ply=0.5)
    grown(found, learner, 1)
    assert shares(found) == {RANDOM: 0.5, ONE_PLY: 0.5}


def test_hidden_cards_leave_one_plys_share_to_random() -> None:
    found, learner = pool(game="kuhn_poker", random=0.2, one_ply=0.3)
    (key,) = grown(found, learner, 1)
    assert shares(found) == pytest.approx({RANDOM: 0.5, key: 0.5}, abs=1e-3)


def test_the_learner_joins_every_so_many_steps() -> None:
    found, learner = pool()
    steps = []
    for step in (0, 3, 9, 10, 11, 38, 39, 40):
        learner.progress.step = step
        found.draw(0.0)
        steps.append([member.step for member in found.members.values()][-1])
    assert steps == [0, 0, 0, 10, 10, 38, 38, 40]


def test_the_most_beaten_makes_room_and_ends_its_games_first() -> None:
    found, learner = pool(size=3, random=0.0, one_ply=0.0)
    a, b, c = grown(found, learner, 3)
    found.members[b].record.rate = 0.8
    found.members[b].sitting = 2
    found.next_step = 0
    found.draw(0.0)
    assert found.active == [a, c, FIRST_SELF + 3] and found.members[b].retired
    found.finished(b, 1.0)
    assert found.player(b) is not None
    found.finished(b, -1.0)
    assert b not in found.members and b not in shares(found)


def test_a_win_rate_is_a_mean_that_forgets() -> None:
    record = Record()
    for won in (1.0, 1.0, 0.0, -1.0):
        record.add(won)
    assert record.rate == pytest.approx((0.5 + 1 + 1 + 0.5 + 0) / 5)
    for _ in range(2_000):
        record.add(1.0)
    before = record.rate
    record.add(-1.0)
    assert record.rate == pytest.approx(before * WINDOW / (WINDOW + 1)) and before > 0.999


def test_many_opponents_in_one_batch_move_as_each_alone() -> None:
    class First:
        name = "nth"

        def __init__(self, nth: int) -> None:
            self.nth, self.calls = nth, 0

        def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
            self.calls += 1
            legal = make_game("connect_four").legal(position)
            return (legal.cumsum(1) == self.nth + 1).int().argmax(1)

    players = [First(n) for n in range(3)]

    class Three:
        def draw(self, uniform: float) -> int:
            return int(3 * uniform)

        def player(self, key: int) -> First:
            return players[key]

        def finished(self, key: int, won: float) -> None: ...

    env = SelfPlay("connect_four", 12, "random", "second")
    env.opponents = Three()
    env.reset(0)
    keys = env.tables.opponent
    assert set(keys.tolist()) == {0, 1, 2} and [player.calls for player in players] == [1, 1, 1]
    own = make_game("connect_four").observe(env.tables.position)[:, 1]  # the opponent's stones, from the learner's side
    assert torch.equal(own[:, 5].argmax(1), keys)


def test_members_stay_as_they_were() -> None:
    learner = agent(*PPO_WORDS, "env.self_play.pool.size=9")
    probe = learner.env.game.starts()[0]
    first = learner.pool.members[FIRST_SELF]
    before = [x.clone() for x in first.player.policy.network.state_dict().values()]
    outputs = first.player.policy.outputs(seen_of(learner.env.game, probe), None).copy()
    live = learner.policy.outputs(seen_of(learner.env.game, probe), None).copy()
    assert (outputs == live).all()  # it joined before anything was learned
    for _ in range(4):
        learner.update()
    assert all(
        torch.equal(x, y) for x, y in zip(before, first.player.policy.network.state_dict().values(), strict=True)
    )
    assert (first.player.policy.outputs(seen_of(learner.env.game, probe), None) == outputs).all()
    assert (learner.policy.outputs(seen_of(learner.env.game, probe), None) != outputs).any()
    assert [member.step for member in learner.pool.members.values()] == [0, 64, 128, 192]


def seen_of(game: Game, position: Tensor) -> Any:
    return seen(game, position, game.legal(position))


@pytest.mark.parametrize("words", [PPO_WORDS, DQN_WORDS], ids=["ppo", "dqn"])
def test_resumes_bit_for_bit_pool_and_ratings_included(words: list[str], tmp_path: Path) -> None:
    learner = agent(*words)
    for _ in range(7):
        learner.update()
    learner.evaluate()
    for _ in range(3):
        learner.update()
    learner.evaluate()
    saved = save(tmp_path, learner.progress.step, learner.state_dict(), {}, {})
    again = agent(*words)
    again.load_state_dict(load(saved)[0])
    assert {"pool", "standings"} <= again.state_dict().keys()
    for _ in range(8):
        one, other = learner.update(), again.update()
        assert one.keys() == other.keys()
        assert all(torch.equal(torch.as_tensor(one[tag]), torch.as_tensor(other[tag])) for tag in one)
    assert same(learner.evaluate().metrics, again.evaluate().metrics)
    assert same(learner.state_dict(), again.state_dict())


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


def test_what_is_told_of_the_pool() -> None:
    found, learner = pool(random=0.0, one_ply=0.0)
    grown(found, learner, 3)
    for member, rate in zip(found.members.values(), (0.8, 0.6, 0.4), strict=True):
        member.record.rate = rate
    found.finished(ONE_PLY, 1.0)
    told = found.metrics()
    assert told["self_play/win_rate_latest"] == 0.4 and told["self_play/win_rate_past"] == pytest.approx(0.7)
    assert told["self_play/members"] == 3 and told["self_play/win_rate_one_ply"] == 0.75
    assert "self_play/win_rate_random" not in told  # nobody has played it
    assert told["self_play/rating_ahead"] == pytest.approx(400 * np.log10(0.6 / 0.4))


def test_a_memory_is_refused() -> None:
    with pytest.raises(RequestError, match="agent.recurrent=lstm: an observation of env=tic_tac_toe tells all"):
        agent(*PPO_WORDS, "agent.recurrent=lstm", "agent.batch_size=32")


# ---- evaluating


def test_evaluating_counts_by_seat_and_leaves_training_alone() -> None:
    learner = agent(*PPO_WORDS)
    learner.update()
    environment = {name: x.clone() for name, x in learner.env.state_dict().items()}
    found = learner.evaluate()
    assert all(torch.equal(x, learner.env.state_dict()[name]) for name, x in environment.items())
    episodes = found.records["episodes"]
    assert len(episodes) == 12 and sum(found.records["first_moves"]) == 6
    for name in ("random", "one_ply"):
        for seat in ("first", "second"):
            won = [e["return"] for e in episodes if e["opponent"] == name and e["seat"] == seat]
            assert len(won) == 3
            assert found.metrics[f"eval/{name}/win_rate_{seat}"] == pytest.approx(np.mean([(w + 1) / 2 for w in won]))
    assert found.metrics["eval/mean_reward"] == pytest.approx(np.mean([e["return"] for e in episodes]))
    assert learner.unit == "moves" and learner.monitor == ("eval/mean_reward", "max")
    assert {"eval/rating", "eval/rating_low", "eval/rating_high", "eval/rating_behind_best"} <= found.metrics.keys()


def test_the_same_seed_plays_the_same_games() -> None:
    game = make_game("connect_four")
    a, b, c = (evaluate_player(game, OnePlyPlayer(game), usual(game), 10, seed).records for seed in (1, 1, 2))
    assert a == b and a["episodes"] != c["episodes"]


def test_rounds_are_from_both_seats_of_one_opening() -> None:
    game, generator = make_game("connect_four"), torch.Generator().manual_seed(0)
    won = rounds(game, RandomPlayer(game), RandomPlayer(game), 11, generator)
    assert len(won) == 12
    alike = Greedy(game)
    won = rounds(game, alike, alike, 40, generator)
    assert sum(won.tolist()) == 0  # what it wins of itself from one seat it loses from the other
    assert sum(outcomes(won)) == 40 and outcomes(torch.tensor([1, 0, -1, 2])) == (2, 1, 1)


class Greedy:
    """The first legal move: two games of it from one opening are the same."""

    name = "first"

    def __init__(self, game: Game) -> None:
        self.game = game

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        return self.game.legal(position).int().argmax(1)


def test_a_policy_plays_legal_moves_only_and_its_own_where_they_are_legal() -> None:
    game = make_game("connect_four")
    generator = torch.Generator().manual_seed(3)
    position = game.init(64)
    for _ in range(30):
        position = game.step(position, random_moves(game.legal(position), generator))
    position = position[position[:, 1] == 0]
    legal = game.legal(position)
    assert not legal.all()
    wanted = torch.arange(len(position)) % 7
    stubborn = SimpleNamespace(act=lambda obs, mask, sampler: wanted.numpy())
    chosen = PolicyPlayer(stubborn, game).choose(position, generator)
    allowed = legal.gather(1, wanted[:, None]).squeeze(1)
    assert torch.equal(chosen[allowed], wanted[allowed])
    assert legal.gather(1, chosen[:, None]).all()
