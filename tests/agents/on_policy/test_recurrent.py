"""Policies with a memory: the packed pass is the step-by-step one, and nothing crosses the beginning of an episode."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlgym.agents.on_policy.base import OnPolicy
from rlgym.agents.on_policy.sequences import cut
from rlgym.config.schema import EnvConfig
from rlgym.envs.episodes import evaluate_policy
from rlgym.envs.make import make_env
from rlgym.errors import RequestError
from rlgym.learner import NON_FINITE
from tests.agents.worlds import on_policy, same, spy_on_minibatches

CELLS = ["lstm", "gru"]


class Recall(gym.Env[Any, Any]):
    """Shows a cue in the first step, nothing in the two after it; an action equal to the cue in the last pays 1."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode

    def _show(self) -> Any:
        return np.array([(2 * self.cue - 1) if self.t == 0 else 0, self.t / 3], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.cue, self.t = int(self.np_random.integers(2)), 0
        return self._show(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        end = self.t == 3
        return self._show(), float(end and action == self.cue), end, False, {}


def register() -> None:
    if "Recall-v0" not in gym.registry:
        gym.register("Recall-v0", f"{__name__}:Recall")


# ---- step by step, by torch's own cells


def stepper(network: Any, head: str) -> Any:
    """`(x [1, inputs], memory) -> (hidden [1, size], memory)` by nn.LSTMCell or nn.GRUCell with the network's weights;
    a memory of None is an episode's beginning."""
    layer = network.memories[head].layer
    cell: Any = (nn.LSTMCell if network.cell == "lstm" else nn.GRUCell)(layer.input_size, layer.hidden_size)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(cell, name).data.copy_(getattr(layer, f"{name}_l0"))

    def step(x: Tensor, memory: Any) -> Any:
        after = cell(x, memory)
        return (after[0], after) if network.cell == "lstm" else (after, after)

    return step


class ByHand:
    """Outputs and values of a rollout, environment by environment and step by step, with memories carried over."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.memories: list[Any] = [(None, None)] * agent.env.num_envs

    @torch.no_grad()
    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """outputs [time, envs, n], value and next_value [time, envs]"""
        agent, rollout = self.agent, self.agent.rollout
        network = agent.network
        time, envs = rollout.reward.shape
        acts, criticises = stepper(network, "actor"), stepper(network, "critic")
        outputs = torch.full((time, envs, agent.policy.distribution.outputs), torch.nan)
        value, next_value = torch.full((2, time, envs), torch.nan)
        finals = {
            (t, int(e)): {n: x[i] for n, x in obs.items()} for t, at, obs in rollout.cuts for i, e in enumerate(at)
        }
        for e in range(envs):
            actor, critic = self.memories[e]
            for t in range(time):
                x = network.encoder({name: rows[t, e][None] for name, rows in rollout.obs.items()})
                hidden, actor = acts(x, actor)
                outputs[t, e] = network.outputs(hidden)
                hidden, critic = criticises(x, critic)
                value[t, e] = network.critic(hidden)
                following = {name: rows[t + 1, e] for name, rows in rollout.obs.items()}
                following = finals.get((t, e), following)
                x = network.encoder({name: torch.as_tensor(row)[None] for name, row in following.items()})
                next_value[t, e] = network.critic(criticises(x, critic)[0])
                if rollout.done[t, e] or (rollout.valid is not None and not rollout.valid[t, e]):
                    actor = critic = None
            self.memories[e] = (actor, critic)
        return outputs, value, next_value


WORLDS: dict[str, dict[str, Any]] = {
    "terminated": {"id": "CartPole-v1", "n_steps": 32, "batch_size": 64},
    "truncated": {"id": "Clock-v0", "kwargs": {"length": 5, "last": 3.0}, "n_steps": 12, "batch_size": 24},
    "gaussian, scaled": {"id": "Pendulum-v1", "env": {"normalize_observation": True}},
    "masked": {"id": "AllowedOnly-v0"},
    "images": {"id": "AllowedOnly-v0", "kwargs": {"image": True}},
    "phantoms": {"id": "ClockVector-v0", "env": {"backend": "native"}, "num_envs": 3, "n_steps": 10, "batch_size": 10},
}


def agent_in(world: str, cell: str, **knobs: Any) -> Any:
    made = on_policy(f"ppo {cell}", **{"batch_size": 32, **WORLDS[world], **knobs})
    with torch.no_grad():
        for parameter in made.network.parameters():  # a last layer of size 0.01 would hide differences
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return made


def gathered(agent: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
    """One rollout, as `update` gathers it: the batch, the outputs that were acted by `[time, envs, n]`, V and V of what
    followed `[time, envs]`."""
    acted: list[Tensor] = []
    evaluated: list[Any] = []
    name = "compute" if agent.acting.numpy_actor is None else "outputs"
    act, evaluate = getattr(agent.acting, name), agent.sequences.evaluate_rollout

    def noted(*given: Any) -> Any:
        outputs = act(*given)
        acted.append(torch.as_tensor(outputs).clone())
        return outputs

    def kept(*given: Any) -> Any:
        evaluated.extend(evaluate(*given))
        return tuple(evaluated)

    setattr(agent.acting, name, noted)
    agent.sequences.evaluate_rollout = kept
    agent.acting.remember(agent.sequences.memory)
    agent.rollout.collect(agent.env, agent.acting, agent.sampler, None)
    batch = agent.batch()
    setattr(agent.acting, name, act)
    agent.sequences.evaluate_rollout = evaluate
    return batch, torch.stack(acted), evaluated[1], evaluated[2]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("world", WORLDS)
def test_the_packed_pass_and_the_acting_equal_step_by_step(world: str, cell: str) -> None:
    agent = agent_in(world, cell)
    by_hand = ByHand(agent)
    for _ in range(3):  # memories go over from one rollout to the next
        batch, acted, value, next_value = gathered(agent)
        rollout = agent.rollout
        real = torch.ones_like(rollout.done, dtype=torch.bool) if rollout.valid is None else rollout.valid
        outputs, expected, expected_next = by_hand()
        seen = real if rollout.mask is None else real[..., None] & rollout.mask[:-1]
        torch.testing.assert_close(acted[seen], outputs[seen], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(value[real], expected[real], rtol=1e-5, atol=1e-5)
        known = real & (rollout.terminated == 0)  # what a terminated state is worth is not asked
        torch.testing.assert_close(next_value[known], expected_next[known], rtol=1e-5, atol=1e-5)
        for envs in ([1], [2, 0], range(agent.env.num_envs)):
            part = agent.sequences.of(batch, envs)
            log_prob, _, again = agent.evaluate_actions(part)
            torch.testing.assert_close(log_prob, part["old_log_prob"], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(again, part["old_value"], rtol=1e-5, atol=1e-5)
            assert len(again) == real[:, list(envs)].sum()
        rollout.carry_over()
    assert (acted.flatten(0, 1).std(0) > 1e-3).any()


@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_is_that_of_the_steps(cell: str) -> None:
    """Back-propagation through packed sequences against a loop over the steps of each environment."""
    agent = agent_in("truncated", cell)
    network, envs = agent.network, agent.env.num_envs
    gathered(agent)
    agent.rollout.carry_over()
    began = agent.sequences.memory.clone()
    assert (began != 0).any()
    batch, *_ = gathered(agent)
    part = agent.sequences.of(batch, [3, 1])
    outputs, value = network(part["obs"], *part["sequence"])
    (outputs.sin().sum() + value.cos().sum()).backward()
    found = agent.optimizer.gradients.clone()

    agent.optimizer.gradients.zero_()
    total: Any = 0.0
    one = torch.tensor([1])
    for e in (1, 3):
        memory = began[e][None]
        for t in range(agent.rollout.time):
            obs = {name: rows[t, e][None] for name, rows in agent.rollout.obs.items()}
            outputs, value, memory = network.run(network.encoder(obs), one, memory)
            total = total + outputs.sin().sum() + value.cos().sum()
            memory = memory * (1 - agent.rollout.done[t, e])
    total.backward()
    torch.testing.assert_close(found, agent.optimizer.gradients, rtol=1e-4, atol=1e-5)
    assert envs == 4 and found.abs().max() > 1e-2


# ---- nothing crosses the beginning of an episode (rl.md, trap 18)


@pytest.mark.parametrize("cell", CELLS)
def test_permuting_the_previous_episode_leaves_outputs_unchanged(cell: str) -> None:
    agent = agent_in("truncated", cell)
    batch, _, value, next_value = gathered(agent)
    rollout = agent.rollout  # 12 steps: episodes of 5, 5 and the first 2 of the third
    for rows in rollout.obs.values():
        rows[:5] = rows[[3, 1, 4, 0, 2]]
    agent.sequences.memory = agent.sequences._began
    log_prob, permuted, permuted_next = agent.sequences.evaluate_rollout(
        rollout.flat_obs(), None, rollout.action.flatten(0, 1)
    )
    assert torch.equal(permuted[5:], value[5:]) and torch.equal(permuted_next[5:], next_value[5:])
    assert torch.equal(log_prob[20:], batch["old_log_prob"][20:])
    assert (permuted[2:5] != value[2:5]).all() and (log_prob[8:20] != batch["old_log_prob"][8:20]).any()


@pytest.mark.parametrize("numpy", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_an_acting_policy_forgets_at_episode_ends_and_only_there(cell: str, numpy: bool) -> None:
    agent = agent_in("terminated", cell)
    policy = agent.policy
    if not numpy:
        policy.numpy_actor = None
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 6, 3, 4)).astype(np.float32)

    def outputs(obs: Any) -> Any:
        return policy.outputs({"obs": obs}, None).copy()

    def after(episode: Any, ended: list[int]) -> Any:
        policy.start(3)
        before = [outputs(obs) for obs in episode]
        policy.ended(ended)
        return before, np.stack([outputs(obs) for obs in second])

    straight, plain = after(first, [0, 2])
    _, permuted = after(first[::-1], [0, 2])
    np.testing.assert_array_equal(plain[:, [0, 2]], permuted[:, [0, 2]])
    assert (plain[:, 1] != permuted[:, 1]).all(), "an episode that goes on remembers"
    policy.start(3)
    np.testing.assert_array_equal(outputs(first[0]), straight[0])
    assert (outputs(first[0]) != straight[0]).all(), "the second time is another moment"
    with torch.no_grad():
        begun = agent.network.policy({"obs": torch.from_numpy(first[0])})
    np.testing.assert_allclose(begun, straight[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_pieces_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    time, envs = 11, 4
    done = (rng.random((time, envs)) < 0.25).astype(np.float32)
    valid = None
    if seed % 2:  # the step after each end is a phantom
        done[1:] *= 1 - done[:-1]
        valid = np.ones((time, envs), bool)
        valid[1:] = done[:-1] == 0
    chosen = [2, 0, 3]
    expected = []
    for e in chosen:
        piece: list[int] = []
        for t in range(time):
            if valid is not None and not valid[t, e]:
                continue
            piece.append(t * envs + e)
            if done[t, e] or t == time - 1:
                expected.append(tuple(piece))
                piece = []
        expected += [tuple(piece)] if piece else []
    pieces = cut(done, valid).of(chosen)
    rows, sizes = pieces.packed(envs)
    found = [[] for _ in pieces.env]  # type: list[list[int]]
    at = 0
    for size in sizes:
        for i in range(size):
            found[i].append(int(rows[at]))
            at += 1
    assert at == len(rows) and sorted(map(tuple, found)) == sorted(expected)
    assert (np.diff(pieces.length) <= 0).all() and (np.diff(sizes) <= 0).all()
    assert [(row[0] % envs, row[0] // envs) for row in found] == list(zip(pieces.env, pieces.start, strict=True))


# ---- minibatches


def test_minibatches_are_whole_environments_each_once_an_epoch() -> None:
    agent = on_policy("ppo lstm", "CartPole-v1", num_envs=6, n_steps=8, batch_size=16, n_epochs=2)
    seen = spy_on_minibatches(agent)
    agent.update()
    assert [len(part["action"]) for part in seen] == [16] * 6
    for epoch in (seen[:3], seen[3:]):
        rows = torch.cat([part["obs"]["obs"] for part in epoch])
        assert len(torch.unique(rows, dim=0)) == 48
    ratio = (seen[0]["log_prob"] - seen[0]["old_log_prob"]).exp()
    assert (ratio - 1).abs().max() < 1e-5, "(rl.md, trap 9)"
    assert (seen[-1]["log_prob"] - seen[-1]["old_log_prob"]).abs().max() > 1e-6


# ---- evaluation, and use by hand


def test_evaluation_equals_playing_one_by_one() -> None:
    """Three environments at once with one policy, against `predict` in each alone; training's memory is left alone."""
    agent = agent_in("terminated", "lstm")
    agent.update()
    memory = agent.sequences.memory.clone()
    found = evaluate_policy(agent.policy, make_env(EnvConfig("CartPole-v1", 3)), 6, seed=4).records["episodes"]
    assert torch.equal(memory, agent.sequences.memory)
    for slot in range(3):
        env = gym.make("CartPole-v1")
        observation, _ = env.reset(seed=4 + slot)
        for episode in range(2):
            agent.policy.start(1)
            total, over = 0.0, False
            while not over:
                observation, reward, terminated, truncated, _ = env.step(agent.policy.predict(observation))
                total, over = total + float(reward), terminated or truncated
            assert total == found[2 * slot + episode]["return"]
            observation, _ = env.reset()


@pytest.mark.parametrize("cell", CELLS)
def test_a_loaded_policy_remembers_alike(cell: str) -> None:
    agent = agent_in("terminated", cell)
    state = {"model": agent.network.state_dict()}
    loaded = OnPolicy.load(agent.config, state, torch.device("cpu"), None)  # type: ignore[arg-type]
    obs = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    for policy in (agent.policy, loaded):
        policy.start(3)
    for row in obs:
        mine, other = (policy.outputs({"obs": row}, None).copy() for policy in (agent.policy, loaded))
        np.testing.assert_array_equal(mine, other)


# ---- memory pays, and its absence does not


def solved(agent: str, updates: int, **knobs: Any) -> float:
    register()
    made = on_policy(
        agent, "Recall-v0", {"backend": "sync"}, num_envs=8, episodes=40, learning_rate=0.02, **knobs
    )  # fmt: skip
    for _ in range(updates):
        assert made.update()[NON_FINITE] == 0
    return float(made.evaluate().metrics["eval/mean_reward"])


@pytest.mark.parametrize("agent", ["ppo lstm", "ppo gru", "a2c lstm"])
def test_recalls_a_cue(agent: str) -> None:
    sizes = {} if agent == "a2c lstm" else {"batch_size": 32, "n_epochs": 4}
    assert solved(agent, 60 if agent == "a2c lstm" else 30, normalize_advantage=True, **sizes) == 1.0


def test_without_a_memory_the_cue_is_lost() -> None:
    assert solved("ppo", 30, batch_size=32, n_epochs=4) < 0.8


# ---- wrong requests


def test_wrong_combinations_say_what_would_do() -> None:
    with pytest.raises(RequestError, match=r"agent.batch_size=24: minibatches of agent.recurrent=lstm are whole sequ"):
        on_policy("ppo lstm", "CartPole-v1", batch_size=24)
    with pytest.raises(RequestError, match="compile=on: sequences of agent.recurrent=lstm .*; compile=off would do"):
        on_policy("a2c lstm", "CartPole-v1", compile="on")


def test_a_checkpoint_holds_the_memory() -> None:
    agent = on_policy("ppo lstm", "CartPole-v1")
    agent.update()
    state = agent.state_dict()
    assert state["memory"]["memory"].shape == (4, 2, 16) and (state["memory"]["memory"] != 0).any()
    other = on_policy("ppo lstm", "CartPole-v1")
    other.load_state_dict(state)
    assert same(other.state_dict(), agent.state_dict())
