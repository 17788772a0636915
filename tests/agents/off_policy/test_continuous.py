"""SAC and TD3 alike: what they learn from (rl.md's traps), what they leave alone, and which environments they take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from rlgym.agents.off_policy.critic_gradient import AutogradActor, AutogradCritics, CriticsByHand
from rlgym.agents.off_policy.critics import mirror
from rlgym.agents.sac import SAC
from rlgym.errors import RequestError
from rlgym.learner import NON_FINITE
from rlgym.run_folder import checkpoint
from tests.agents.levers import AGENTS, HIGH, LOW, alone, learner, random_batch, stored
from tests.agents.worlds import OBSERVATIONS, copied, same

BOTH = pytest.mark.parametrize("agent", AGENTS)
ROWS = pytest.mark.parametrize("id", ["Lever-v0", "LeverVector-v0"])  # same-step autoreset, and with phantom rows


# ---- what is stored is what happened (traps 1, 2, 5)


@BOTH
@ROWS
@pytest.mark.parametrize("end", ["truncated", "terminated", "either"])
def test_stored_transitions_are_those_that_happened(agent: str, id: str, end: str) -> None:
    found = learner(agent, id, num_envs=3, kwargs={"end": end}, batch_size=4)
    for _ in range(40):
        found.update()
    places = stored(found)
    assert len(places) == found.progress.step == found.replay.written.sum()
    batch = found.replay.gather(places, 1, found.knobs.gamma)
    obs, following = batch["obs"]["obs"], batch["next_obs"]["obs"]
    going = batch["discount"] > 0  # what a terminated episode led to is of no value, and not stored
    assert torch.equal(obs[going, 0], following[going, 0]), "no transition crosses episodes"
    assert torch.equal(obs[going, 1] + 1, following[going, 1])
    paid = torch.from_numpy(LOW) + (batch["action"] + 1) / 2 * torch.from_numpy(HIGH - LOW)
    torch.testing.assert_close(batch["reward"], paid.sum(1), msg="the reward is that of the action beside it")
    assert batch["action"].abs().max() <= 1
    lane = places // found.replay.rows
    length = 3 + lane if "Vector" in id else torch.full_like(lane, 5)
    even = obs[:, 0] % 2 == 0
    terminates = {"truncated": even & False, "terminated": even | True, "either": even}[end]
    over = obs[:, 1] + 1 == length
    assert torch.equal(batch["discount"], torch.where(over & terminates, 0.0, found.knobs.gamma))
    assert len(found.recent.episodes) == over.sum(), "every episode that ended is told"
    finished = sorted(length for _, length, _ in found.recent.episodes)
    assert finished == sorted(length[over].tolist())
    found.close()


# ---- targets, against brute force (traps 3, 4, 5, 11, 12)


def by_hand(found: Any, obs: Tensor, noise: Tensor) -> float:
    """The least target value of the state `obs [2]`, with the policy's action drawn by `noise [dimensions]`; SAC's with
    the entropy's share. float64, from torch's own distributions."""
    acting = found.actor if isinstance(found, SAC) else found.target_actor
    with torch.no_grad():
        outputs = acting.policy({"obs": obs[None]})[0].double()
        if isinstance(found, SAC):
            mean, log_std = outputs.chunk(2)
            base = Independent(Normal(mean, log_std.clamp(-20, 2).exp()), 1)
            action = (mean + log_std.clamp(-20, 2).exp() * noise).tanh()
            squashed = TransformedDistribution(base, [TanhTransform(cache_size=1)])
            entropy = -float(found.ent_coef()) * float(squashed.log_prob(action))
        else:
            knobs = found.knobs
            bound = knobs.target_noise_clip
            action = (outputs.tanh() + (knobs.target_policy_noise * noise).clamp(-bound, bound)).clamp(-1, 1)
            entropy = 0.0
        x = torch.cat([obs.double(), action.double()])
        return min(float(alone(found.target_critics, k)(x)) for k in range(found.knobs.n_critics)) + entropy


@BOTH
@ROWS
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("end", ["truncated", "either"])
def test_targets_are_those_of_brute_force(agent: str, id: str, n_step: int, end: str) -> None:
    """A cut-off episode is worth what its final observation is, a terminated one nothing; none reaches the next."""
    gamma = 0.9
    lanes = 2
    kwargs = {"end": end, "last": 50.0}
    found = learner(agent, id, num_envs=lanes, kwargs=kwargs, n_step=n_step, gamma=gamma, batch_size=20)
    while found.progress.step < 90:
        found.update()
    first, last = found.replay.window(n_step)
    # what was paid, and where every episode went, by lane, episode and t, from single transitions
    places = stored(found)
    single = found.replay.gather(places, 1, 1.0)
    paid: dict[tuple[int, ...], tuple[float, bool]] = {}
    for place, obs, reward, going in zip(
        places, single["obs"]["obs"], single["reward"], single["discount"], strict=True
    ):
        paid[int(place) // found.replay.rows, int(obs[0]), int(obs[1])] = float(reward), bool(going > 0)

    drawn = torch.cat([found.replay.draw(30, found.replay_rng, n_step) for _ in range(2)])
    batch = found.replay.gather(drawn, n_step, gamma)
    shape = (len(drawn), 2)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if agent == "sac":
        target = found.td_target(batch, noise, found.ent_coef())
    else:
        bound = found.knobs.target_noise_clip
        target = found.td_target(batch, (found.knobs.target_policy_noise * noise).clamp(-bound, bound))
    assert target.shape == (len(drawn),)
    q = found.critics(batch["obs"], batch["action"])
    assert q.shape == (2, len(drawn))
    cut = 0
    for i, place in enumerate(drawn):
        lane, (episode, t) = int(place) // found.replay.rows, (int(x) for x in batch["obs"]["obs"][i])
        length = 3 + lane if "Vector" in id else 5
        expected, power, going = 0.0, 1.0, True
        for ahead in range(t, min(t + n_step, length)):
            reward, going = paid[lane, episode, ahead]
            expected += power * reward
            power *= gamma
        reached = min(t + n_step, length)
        if going:
            expected += power * by_hand(found, torch.tensor([episode, reached], dtype=torch.float32), noise[i])
        cut += going and reached == length
        assert float(target[i]) == pytest.approx(expected, rel=1e-4, abs=1e-4), (lane, episode, t)
    assert cut > 3, "else this test would show nothing"
    assert (last - first).min() > 0
    found.close()


@pytest.mark.parametrize("net_arch", [[], [24], [24, 16]], ids=["none", "one", "two"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("critics", [(0, 1, 2), (0, 2), (1,)], ids=["all", "two", "one"])
def test_the_slope_of_the_least_critic(net_arch: list[int], activation: str, critics: tuple[int, ...]) -> None:
    """By hand and by autograd, also where some critic is the least for no transition; and of the first critic alone."""
    found = learner("sac", net_arch=net_arch, activation=activation, n_critics=3)
    fixed = mirror(found.critics, found.critics_adam.flat.views(found.critics_adam.parameters))
    batch = random_batch(found, 32, 0)
    found.critics.biases[-1].data -= fixed(batch["obs"], batch["action"]).mean(1)[:, None, None]
    for which in {0, 1, 2} - set(critics):
        found.critics.biases[-1].data[which] += 100
    for first in (False, True):
        action = batch["action"].clone().requires_grad_()
        value = fixed(batch["obs"], action)[0] if first else fixed(batch["obs"], action).amin(0)
        (expected,) = torch.autograd.grad(-0.25 * value.sum(), action)
        for passes in (found.critic_passes, AutogradCritics(found.critics, fixed, found.critics_adam.gradients, False)):
            least, slope = passes.of_action(batch["obs"], batch["action"], -0.25, first)
            torch.testing.assert_close(least, value.detach())
            torch.testing.assert_close(slope, expected)
    assert set(fixed(batch["obs"], batch["action"]).argmin(0).tolist()) == set(critics)
    found.close()


@BOTH
@pytest.mark.parametrize("net_arch", [[], [24], [24, 16]], ids=["none", "one", "two"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_by_hand_equals_autograd(agent: str, net_arch: list[int], activation: str) -> None:
    """Every gradient of a gradient step, with three critics and scaled observations."""
    knobs: dict[str, Any] = {"net_arch": net_arch, "activation": activation, "n_critics": 3, "batch_size": 32}
    one, other = (learner(agent, env={"normalize_observation": True}, **knobs) for _ in range(2))
    assert isinstance(one.critic_passes, CriticsByHand)
    other.actor_passes = AutogradActor(other.actor, other.actor_adam.gradients, compiled=False)
    fixed = mirror(other.critics, other.critics_adam.flat.views(other.critics_adam.parameters))
    other.critic_passes = AutogradCritics(other.critics, fixed, other.critics_adam.gradients, compiled=False)
    other.target_q = lambda obs, action: other.target_critics(obs, action).amin(0)
    if isinstance(other, SAC):
        other.drawing = other.distribution
    noise = one.noise(4)
    for i in range(4):
        batch = random_batch(one, 32, i)
        for found in (one, other):
            found.gradient_steps += 1
            found.gradient_step(batch, noise[i], 0.0 if i < 2 else 1e-3)
        for adam in ("actor_adam", "critics_adam"):
            torch.testing.assert_close(
                getattr(one, adam).gradients, getattr(other, adam).gradients, rtol=1e-3, atol=1e-5
            )


@BOTH
def test_a_column_of_targets_is_refused(agent: str) -> None:
    """Trap 11: `[batch, 1]` against `[batch]` would broadcast to a square."""
    found = learner(agent)
    batch = random_batch(found, 16)
    batch["reward"] = batch["reward"][:, None]
    with pytest.raises(AssertionError):
        found.gradient_step(batch, found.noise(1)[0], 1e-3)


@BOTH
def test_constant_reward_under_a_time_limit_is_worth_the_whole_series(agent: str) -> None:
    """Trap 3: V -> 1 / (1 - gamma), though every episode is cut off after 5 steps: without its final observation's
    value the last step would be worth 1."""
    knobs: dict[str, Any] = {"ent_coef": "0.0"} if agent == "sac" else {}
    found = learner(
        agent,
        kwargs={"steady": True},
        gamma=0.5,
        net_arch=[32],
        learning_rate=1e-2,
        tau=0.1,
        buffer_size=60,
        gradient_steps=4,
        **knobs,
    )
    for _ in range(120):
        found.update()
    batch = found.replay.gather(stored(found), 1, 0.5)
    q = found.critics(batch["obs"], batch["action"]).detach().numpy()
    np.testing.assert_allclose(q, 2.0, atol=0.25)


# ---- evaluation and running statistics (trap 8)


@BOTH
def test_evaluation_leaves_no_trace(agent: str) -> None:
    disturbed, undisturbed = (learner(agent, "Pendulum-v1", {"normalize_observation": True}) for _ in range(2))
    for _ in range(12):
        disturbed.update()
        undisturbed.update()
    before = copied(disturbed.state_dict())
    first, second = disturbed.evaluate(), disturbed.evaluate()
    assert same(before, disturbed.state_dict())
    assert first.records == second.records, "the same model at the same step meets the same episodes"
    disturbed.update()
    undisturbed.update()
    assert same(disturbed.state_dict(), undisturbed.state_dict())


@BOTH
def test_running_statistics_see_each_observation_once_and_gradient_steps_see_them_still(agent: str) -> None:
    found = learner(agent, num_envs=2, env={"normalize_observation": True}, gradient_steps=3)
    norm = found.actor.encoder.norms["obs"]
    networks = [found.critics, found.target_critics]
    networks += [found.target_actor] if agent == "td3" else []
    seen = []
    original = found.learn

    def learn(*rest: Any) -> Any:
        before = norm.mean.clone(), norm.variance.clone(), norm.count.clone()
        metrics = original(*rest)
        assert all(torch.equal(a, b) for a, b in zip(before, (norm.mean, norm.variance, norm.count), strict=True))
        return metrics

    found.learn = learn
    for _ in range(20):
        seen.append(found.obs["obs"].copy())
        found.update()
    everything = np.concatenate(seen)
    assert norm.count == len(everything) == found.progress.step
    np.testing.assert_allclose(norm.mean.numpy(), everything.mean(0), rtol=1e-4)
    np.testing.assert_allclose(norm.variance.numpy(), everything.var(0), rtol=1e-3)
    for network in networks:
        assert network.encoder.norms["obs"].mean.data_ptr() == norm.mean.data_ptr(), "one set of statistics for all"
    scaled = torch.tensor([[3.0, 2.0]])
    plain = ((scaled - norm.mean) / (norm.variance + 1e-8).sqrt()).clamp(-10, 10)
    np.testing.assert_allclose(found.critics.encoder({"obs": scaled}).numpy(), plain.numpy(), rtol=1e-5)


# ---- the pace is counted in transitions (trap 13)


@BOTH
@pytest.mark.parametrize("num_envs", [1, 4, 16])
def test_gradient_steps_are_counted_in_transitions(agent: str, num_envs: int) -> None:
    found = learner(agent, num_envs=num_envs, train_freq=4, gradient_steps=2, learning_starts=0, batch_size=4)
    moved = 0
    target = found.critics_target.clone()
    original = found.gradient_step

    def gradient_step(*rest: Any) -> Any:
        nonlocal moved, target
        found_here = original(*rest)
        moved += not torch.equal(target, found.critics_target)
        target = found.critics_target.clone()
        return found_here

    found.gradient_step = gradient_step
    while found.progress.step < 192:
        found.update()
    assert found.gradient_steps == 96
    delay = found.knobs.target_update_interval if agent == "sac" else found.knobs.policy_delay
    assert moved == 96 // delay
    assert found.critics_adam.steps == 96
    assert found.actor_adam.steps == (96 if agent == "sac" else 48)


@BOTH
def test_one_gradient_step_a_transition(agent: str) -> None:
    found = learner(agent, num_envs=4, gradient_steps=-1, train_freq=8, learning_starts=0)
    found.update()
    assert (found.progress.step, found.gradient_steps) == (8, 8)


# ---- one seed, one stream; N + N is 2N (trap 16)

STREAMS: dict[str, dict[str, Any]] = {
    "one": {"id": "Pendulum-v1", "env": {"normalize_observation": True}},
    "several, n steps, ring full": {
        "id": "Anything-v0",
        "kwargs": {"observation": "dict", "action": "box_asymmetric"},
        "num_envs": 2,
        "n_step": 3,
        "buffer_size": 24,
        "gradient_steps": -1,
    },
    "image": {"id": "Anything-v0", "kwargs": {"observation": "image_and_vector", "action": "box"}, "batch_size": 4},
}


@BOTH
@pytest.mark.parametrize("case", STREAMS)
def test_one_seed_is_one_stream_and_a_resume_continues_it(agent: str, case: str, tmp_path: Path) -> None:
    def run(seed: int) -> Any:
        return learner(agent, **STREAMS[case], seed=seed)

    updates = 5 if case == "image" else 15
    straight, broken, other = run(3), run(3), run(4)
    for _ in range(updates):
        straight.update()
        broken.update()
        other.update()
    assert straight.gradient_steps > 0 or case == "image"
    assert same(straight.state_dict(), broken.state_dict())
    for section in ("model", "critics", "rng"):
        assert not same(straight.state_dict()[section], other.state_dict()[section]), f"{section} ignores the seed"
    state, _ = checkpoint.load(checkpoint.save(tmp_path, 1, broken.state_dict(), {}, {}))
    resumed = run(3)
    resumed.load_state_dict(state)
    assert same(straight.state_dict(), resumed.state_dict())
    for _ in range(updates):
        metrics, expected = resumed.update(), straight.update()
        assert same(metrics, expected)
        assert same(straight.state_dict(), resumed.state_dict())


@BOTH
def test_torchs_global_generator_is_neither_read_nor_moved(agent: str) -> None:
    def trained(noise: int) -> Any:
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        found = learner(agent)
        for _ in range(12):
            found.update()
        assert torch.equal(before, torch.get_rng_state())
        return found.state_dict()

    assert same(trained(0), trained(1))


# ---- every space; what is refused


def check_trains(found: Any) -> None:
    before = {name: copied(module.state_dict()) for name, module in found.modules.items()}
    for _ in range(4):
        numbers = {tag: float(value) for tag, value in found.update().items()}
        assert numbers.get(NON_FINITE, 0) == 0
        assert all(math.isfinite(value) for value in numbers.values()), numbers
    for name, module in found.modules.items():
        changed = {key for key, tensor in module.state_dict().items() if not torch.equal(tensor, before[name][key])}
        assert changed == set(before[name]), f"every weight of {name} is learned"
    evaluation = found.evaluate()
    assert len(evaluation.records["episodes"]) == 3 and evaluation.metrics["eval/mean_ep_length"] == 5
    policy = type(found).load(found.config, {"model": found.networks()["model"]}, torch.device("cpu"), Path("unused"))
    obs = found.env.reset(5)
    np.testing.assert_array_equal(policy.act(obs), found.policy.act(obs))
    found.close()


@BOTH
@pytest.mark.parametrize("observation", [name for name in OBSERVATIONS if not name.startswith("image")])
def test_every_observation(agent: str, observation: str) -> None:
    """The environment itself refuses an action outside of its space."""
    for action in ("box", "box_asymmetric"):
        check_trains(
            learner(
                agent,
                "Anything-v0",
                {"normalize_observation": action == "box"},
                num_envs=2,
                kwargs={"observation": observation, "action": action},
                learning_starts=2,
                gradient_steps=2,
                net_arch=[64],  # wide enough that no weight is dead
                activation="tanh",
            )
        )


@BOTH
@pytest.mark.parametrize("observation", ["image_hwc", "image_and_vector"])
def test_images(agent: str, observation: str) -> None:
    found = learner(
        agent,
        "Anything-v0",
        num_envs=2,
        kwargs={"observation": observation, "action": "box_asymmetric"},
        learning_starts=2,
        gradient_steps=4,
        buffer_size=40,
        batch_size=8,
        activation="tanh",
    )
    assert found.policy.numpy_actor is None
    check_trains(found)


REFUSED = {
    "discrete": r"^agent=(sac|td3) spreads its actions between the finite bounds of a Box of floats, and env=Any.* "
    r"takes Discrete\(3\); agent=ppo, a2c, reinforce, dqn, rainbow or pqn would do$",
    "multidiscrete": r" takes MultiDiscrete\(\[2 4\]\); agent=ppo, a2c or reinforce would do$",
    "box_unbounded": r" takes Box\(-inf, inf, .*; agent=ppo, a2c or reinforce would do$",
    "integers": r" takes Box\(-5, 5, \(2,\), int64\); wrap the environment so that its actions are Discrete, Multi",
}


@BOTH
@pytest.mark.parametrize("action", REFUSED)
def test_other_actions_are_refused_with_the_agents_that_would_do(agent: str, action: str) -> None:
    with pytest.raises(RequestError, match=REFUSED[action]):
        learner(agent, "Anything-v0", kwargs={"action": action})


@BOTH
def test_what_else_is_refused(agent: str) -> None:
    with pytest.raises(RequestError, match=r"^env.normalize_reward=true: .* env.normalize_reward=false would do$"):
        learner(agent, env={"normalize_reward": True})
    with pytest.raises(ValueError, match="gradient_steps=0 would learn nothing"):
        learner(agent, gradient_steps=0)


# ---- a non-finite step is skipped


@BOTH
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_non_finite_reward_moves_nothing_and_is_counted(agent: str, poison: float) -> None:
    found = learner(agent)
    for _ in range(12):
        found.update()
    before = copied(found.networks())
    batch = random_batch(found, 2 * 16)
    batch["reward"][3] = batch["reward"][20] = poison
    metrics = found.learn(batch, 2)
    assert metrics[NON_FINITE] >= 2
    after = found.networks()
    for section in ("critics", "model"):
        if section == "critics" or agent == "td3":  # SAC's actor learns on, from critics that stayed sound
            unmoved = same(before[section], after[section])
            assert unmoved or (section, agent) == ("model", "td3")
        assert all(tensor.isfinite().all() for tensor in after[section].values())
    assert all(tensor.isfinite().all() for tensor in after["targets"].values())


# ---- drawn all at once


@BOTH
def test_many_gradient_steps_equal_as_many_single_ones(agent: str) -> None:
    together, apart = (learner(agent) for _ in range(2))
    batch = random_batch(together, 5 * 16)
    noise = together.noise(5)
    together.noise = lambda steps: noise
    metrics = together.learn(batch, 5)
    seen = []
    for i in range(5):
        part = {
            name: None
            if x is None
            else {"obs": x["obs"][16 * i : 16 * i + 16]}
            if isinstance(x, dict)
            else x[16 * i : 16 * i + 16]
            for name, x in batch.items()
        }
        apart.noise = lambda steps, i=i: noise[i : i + 1]
        seen.append(apart.learn(part, 1))
    assert same(together.networks(), apart.networks())
    for tag in ("train/critic_loss", "train/actor_loss"):
        values = [float(each[tag]) for each in seen if tag in each]
        assert float(metrics[tag]) == pytest.approx(sum(values) / len(values), rel=1e-5)
