"""Prioritised replay against a flat list of priorities, and against its formulae by hand."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from rlgym.agents.off_policy.prioritized import EPSILON, Priorities, annealed
from rlgym.errors import RequestError
from rlgym.run_folder import checkpoint
from tests.agents.past import Past, everything

ALPHA = 0.6


def filled(envs: int = 3, capacity: int = 90, steps: int = 200, phantoms: bool = False) -> tuple[Past, Priorities]:
    past = Past(envs, capacity, phantoms=phantoms).run(steps)
    return past, Priorities(past.replay, ALPHA)


def rated(past: Past, priorities: Priorities, n_step: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """(places, TD errors) after everything was rated at random, a few hundredfold."""
    generator = torch.Generator().manual_seed(5)
    priorities.draw(10, 10, generator, 0.4, n_step)
    _, places = everything(past.replay, n_step)
    errors = torch.randn(len(places), generator=generator) ** 3
    errors[::17] *= 100
    priorities.update(places, errors)
    return places, errors


def check_tree(priorities: Priorities) -> None:
    """Every node is the sum of its children."""
    for below, level in pairwise(priorities.levels):
        assert torch.equal(level, below[::2] + below[1::2])
    assert len(priorities.levels[-1]) <= 16_384


@pytest.mark.parametrize(("envs", "capacity"), [(1, 5), (1, 31), (1, 32), (3, 90), (4, 5_000), (1, 40_000)])
def test_places_are_drawn_in_proportion(envs: int, capacity: int) -> None:
    """rl.md, trap 14: the frequencies are p^alpha / sum p^alpha, within five binomial deviations."""
    past, priorities = filled(envs, capacity, steps=60 if capacity < 100 else 700)
    places, errors = rated(past, priorities)
    share = (errors.double().abs() + EPSILON) ** ALPHA
    share /= share.sum()
    count = 100_000
    drawn, _ = priorities.draw(count, count, torch.Generator().manual_seed(1), 0.4)
    found = torch.bincount(drawn, minlength=envs * past.replay.rows)[places]
    assert found.sum() == count, "nothing but what was rated"
    assert ((found - count * share).abs() <= 5 * (count * share * (1 - share)).sqrt() + 1).all()
    check_tree(priorities)
    # many small minibatches: each transition as often on the whole, whatever the strata
    drawn, _ = priorities.draw(count, 8, torch.Generator().manual_seed(2), 0.4)
    found = torch.bincount(drawn, minlength=envs * past.replay.rows)[places]
    assert ((found - count * share).abs() <= 5 * (count * share * (1 - share)).sqrt() + 1).all()


def test_a_minibatch_is_stratified() -> None:
    """Of n equal priorities a minibatch of n holds each once; of unequal ones, each as often as its share, to one."""
    past, priorities = filled(1, 64)
    for _ in range(5):
        drawn, _ = priorities.draw(3 * 64, 64, torch.Generator().manual_seed(1), 1.0)
        for minibatch in drawn.view(3, 64):
            assert len(set(minibatch.tolist())) == 64
    places, errors = rated(past, priorities)
    share = (errors.double().abs() + EPSILON) ** ALPHA
    share /= share.sum()
    drawn, _ = priorities.draw(640, 64, torch.Generator().manual_seed(1), 1.0)
    for minibatch in drawn.view(10, 64):
        assert ((torch.bincount(minibatch, minlength=past.replay.rows)[places] - 64 * share).abs() < 2).all()


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_weights_by_hand(beta: float) -> None:
    """(N P)^-beta over the largest of the minibatch: at most 1, and 1 once in each."""
    past, priorities = filled()
    places, errors = rated(past, priorities)
    share = (errors.double().abs() + EPSILON) ** ALPHA
    share_of = dict(zip(places.tolist(), (share / share.sum()).tolist(), strict=True))
    drawn, weights = priorities.draw(5 * 16, 16, torch.Generator().manual_seed(1), beta)
    assert weights.dtype == torch.float32 and weights.shape == drawn.shape == (80,)
    for minibatch, found in zip(drawn.view(5, 16), weights.view(5, 16), strict=True):
        raw = [(len(places) * share_of[place]) ** -beta for place in minibatch.tolist()]
        assert found.tolist() == pytest.approx([weight / max(raw) for weight in raw], rel=1e-5)
        assert float(found.max()) == 1.0 and float(found.min()) > 0
    if beta == 1.0:  # then the weighted sum of drawn values estimates their plain mean
        count = 200_000
        value = {place: math.sin(place) for place in places.tolist()}
        drawn, weights = priorities.draw(count, count, torch.Generator().manual_seed(1), beta)
        values = torch.tensor([value[place] for place in drawn.tolist()])
        estimate = float((weights * values).sum() / weights.sum())
        assert estimate == pytest.approx(np.mean(list(value.values())), abs=0.02)


def test_new_transitions_enter_with_the_largest_priority_so_far() -> None:
    past, priorities = filled()
    places, errors = rated(past, priorities)
    largest = (float(errors.abs().max()) + EPSILON) ** ALPHA
    priorities.update(places, errors * 0.01)  # the largest ever, not of those that are left
    past.step()
    priorities.draw(10, 10, torch.Generator(), 0.4)
    new = (past.replay.written - 1) % past.replay.rows + np.arange(3) * past.replay.rows
    assert priorities.levels[0][torch.from_numpy(new)].tolist() == pytest.approx([largest] * 3, rel=1e-6)
    fresh = Priorities(past.replay, ALPHA)
    fresh.draw(10, 10, torch.Generator(), 0.4)
    assert set(fresh.levels[0][everything(past.replay)[1]].tolist()) == {1.0}


def test_of_a_place_drawn_twice_the_last_error_counts() -> None:
    past, priorities = filled()
    priorities.draw(10, 10, torch.Generator(), 0.4)
    place = int(everything(past.replay)[1][4])
    others = everything(past.replay)[1][10:40]
    places = torch.cat([torch.tensor([place]), others, torch.tensor([place]), others, torch.tensor([place])])
    errors = torch.linspace(-9, 3, len(places))
    priorities.update(places, errors)
    assert float(priorities.levels[0][place]) == pytest.approx((3 + EPSILON) ** ALPHA)
    check_tree(priorities)


@pytest.mark.parametrize("phantoms", [False, True])
@pytest.mark.parametrize("n_step", [1, 4])
def test_only_the_window_can_be_drawn(n_step: int, phantoms: bool) -> None:
    """At every moment, around the ring several times: the positive leaves are the window's places, no others."""
    past = Past(3, 60, phantoms=phantoms)
    priorities = Priorities(past.replay, ALPHA)
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    known: dict[tuple[int, int], float] = {}
    for _ in range(60):
        past.run(int(rng.choice([1, 1, 2, 3, 7, 19, 50])))
        numbers, places = everything(past.replay, n_step)
        if not numbers:
            continue
        drawn, weights = priorities.draw(64, 32, generator, 0.5, n_step)
        assert set(drawn.tolist()) <= set(places.tolist()) and weights.max() == 1
        positive = priorities.levels[0].nonzero().squeeze(1)
        assert sorted(positive.tolist()) == sorted(places.tolist())
        check_tree(priorities)
        # and nobody inherits the priority of who lay there before
        largest = float(priorities.largest)
        expected = [known.get(number, largest) for number in numbers]
        assert priorities.levels[0][places].tolist() == pytest.approx(expected)
        known = dict(zip(numbers, expected, strict=True))
        errors = torch.rand(64, generator=generator)
        priorities.update(drawn, errors)
        by_place = dict(zip(places.tolist(), numbers, strict=True))
        for place, error in zip(drawn.tolist(), errors.tolist(), strict=True):
            known[by_place[place]] = (error + EPSILON) ** ALPHA


def test_no_priority_is_lost_among_large_ones() -> None:
    """Sums are formed anew from below: a huge priority that goes leaves no trace, and zeros are never drawn."""
    past, priorities = filled(1, 2_000, steps=1_500)
    places, _ = rated(past, priorities)
    priorities.update(places, torch.full((len(places),), 1e-6))
    before = [level.clone() for level in priorities.levels]
    priorities.update(places[700:701], torch.tensor([1e20]))
    drawn, weights = priorities.draw(64, 64, torch.Generator().manual_seed(0), 0.4)
    assert set(drawn.tolist()) == {int(places[700])} and weights.isfinite().all()
    priorities.update(places[700:701], torch.tensor([1e-6]))
    assert all(torch.equal(one, other) for one, other in zip(before, priorities.levels, strict=True))


@pytest.mark.parametrize("phantoms", [False, True])
def test_restored_priorities_go_on_bit_for_bit(phantoms: bool, tmp_path: Path) -> None:
    """From a checkpoint between two updates, with transitions in it that no draw has seen yet."""
    past, priorities = filled(phantoms=phantoms, steps=70)
    generator = torch.Generator().manual_seed(0)

    def learn(of: Priorities, generator: torch.Generator) -> list[torch.Tensor]:
        drawn, weights = of.draw(64, 16, generator, 0.4, n_step=3)
        of.update(drawn, torch.rand(64, generator=generator))
        return [drawn, weights]

    for _ in range(5):
        learn(priorities, generator)
        past.run(3)
    section = past.replay.state_dict() | priorities.state_dict()
    loaded = checkpoint.load(checkpoint.save(tmp_path, 1, {"replay": section}, {}, {}))[0]["replay"]
    replay = past.fresh()
    replay.load_state_dict(loaded)
    again = Priorities(replay, ALPHA)
    again.load_state_dict(loaded)
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    for _ in range(40):
        for one, other in zip(learn(priorities, generator), learn(again, twin), strict=True):
            assert torch.equal(one, other)
        assert all(torch.equal(one, other) for one, other in zip(priorities.levels, again.levels, strict=True))
        for action, step in [past.step() for _ in range(4)]:
            replay.add(action, step)


def test_a_replay_saved_without_priorities_is_refused() -> None:
    past, priorities = filled()
    with pytest.raises(RequestError, match="no priorities.*replay=false"):
        priorities.load_state_dict(past.replay.state_dict())


def test_beta_goes_to_one_along_a_line() -> None:
    assert [annealed(0.4, step, 100) for step in (0, 50, 100, 500)] == pytest.approx([0.4, 0.7, 1.0, 1.0])
