"""Games as environments: the opponent moves inside `step`, the reward is the learner's, from either seat."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Tensor

from rlgym.config.schema import EnvConfig, PoolConfig, SelfPlayConfig
from rlgym.envs import game_ids
from rlgym.envs.batch import BatchEnv
from rlgym.envs.make import make_env
from rlgym.envs.self_play import Always, SelfPlay, SelfPlayEnv, opponent_of
from rlgym.errors import RequestError
from rlgym.games import GAMES, make_game
from rlgym.games.game import DONE, RETURN, TURN, Game
from rlgym.games.players import RandomPlayer
from tests.envs.test_snapshot import act, equal, through_disk

PERFECT = [name for name in GAMES if make_game(name).perfect_information]


def config(game: str, opponent: str = "random", num_envs: int = 3, seat: str = "random", **keys: Any) -> EnvConfig:
    return EnvConfig(id=game, num_envs=num_envs, self_play=SelfPlayConfig(opponent, seat), **keys)


class Diary:
    """A player that writes down what it was shown and what it did."""

    name = "diary"

    def __init__(self, game: Game) -> None:
        self.player = RandomPlayer(game)
        self.pages: list[tuple[Tensor, Tensor]] = []

    def by_noise(self, position: Tensor, noise: Tensor) -> Tensor:
        action = self.player.by_noise(position, noise)
        self.pages += zip(position.clone(), action, strict=True)
        return action

    def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
        raise AssertionError("it goes by noise")

    def reply(self, position: Tensor) -> Tensor:
        """What it did in `position`, once for each time that it was there, the earliest first."""
        for i, (page, action) in enumerate(self.pages):
            if torch.equal(page, position):
                del self.pages[i]
                return action
        raise AssertionError("the opponent was never asked about this position")


@pytest.mark.parametrize("name", GAMES)
def test_transitions_are_those_of_the_rules_played_one_move_at_a_time(name: str) -> None:
    game = make_game(name)
    env, diary, rng = SelfPlay(name, 3, "random"), Diary(game), np.random.default_rng(0)
    env.opponents = Always(diary)
    obs = env.reset(5)
    # Where the learner first stands is taken from the environment, all that follows from the rules.
    standing = env.tables.position.clone()
    seats = env.tables.seat.tolist()
    diary.pages = []
    games, seen = 0, set()
    for _ in range(min(4 * game.max_moves, 80)):
        actions = act(env, rng)
        step = env.step(actions)
        for i in range(3):
            seat, position = torch.tensor([seats[i]]), standing[i : i + 1]
            assert position[0, TURN] == seat
            assert (obs["observation"][i] == game.observe(position, seat)[0].numpy()).all()
            assert (obs["action_mask"][i] == game.legal(position)[0].numpy()).all()
            position = game.play(position, torch.from_numpy(actions[i : i + 1]))
            while not position[0, DONE] and position[0, TURN] != seat:
                position = game.play(position, diary.reply(position[0])[None])
            ended = bool(position[0, DONE])
            won = float(position[0, RETURN]) * (1 if seats[i] == 0 else -1) if ended else 0.0
            assert (step.terminated[i], step.truncated[i], step.reward[i]) == (ended, False, won)
            if ended:
                assert step.final_obs is not None
                assert (step.final_obs["observation"][i] == game.observe(position, seat)[0].numpy()).all()
                assert not step.final_obs["action_mask"][i].any()
                games += 1
                seen.add(seats[i])
                standing[i], seats[i] = env.tables.position[i], int(env.tables.seat[i])
            else:
                standing[i] = position[0]
        diary.pages = []  # what is left opened new games
        assert [e.env for e in step.episodes] == np.flatnonzero(step.terminated).tolist()
        assert torch.equal(env.tables.position, standing)
        obs = step.obs
    assert games >= 4 and seen == {0, 1}


@pytest.mark.parametrize("seat", ["first", "second"])
def test_who_wins_earns_plus_one_from_either_seat(seat: str) -> None:
    """The learner stacks the fourth column; the opponent's stones fill the first two in turn, and never line up."""

    class Harmless:
        name = "harmless"

        def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
            stones = make_game("connect_four").observe(position).sum((1, 2))  # by column
            return (stones[:, 0] > stones[:, 1]).long()

    env = SelfPlay("connect_four", 4, "random", seat)
    env.opponents = Always(Harmless())
    env.reset(0)
    for move in range(4):
        step = env.step(np.full(4, 3))
        assert (step.reward == (move == 3)).all() and (step.terminated == (move == 3)).all()
    assert [(e.ret, e.length) for e in step.episodes] == [(1.0, 4)] * 4


@pytest.mark.parametrize("seat", ["first", "second"])
def test_who_is_beaten_earns_minus_one_from_either_seat(seat: str) -> None:
    class Tower:
        name = "tower"

        def choose(self, position: Tensor, generator: torch.Generator) -> Tensor:
            return torch.full((len(position),), 6)

    env = SelfPlay("connect_four", 2, "random", seat)
    env.opponents = Always(Tower())
    env.reset(0)
    rewards = [env.step(np.full(2, column)).reward.tolist() for column in (0, 1, 0, 1)]
    lost = 3 if seat == "second" else 4  # the first stone of who begins is there before the learner's
    assert rewards[lost - 1] == [-1.0, -1.0] and not np.any(rewards[: lost - 1])


@pytest.mark.parametrize(("name", "opponent"), [*((n, "random") for n in GAMES), *((n, "one_ply") for n in PERFECT)])
def test_sync_gives_the_same_transitions(name: str, opponent: str) -> None:
    native, sync = (make_env(config(name, opponent, backend=backend)) for backend in ("native", "sync"))
    assert (native.backend, sync.backend) == ("native", "sync")
    rng = np.random.default_rng(1)
    assert equal(native.reset(3), sync.reset(3))
    for _ in range(40):
        assert equal(native.action_mask, sync.action_mask)
        actions = act(native, rng)
        one, other = native.step(actions), sync.step(actions)
        for part in ("obs", "reward", "terminated", "truncated", "action_mask"):
            assert equal(getattr(one, part), getattr(other, part)), part
        assert one.episodes == other.episodes
        for row in np.flatnonzero(one.terminated):
            assert one.final_obs is not None and other.final_obs is not None
            assert all((one.final_obs[k][row] == other.final_obs[k][row]).all() for k in one.final_obs)


def test_a_table_goes_on_alike_in_any_batch() -> None:
    wide, narrow = SelfPlay("connect_four", 5, "one_ply"), SelfPlay("connect_four", 1, "one_ply")
    of_wide, of_narrow, rng = wide.reset(10), narrow.reset(13), np.random.default_rng(0)
    for _ in range(40):
        assert all((of_wide[k][3] == of_narrow[k][0]).all() for k in of_wide)
        actions = act(wide, rng)
        of_wide, of_narrow = wide.step(actions).obs, narrow.step(actions[3:4]).obs


@pytest.mark.parametrize("name", ["connect_four", "tic_tac_toe", "leduc_poker"])
@pytest.mark.parametrize("backend", ["native", "sync"])
def test_goes_on_bit_for_bit(name: str, backend: str) -> None:
    opponent = "mcts_2" if name == "tic_tac_toe" else "random"  # one of noise, one of a generator

    def made() -> BatchEnv:
        return make_env(config(name, opponent, backend=backend))

    env, rng = made(), np.random.default_rng(2)
    before, behind = (5, 8) if opponent == "mcts_2" else (11, 25)
    env.reset(1)
    for _ in range(before):
        now = env.step(act(env, rng)).obs
    fresh = made()
    assert equal(fresh.load_state_dict(through_disk(env.state_dict())), now) and fresh.restore_report == ""
    for _ in range(behind):
        actions = act(env, rng)
        assert equal(fresh.action_mask, env.action_mask)
        one, other = env.step(actions), fresh.step(actions)
        assert equal(one.obs, other.obs) and equal(one.reward, other.reward) and one.episodes == other.episodes


@pytest.mark.parametrize("name", GAMES)
def test_gymnasiums_own_check(name: str) -> None:
    env = gym.make(name, render_mode="rgb_array")
    assert isinstance(env.unwrapped, SelfPlayEnv)
    check_env(env.unwrapped)
    obs, info = env.reset(seed=2)
    assert (info["action_mask"] == obs["action_mask"]).all()
    assert isinstance(gym.make(name, render_mode="ansi").unwrapped, SelfPlayEnv)


@pytest.mark.parametrize("name", GAMES)
def test_observations_lie_in_their_space(name: str) -> None:
    env, rng = make_env(config(name, backend="sync", num_envs=2)), np.random.default_rng(0)  # which checks each of them
    env.reset(0)
    for _ in range(50):
        env.step(act(env, rng))


def test_a_forbidden_move_loses() -> None:
    env = gym.make("tic_tac_toe", seat="second")
    obs, _ = env.reset(seed=0)
    taken = int(np.flatnonzero(obs["action_mask"] == 0)[0])
    _, reward, terminated, _, info = env.step(taken)
    assert (reward, terminated) == (-1.0, True) and not info["action_mask"].any()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    batch = SelfPlay("tic_tac_toe", 2, "random", "second")
    mask = batch.reset(0)["action_mask"]
    legal = mask.argmax(1)
    step = batch.step(np.array([int(np.flatnonzero(mask[0] == 0)[0]), legal[1]]))
    assert step.terminated.tolist() == [True, False] and step.reward.tolist() == [-1.0, 0.0]


def test_seats_are_as_asked_for_and_else_even() -> None:
    for seat, expected in (("first", 0.0), ("second", 1.0)):
        env = SelfPlay("tic_tac_toe", 50, "random", seat)
        env.reset(0)
        assert float(env.tables.seat.float().mean()) == expected
    env = SelfPlay("tic_tac_toe", 2_000, "random")
    env.reset(0)
    assert 0.45 < float(env.tables.seat.float().mean()) < 0.55  # 4.5 deviations


def test_deals_are_as_probable_as_the_game_says() -> None:
    env = SelfPlay("kuhn_poker", 6_000, "random", "first")
    env.reset(0)
    found = torch.unique(env.tables.position, dim=0, return_counts=True)[1]
    assert len(found) == 6 and (found.float() / 6_000 - 1 / 6).abs().max() < 0.025  # 5 deviations


WRONG = {
    "frame_stack": (config("connect_four", frame_stack=4), "env.frame_stack=4: one observation"),
    "kwargs": (config("connect_four", kwargs={"x": 1}), "env.kwargs.x has no effect because env=connect_four takes no"),
    "no game": (
        config("CartPole-v1"),
        "env.self_play.opponent=random has no effect because env=CartPole-v1 is no game",
    ),
    "no game, pool": (
        EnvConfig("CartPole-v1", self_play=SelfPlayConfig(pool=PoolConfig(every=7))),
        "env.self_play.pool.every=7 has no effect",
    ),
    "pool, sync": (
        config("connect_four", "pool", backend="sync"),
        "plays in native batches, not with env.backend=sync",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_not_happen_is_refused(case: str) -> None:
    wrong, why = WRONG[case]
    with pytest.raises(RequestError, match=why):
        make_env(wrong)


@pytest.mark.parametrize(
    ("game", "opponent", "why"),
    [
        ("connect_four", "onne_ply", "opponent onne_ply not found - did you mean one_ply?"),
        ("connect_four", "nobody", "opponent nobody: no run 'nobody'"),
        ("connect_four", "pool", "env.self_play.opponent=pool needs an agent"),
        ("kuhn_poker", "one_ply", "opponent one_ply would look at hidden cards of kuhn_poker"),
        ("kuhn_poker", "mcts_10", "opponent mcts_10 would look at hidden cards of kuhn_poker"),
    ],
)
def test_opponents_that_there_are_not(game: str, opponent: str, why: str) -> None:
    with pytest.raises(RequestError, match=why.replace("?", r"\?")):
        opponent_of(opponent, make_game(game))


def test_ids_are_registered_once() -> None:
    game_ids.register()
    assert {spec.id for spec in gym.registry.values() if "SelfPlayEnv" in str(spec.entry_point)} == set(GAMES)


def test_a_lone_environment_has_somebody_to_play_against() -> None:
    assert game_ids.arguments(config("connect_four", "pool")) == {"opponent": "one_ply", "seat": "random"}
    assert game_ids.arguments(config("kuhn_poker", "pool")) == {"opponent": "random", "seat": "random"}
