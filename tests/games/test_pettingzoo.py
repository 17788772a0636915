"""The games as PettingZoo environments: its own tests, and its Connect Four as a second implementation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from rlgym.games import GAMES, make_game

pytest.importorskip("pettingzoo")


@pytest.mark.parametrize("name", GAMES)
def test_pettingzoos_own_tests(name: str) -> None:
    from pettingzoo.test import api_test, seed_test

    from rlgym.games.pettingzoo import env

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty board is all zeros; an observation is a dict
        api_test(env(name, render_mode="rgb_array"), num_cycles=60)
        seed_test(lambda: env(name), num_cycles=40)


def test_agrees_with_pettingzoos_connect_four() -> None:
    classic = pytest.importorskip("pettingzoo.classic.connect_four_v3")
    from rlgym.games.pettingzoo import env

    rng, ours, theirs = np.random.default_rng(0), env("connect_four"), classic.env()
    for _ in range(20):
        ours.reset(seed=0)
        theirs.reset(seed=0)
        while True:
            assert ours.agent_selection == theirs.agent_selection
            (obs, reward, ended, _, _), (of_theirs, *their_end) = ours.last(), theirs.last()
            assert [reward, ended] == their_end[:2]
            if ended:
                break
            assert (obs["action_mask"] == of_theirs["action_mask"]).all()
            assert (np.moveaxis(obs["observation"], 0, -1) == of_theirs["observation"]).all()
            action = int(rng.choice(np.flatnonzero(obs["action_mask"])))
            ours.step(action)
            theirs.step(action)


@pytest.mark.parametrize("name", ["connect_four", "leduc_poker"])
def test_a_forbidden_move_loses(name: str) -> None:
    from rlgym.games.pettingzoo import env

    made = env(name)
    made.reset(seed=1)
    if name == "connect_four":
        for _ in range(6):
            made.step(0)
    mask = made.last()[0]["action_mask"]
    offender = made.agent_selection
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.step(int(np.flatnonzero(mask == 0)[0]))
    assert made.rewards[offender] == -make_game(name).max_return and all(made.terminations.values())
