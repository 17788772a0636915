"""DQN as a whole: what its gradient steps are, at what pace they come, and where it may be used."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlgym.agents.dqn import DQN
from rlgym.agents.q_learning.gradient import Autograd, ByHand
from rlgym.agents.q_learning.networks import NumpyQ
from rlgym.config.device import can_compile
from rlgym.config.schema import TrainConfig
from rlgym.errors import RequestError
from rlgym.learner import NON_FINITE, Shared
from rlgym.run_folder import checkpoint
from tests.agents.q_learning.test_targets import projected_by_hand
from tests.agents.q_worlds import AGENTS, STATES, known_values, q_learner
from tests.agents.worlds import OBSERVATIONS, copied, same

PARTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "double": {"double": True},
    "dueling": {"dueling": True},
    "n_step": {"n_step": 3},
    "prioritized": {"prioritized": True},
    "c51": {"distributional": "c51", "v_min": -1.0, "v_max": 3.0, "atoms": 21},
    "qr": {"distributional": "qr", "quantiles": 5},
    "double dueling n_step prioritized c51": {
        **{"double": True, "dueling": True, "n_step": 3, "prioritized": True},
        **{"distributional": "c51", "v_min": -1.0, "v_max": 3.0, "atoms": 21},
    },
}


def first_after(learner: Any, updates: int) -> tuple[Any, Any, int]:
    """The samples of an update's gradient steps, as `learn` is given them, and the network and target it then uses."""
    for _ in range(updates):
        learner.update()
    for _ in range(8):
        learner.gather()
    steps = 4
    batches = learner.sample(steps * learner.knobs.batch_size)
    learner.move_target()
    return batches, (deepcopy(learner.network), deepcopy(learner.target)), steps


# ---- gradient steps, against a second implementation


def reference_loss(network: Any, target: Any, batch: Any, knobs: Any) -> tuple[Tensor, Tensor]:
    """The mean loss of a minibatch and its unweighted rows, by the papers' formulas and torch's own losses."""
    rows = torch.arange(len(batch["action"]))
    with torch.no_grad():
        said = target(batch["next_obs"])
        choosing = network(batch["next_obs"]) if knobs.double else said
        best = network.expected(choosing).argmax(-1)
        said = said[rows, best]
    predicted = network(batch["obs"])[rows, batch["action"]]
    if knobs.distributional == "c51":
        p = torch.softmax(said, -1)
        goal = torch.from_numpy(projected_by_hand(p, batch["reward"], batch["discount"], network.support)).float()
        loss = F.cross_entropy(predicted, goal, reduction="none")
    else:
        goal = batch["reward"][:, None] + batch["discount"][:, None] * said
        if knobs.distributional == "qr":
            n = knobs.quantiles
            levels = torch.tensor([(2 * i + 1) / (2 * n) for i in range(n)])
            pairs = goal[:, None, :].expand(-1, n, -1), predicted[:, :, None].expand(-1, -1, n)
            sizes = F.huber_loss(pairs[1], pairs[0], reduction="none")
            weights = torch.where(pairs[0] < pairs[1], 1 - levels[:, None], levels[:, None])
            loss = (sizes * weights).mean(2).sum(1)
        else:
            loss = F.huber_loss(predicted, goal, reduction="none").squeeze(-1)
    return (loss * batch.get("weights", torch.ones(len(loss)))).mean(), loss.detach()


@pytest.mark.parametrize("part", PARTS)
def test_gradient_steps_equal_a_second_implementation(part: str) -> None:
    learner = q_learner("dqn", "CartPole-v1", num_envs=2, learning_rate=3e-3, max_grad_norm=0.5, **PARTS[part])
    assert isinstance(learner.passes, ByHand)
    batches, (network, target), steps = first_after(learner, 12)
    adam = torch.optim.Adam(network.parameters(), lr=3e-3, eps=learner.knobs.adam_eps)
    state = learner.optimizer.state_dict()
    for name, parameter in network.named_parameters():
        adam.state[parameter] = {
            "step": state["steps"].clone(),
            "exp_avg": state[f"{name}.exp_avg"].clone(),
            "exp_avg_sq": state[f"{name}.exp_avg_sq"].clone(),
        }
    given: list[Tensor] = []
    if learner.priorities is not None:
        learner.priorities.update = lambda places, errors: given.append(errors)
    metrics = learner.learn(batches, steps)

    rows, losses, priorities = learner.knobs.batch_size, [], []
    for step in range(steps):
        part_of = slice(step * rows, (step + 1) * rows)
        batch = {
            name: {"obs": x["obs"][part_of]} if isinstance(x, dict) else None if x is None else x[part_of]
            for name, x in batches.items()
        }
        loss, priority = reference_loss(network, target, batch, learner.knobs)
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        adam.step()
        losses.append(float(loss.detach()))
        priorities.append(priority)
    for (name, p), p2 in zip(network.named_parameters(), learner.network.parameters(), strict=True):
        np.testing.assert_allclose(p2.detach(), p.detach(), atol=2e-5, err_msg=name)
    assert float(metrics["train/loss"]) == pytest.approx(np.mean(losses), rel=1e-3)
    assert metrics[NON_FINITE] == 0
    if given and learner.knobs.distributional == "none":  # priorities are |TD error|, of which the loss is made
        error = given[0]
        size = torch.where(error <= 1, 0.5 * error.square(), error - 0.5)
        np.testing.assert_allclose(size, torch.cat(priorities), rtol=1e-3, atol=1e-5)


def test_double_values_what_the_other_network_chose() -> None:
    learner = q_learner("dqn", "CartPole-v1", double=True)
    batches, _, _ = first_after(learner, 10)
    learner.network.advantage.bias.data += torch.tensor([100.0, 0.0])  # chooses the first action whatever comes
    learner.target.advantage.bias.data += torch.tensor([0.0, 50.0])  # values the second more
    part = slice(0, 16)
    with torch.no_grad():
        said = learner.target({"obs": batches["next_obs"]["obs"][part]})
        found = learner.td_target(batches, learner.next_q(batches["next_obs"]), part)
    expected = batches["reward"][part] + batches["discount"][part] * said[:, 0, 0]
    np.testing.assert_allclose(found.squeeze(-1), expected, rtol=1e-5)
    learner.knobs.double = False
    with torch.no_grad():
        found = learner.td_target(batches, learner.next_q(batches["next_obs"]), part)
    expected = batches["reward"][part] + batches["discount"][part] * said[:, 1, 0]
    np.testing.assert_allclose(found.squeeze(-1), expected, rtol=1e-5)


# ---- known values (traps 3, 4, 5: an episode that was cut off goes on, a terminated one is worth nothing)

TABULAR: dict[str, dict[str, Any]] = {
    "dqn": {},
    "dqn double": {"double": True},
    "dqn dueling": {"dueling": True},
    "dqn prioritized": {"prioritized": True},
    "dqn c51": {"distributional": "c51", "v_min": 0.0, "v_max": 1.2, "atoms": 25},
    "dqn qr": {"distributional": "qr", "quantiles": 5},
    "dqn noisy": {"noisy": True, "noisy_std": 0.1},
    "dqn soft": {"tau": 0.2, "target_update_interval": 16},
}
EXPLORES = {"exploration_initial_eps": 1.0, "exploration_final_eps": 1.0}


@pytest.mark.parametrize("case", TABULAR)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_converges_to_known_values(case: str, num_envs: int) -> None:
    """A table: one-hot states and a linear layer. Time limits of 5 steps leave no trace in the values."""
    if num_envs == 3 and case != "dqn":
        return
    gamma, steps = 0.8, 4_000
    learner = q_learner(
        "dqn",
        "Corridor-v0",
        num_envs=num_envs,
        steps=steps,
        gamma=gamma,
        learning_rate=0.03,
        learning_rate_schedule="linear",
        **{"net_arch": [], "gradient_steps": 3, "batch_size": 32, "buffer_size": 4000, **EXPLORES, **TABULAR[case]},
    )
    while learner.progress.step < steps:
        learner.update()
    with torch.no_grad():
        found = learner.network.policy({"obs": torch.arange(STATES)[:, None]})
    np.testing.assert_allclose(found, known_values(gamma), atol=0.03)


@pytest.mark.parametrize("last", [1.0, 50.0])
def test_values_under_a_time_limit(last: float) -> None:
    """Reward 1 a step, cut off: worth 1 / (1 - gamma) all along; and an n-step target stops at the cut (traps 3, 5)."""
    learner = q_learner("dqn", "Clock-v0", kwargs={"length": 5, "last": last}, n_step=3, gamma=0.5, learning_starts=8)
    for _ in range(30):
        learner.update()
    batches, (_, target), _ = first_after(learner, 0)
    with torch.no_grad():
        found = learner.td_target(batches, learner.next_q(batches["next_obs"]), slice(None)).squeeze(-1)
        for row in range(len(found)):
            episode, t = (int(x) for x in batches["obs"]["obs"][row])
            used = min(3, 5 - t)
            rewards = [last if t + k == 4 else 1.0 for k in range(used)]
            after = torch.tensor([[episode, t + used]], dtype=torch.float32)
            value = float(target({"obs": after}).max())
            expected = sum(0.5**k * reward for k, reward in enumerate(rewards)) + 0.5**used * value
            assert float(found[row]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("env", ["Clock-v0", "ClockVector-v0"])
def test_no_transition_crosses_episodes(env: str) -> None:
    """Trap 1: observations tell (episode, t); in next-step autoreset, too, every step leads to the one after it."""
    backend = {"backend": "native"} if env == "ClockVector-v0" else None
    learner = q_learner("dqn", env, backend, num_envs=3, learning_starts=1000)
    for _ in range(20):
        learner.update()
    batches = learner.sample(2000)
    before, after = batches["obs"]["obs"], batches["next_obs"]["obs"]
    assert torch.equal(before[:, 0], after[:, 0]) and torch.equal(before[:, 1] + 1, after[:, 1])
    assert learner.replay.size() == learner.progress.step, "as many rows as real steps"


# ---- the pace (trap 13)


def test_cadence_counts_transitions() -> None:
    """Gradient steps and target updates in 10,000 transitions: the same for 1 and for 16 environments."""
    counted = {}
    for num_envs in (1, 16):
        learner = q_learner("dqn", "CartPole-v1", num_envs=num_envs, gradient_steps=1, target_update_interval=400)
        moves = 0
        target = learner.target_parameters.clone()
        while learner.progress.step < 10_000:
            learner.update()
            moves += not torch.equal(target, learner.target_parameters)
            target = learner.target_parameters.clone()
        counted[num_envs] = (int(learner.optimizer.steps), moves)
        learner.close()
    assert abs(counted[1][0] - (10_000 - 32) / 8) <= 4
    assert abs(counted[16][0] - counted[1][0]) <= 4
    assert counted[1][1] == counted[16][1] == 25


def test_every_transition_earns_a_step_with_minus_one() -> None:
    learner = q_learner("dqn", "CartPole-v1", num_envs=3, gradient_steps=-1, train_freq=3, learning_starts=30)
    for _ in range(20):
        learner.update()
    assert int(learner.optimizer.steps) == learner.progress.step - 30


def test_soft_updates_that_came_due_together() -> None:
    """Every 5 transitions tau of the way, as often as it came due since the last learning."""
    learner = q_learner("dqn", "CartPole-v1", target_update_interval=5, tau=0.1, train_freq=16, learning_starts=0)
    for _ in range(4):
        before, online = learner.target_parameters.clone(), learner.optimizer.parameters.clone()
        due = (learner.progress.step + 16) // 5 - learner.progress.step // 5
        learner.update()
        for _ in range(due):
            before = 0.9 * before + 0.1 * online
        torch.testing.assert_close(learner.target_parameters, before, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(learner.target_parameters, online)


def test_exploration_follows_the_budget() -> None:
    learner = q_learner(
        "dqn", "CartPole-v1", steps=1000, num_envs=4, exploration_fraction=0.5, exploration_final_eps=0.1
    )
    rates = [float(learner.update()["rollout/exploration_rate"]) for _ in range(125)]
    np.testing.assert_allclose(rates[0], 1 - 0.9 * 8 / 500)
    np.testing.assert_allclose(rates[61], 1 - 0.9 * 496 / 500)
    assert rates[70] == rates[-1] == pytest.approx(0.1)


# ---- legal actions only

MASKED_CASES: dict[str, dict[str, Any]] = {
    "vector": {"num_envs": 3},
    "image": {"kwargs": {"image": True}, "net_arch": [], "batch_size": 4, "gradient_steps": 1},
    "noisy": {"noisy": True},
    "rainbow": {**PARTS["double dueling n_step prioritized c51"], "noisy": True},
}


@pytest.mark.parametrize("case", MASKED_CASES)
def test_never_an_illegal_action(case: str) -> None:
    """The environment raises on one: random, by noise, greedily and in evaluation."""
    learner = q_learner("dqn", "AllowedOnly-v0", exploration_final_eps=0.5, learning_starts=16, **MASKED_CASES[case])
    for _ in range(8):
        learner.update()
    learner.evaluate()
    assert int(learner.optimizer.steps) > 0


def test_targets_look_at_legal_actions_only() -> None:
    learner = q_learner("dqn", "AllowedOnly-v0", learning_starts=0)
    batches, (_, target), _ = first_after(learner, 20)
    mask = batches["next_mask"]
    assert mask is not None and not mask.all()
    with torch.no_grad():
        target.advantage.bias += torch.arange(6) * 10.0
        learner.target.load_state_dict(target.state_dict())
        found = learner.td_target(batches, learner.next_q(batches["next_obs"]), slice(None)).squeeze(-1)
        values = target(batches["next_obs"]).squeeze(-1)
    differs = False
    for row in range(len(found)):
        legal = max(float(values[row, a]) for a in range(6) if mask[row, a])
        expected = float(batches["reward"][row]) + float(batches["discount"][row]) * legal
        assert float(found[row]) == pytest.approx(expected, rel=1e-5)
        differs |= legal < float(values[row].max())
    assert differs


# ---- evaluation leaves no trace (trap 8); one seed is one stream; N + N is 2N (trap 16)

STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "dqn": ("dqn", {"id": "CartPole-v1", "num_envs": 2, "tau": 0.5}),
    "dqn scaled": ("dqn", {"id": "CartPole-v1", "env": {"normalize_observation": True}}),
    "dqn nested": ("dqn", {"id": "Anything-v0", "kwargs": {"observation": "dict"}, "num_envs": 2}),
    "dqn masked image": ("dqn", {"id": "AllowedOnly-v0", "kwargs": {"image": True}, "net_arch": [], "batch_size": 4}),
    "dqn prioritized qr": ("dqn", {"id": "CartPole-v1", "prioritized": True, "distributional": "qr", "quantiles": 5}),
    "rainbow": ("rainbow", {"id": "CartPole-v1", "num_envs": 2}),
    "rainbow masked": ("rainbow", {"id": "AllowedOnly-v0", "num_envs": 3}),
    "pqn": ("pqn", {"id": "CartPole-v1", "num_envs": 4, "env": {"normalize_observation": True}}),
    "pqn masked": ("pqn", {"id": "AllowedOnly-v0", "num_envs": 4}),
}


def told(learner: Any) -> dict[str, Any]:
    """The learner's state, with what a replay's checkpoints share as the tensors it stands for."""
    return {
        section: {name: x.make() if isinstance(x, Shared) else x for name, x in parts.items()}
        for section, parts in learner.state_dict().items()
    }


@pytest.mark.parametrize("case", STREAMS)
def test_one_seed_is_one_stream_and_a_resume_continues_it(case: str, tmp_path: Path) -> None:
    name, given = STREAMS[case]
    straight, broken, other = (q_learner(name, **given, seed=seed) for seed in (3, 3, 4))
    for _ in range(8):
        straight.update()
        broken.update()
        other.update()
    assert same(told(straight), told(broken))
    for section in ("model", "environment", "rng"):
        assert not same(told(straight)[section], told(other)[section]), f"{section} ignores the seed"
    state, _ = checkpoint.load(checkpoint.save(tmp_path, 1, broken.state_dict(), {}, {}))
    resumed = q_learner(name, **given, seed=3)
    resumed.load_state_dict(state)
    for _ in range(8):
        metrics, expected = resumed.update(), straight.update()
        assert same(metrics, expected)
    assert same(told(straight), told(resumed))


@pytest.mark.parametrize("case", ["dqn scaled", "rainbow", "pqn"])
def test_evaluation_leaves_no_trace(case: str) -> None:
    name, given = STREAMS[case]
    disturbed, undisturbed = (q_learner(name, **given) for _ in range(2))
    for _ in range(6):
        disturbed.update()
        undisturbed.update()
        before = copied(told(disturbed))
        first, second = disturbed.evaluate(), disturbed.evaluate()
        assert same(before, told(disturbed))
        assert first.records == second.records, "the same model at the same step meets the same episodes"
    assert same(told(disturbed), told(undisturbed))


@pytest.mark.parametrize("name", AGENTS)
def test_a_loaded_policy_is_the_trained_one(name: str) -> None:
    learner = q_learner(name, "CartPole-v1", num_envs=2)
    for _ in range(8):
        learner.update()
    config: TrainConfig = learner.config
    policy = type(learner).load(config, {"model": learner.state_dict()["model"]}, torch.device("cpu"), Path("unused"))
    obs = {"obs": np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)}
    np.testing.assert_array_equal(policy.act(obs), learner.policy.act(obs))
    np.testing.assert_allclose(policy.outputs(obs, None), learner.policy.outputs(obs, None))
    assert policy.predict(obs["obs"][0]) in (0, 1)


# ---- whatever comes


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_observation(observation: str) -> None:
    """The environment itself refuses an action outside of its space, which starts at -5."""
    image = observation.startswith("image")
    small: dict[str, Any] = {"net_arch": [], "batch_size": 4, "gradient_steps": 1} if image else {}
    learner = q_learner(
        "rainbow",
        "Anything-v0",
        num_envs=2,
        kwargs={"observation": observation, "action": "discrete_start"},
        **small,
    )
    before = copied(learner.network.state_dict())
    for _ in range(7):
        metrics = learner.update()
    assert all(math.isfinite(float(value)) for value in metrics.values()) and metrics[NON_FINITE] == 0
    changed = {name for name, x in learner.network.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == set(before), "every weight is learned"
    assert isinstance(learner.policy.numpy_actor, NumpyQ) != image and isinstance(learner.passes, Autograd)
    assert learner.evaluate().metrics["eval/mean_ep_length"] == 5


def test_stacked_frames() -> None:
    learner = q_learner(
        "dqn",
        "AllowedOnly-v0",
        {"frame_stack": 4},
        kwargs={"image": True},
        net_arch=[],
        batch_size=4,
        learning_starts=8,
    )
    for _ in range(3):
        metrics = learner.update()
    assert learner.sample(4)["obs"]["obs"].shape == (4, 4, 36, 36, 1)
    assert int(learner.optimizer.steps) > 0 and metrics[NON_FINITE] == 0


def test_metrics_have_stable_baselines3s_tags() -> None:
    learner = q_learner("dqn", "CartPole-v1", num_envs=2)
    for _ in range(8):
        metrics = learner.update()
    tags = {"train/loss", "train/q_value_mean", "train/learning_rate", "train/grad_norm", "rollout/exploration_rate"}
    assert tags | {"rollout/ep_rew_mean", "rollout/ep_len_mean"} <= set(metrics)


def test_what_is_not_finite_is_withheld() -> None:
    learner = q_learner("dqn", "CartPole-v1")
    for _ in range(8):
        learner.update()
    learner.network.hidden[0].bias.data[0] = torch.nan
    before = learner.optimizer.parameters.nan_to_num()
    assert learner.update()[NON_FINITE] == 4
    assert torch.equal(before, learner.optimizer.parameters.nan_to_num())


@pytest.mark.parametrize("name", AGENTS)
def test_continuous_actions_are_refused_with_what_would_do(name: str) -> None:
    with pytest.raises(RequestError, match=f"agent={name} values each action of a Discrete space, and env=Pendulum-v1"):
        q_learner(name, "Pendulum-v1", num_envs=2)
    for action, remedy in (
        ("box", "agent=ppo, a2c, reinforce, sac or td3 would do"),
        ("box_unbounded", "agent=ppo, a2c or reinforce would do"),
        ("multidiscrete", "agent=ppo, a2c or reinforce would do"),
        ("integers", "wrap the environment so that its actions are Discrete, MultiDiscrete, MultiBinary or a Box of f"),
    ):
        with pytest.raises(RequestError, match=f"; {remedy}"):
            q_learner(name, "Anything-v0", num_envs=2, kwargs={"action": action})


def test_knobs_that_cannot_be() -> None:
    with pytest.raises(RequestError, match="agent.buffer_size=8 holds no agent.n_step=3 transitions of each"):
        q_learner("dqn", "CartPole-v1", num_envs=4, buffer_size=8, n_step=3)
    with pytest.raises(RequestError, match="env.normalize_reward=true: agent=rainbow learns from old rewards"):
        q_learner("rainbow", "CartPole-v1", {"normalize_reward": True})
    with pytest.raises(ValueError, match=r"v_min=3.0 must be below v_max=2.0"):
        q_learner("dqn", "CartPole-v1", v_min=3.0, v_max=2.0)
    with pytest.raises(ValueError, match="gradient_steps=0 would learn nothing"):
        q_learner("dqn", "CartPole-v1", gradient_steps=0)


# ---- compiled


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="needs a C++ compiler")
def test_compiled_equals_the_hand_written_passes(fresh_compiler: None) -> None:
    """Both learn from what the second gathers: over 40 steps of Adam rounding moves a weight by 1e-4 at most."""
    compiled, by_hand = (q_learner("dqn", "CartPole-v1", compile=word, learning_rate=1e-3) for word in ("on", "off"))
    assert isinstance(compiled.passes, Autograd) and isinstance(by_hand.passes, ByHand)
    for _ in range(10):
        batches, _, steps = first_after(by_hand, 5)
        compiled.optimizer.parameters.copy_(by_hand.optimizer.parameters)
        compiled.optimizer.load_state_dict(copied(by_hand.optimizer.state_dict()))
        compiled.target_parameters.copy_(by_hand.target_parameters)
        compiled.progress.step, compiled.target_at = by_hand.progress.step, by_hand.target_at
        metrics, expected = compiled.learn(batches, steps), by_hand.learn(batches, steps)
        assert float(metrics["train/loss"]) == pytest.approx(float(expected["train/loss"]), rel=1e-3)
        torch.testing.assert_close(compiled.optimizer.parameters, by_hand.optimizer.parameters, rtol=1e-3, atol=1e-4)
    assert isinstance(by_hand, DQN)
