"""What every on-policy agent does alike: what its update sees, what it leaves alone, how it resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlgym.run_folder import checkpoint
from tests.agents.worlds import AGENTS, Clock, copied, on_policy, same, spy_on_batches, spy_on_minibatches
from tests.envs import toys

# ---- truncated episodes are worth what their final observation is (traps 3, 5, 7)


WHOLE_RETURNS: dict[str, dict[str, Any]] = {
    "ppo": {"gae_lambda": 1.0, "batch_size": 24},
    "a2c": {},  # whose lambda is 1 anyway
    "reinforce": {},  # which has none
}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("last", [1.0, 50.0])
@pytest.mark.parametrize("agent", WHOLE_RETURNS)
def test_targets_of_cut_off_episodes_by_hand(agent: str, normalize: bool, last: float) -> None:
    """With lambda = 1 a target is the discounted reward up to the cut, and the value of the true successor there."""
    gamma = 0.9
    ppo = on_policy(
        agent,
        "Clock-v0",
        {"normalize_observation": normalize},
        num_envs=2,
        n_steps=12,
        gamma=gamma,
        kwargs={"length": 5, "last": last},
        **WHOLE_RETURNS[agent],
    )
    ppo.update()  # so that statistics and weights are not the first ones; it ends in the third episode, at t = 2
    ppo.rollout.collect(ppo.env, ppo.policy, ppo.sampler, None)
    target = ppo.batch()["target"].view(12, 2)

    critic = [(layer.weight, layer.bias) for layer in ppo.network.critic if isinstance(layer, torch.nn.Linear)]

    def value(episode: int, t: int) -> float:
        x = np.array([episode, t], np.float64)
        if normalize:
            norm = ppo.network.encoder.norms["obs"]
            assert norm.count == 24
            mean, variance = (np.asarray(b.numpy(), np.float64) for b in (norm.mean, norm.variance))
            x = ((x - mean) / np.sqrt(variance + 1e-8)).clip(-10, 10)
        for i, (weight, bias) in enumerate(critic):
            x = weight.detach().double().numpy() @ x + bias.detach().double().numpy()
            x = np.tanh(x) if i < len(critic) - 1 else x
        return float(x[0])

    if normalize:
        # by hand, of the first rollout's 24 observations: two whole episodes and the first two moments of the third
        seen = np.array([[e, t] for e in range(3) for t in range(5)][:12])
        np.testing.assert_allclose(ppo.network.encoder.norms["obs"].mean.numpy(), seen.mean(0), rtol=1e-5)
    for row, now in enumerate(range(12, 24)):
        episode, t = divmod(now, 5)
        stop = min(5 * (episode + 1), 24)  # the first moment after its last reward in this rollout
        rewards = [last if moment % 5 == 4 else 1.0 for moment in range(now, stop)]
        expected = sum(gamma**k * reward for k, reward in enumerate(rewards))
        expected += gamma ** len(rewards) * value(episode, t + len(rewards))
        np.testing.assert_allclose(target[row].numpy(), expected, rtol=1e-4, atol=1e-4)


# ---- evaluation leaves no trace (trap 8)


@pytest.mark.parametrize("agent", AGENTS)
def test_evaluation_leaves_no_trace(agent: str) -> None:
    disturbed, undisturbed = (on_policy(agent, "Pendulum-v1", {"normalize_observation": True}) for _ in range(2))
    for _ in range(2):
        disturbed.update()
        undisturbed.update()
        before = copied(disturbed.state_dict())
        first, second = disturbed.evaluate(), disturbed.evaluate()
        assert same(before, disturbed.state_dict())
        assert first.records == second.records, "the same model at the same step meets the same episodes"
        assert len({episode["return"] for episode in first.records["episodes"]}) == 3
    assert same(disturbed.state_dict(), undisturbed.state_dict())


def test_of_one_copy_the_latest_episodes_of_training_are_evaluated() -> None:
    """No second environment, neither for a checkpoint to try a restore on nor for an evaluation: both say so once."""
    toys.register()
    ppo = on_policy("ppo", "OnlyOne-v0", {"backend": "sync"}, num_envs=1)
    try:
        ppo.update()
        state = copied(ppo.state_dict())
        assert ppo.exactness["environment"].startswith("running episodes start over: no second environment could be ")
        found = {"rollout/ep_rew_mean": 3.0, "rollout/ep_len_mean": 3.0, "rollout/success_rate": 0.6}
        for _ in range(2):
            assert ppo.evaluate().metrics == found
        assert ppo.monitor == ("rollout/ep_rew_mean", "max")
        (said,) = ppo.notices
        assert said.startswith("no second environment to evaluate in (env=OnlyOne-v0 could not be made: RuntimeError")
        assert same(state, ppo.state_dict())
    finally:
        ppo.close()
    resumed = on_policy("ppo", "OnlyOne-v0", {"backend": "sync"}, num_envs=1)
    try:
        resumed.load_state_dict(state)
        assert resumed.progress.step == 16 and "could not be restored" in resumed.env.restore_report
    finally:
        resumed.close()


# ---- one seed, one stream; N + N is 2N (trap 16)

STREAMS: dict[str, dict[str, Any]] = {
    "CartPole": {"id": "CartPole-v1", "env": {"normalize_reward": True}},
    "Pendulum": {"id": "Pendulum-v1", "env": {"normalize_observation": True, "normalize_reward": True}},
    "nested": {"id": "Anything-v0", "kwargs": {"observation": "dict", "action": "multidiscrete_start"}, "num_envs": 2},
    "masked": {"id": "AllowedOnly-v0", "num_envs": 2, "ent_coef": 0.01},
    "image": {"id": "AllowedOnly-v0", "kwargs": {"image": True}, "num_envs": 2, "n_steps": 8},
}


PPO_CASES = [("ppo", case) for case in STREAMS]
OTHERS = [
    ("a2c", "Pendulum"),
    ("reinforce", "CartPole"),
    ("ppo lstm", "masked"),
    ("ppo lstm", "Pendulum"),
    ("ppo gru", "nested"),
    ("a2c lstm", "image"),
    ("reinforce gru", "CartPole"),
]


@pytest.mark.parametrize(("agent", "case"), PPO_CASES + OTHERS)
def test_one_seed_is_one_stream_and_a_resume_continues_it(agent: str, case: str, tmp_path: Path) -> None:
    knobs = dict(STREAMS[case])
    if agent == "ppo lstm":  # whole sequences, of one environment or two
        knobs["batch_size"] = 2 * knobs.get("n_steps", 16)
    if agent == "ppo" and case == "CartPole":
        knobs["clip_range_vf"] = 0.2
    straight, broken, other = (on_policy(agent, **knobs, seed=seed) for seed in (3, 3, 4))
    for _ in range(3):
        straight.update()
        broken.update()
        other.update()
    assert same(straight.state_dict(), broken.state_dict())
    for section in ("model", "environment", "rng"):
        assert not same(straight.state_dict()[section], other.state_dict()[section]), f"{section} ignores the seed"

    state, _ = checkpoint.load(checkpoint.save(tmp_path, 1, broken.state_dict(), {}, {}))
    resumed = on_policy(agent, **knobs, seed=3)
    resumed.load_state_dict(state)
    assert same(straight.state_dict(), resumed.state_dict())
    for _ in range(3):
        metrics, expected = resumed.update(), straight.update()
        assert same(metrics, expected)
        assert same(straight.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("agent", AGENTS)
def test_torchs_global_generator_is_neither_read_nor_moved(agent: str) -> None:
    def trained(noise: int) -> Any:
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        ppo = on_policy(agent, "CartPole-v1")
        ppo.update()
        assert torch.equal(before, torch.get_rng_state())
        return ppo.state_dict()

    assert same(trained(0), trained(1))


# ---- phantom rows of a next-step environment


@pytest.mark.parametrize("agent", AGENTS)
def test_phantom_rows_are_neither_learned_from_nor_counted(agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = 0
    step = Clock.step

    def counting(self: Clock, action: Any) -> Any:
        nonlocal real
        real += 1
        return step(self, action)

    monkeypatch.setattr(Clock, "step", counting)
    sizes: dict[str, dict[str, Any]] = {
        "ppo": {"batch_size": 7},
        "ppo lstm": {"batch_size": 20},
        "ppo gru": {"batch_size": 10},
    }
    ppo = on_policy(agent, "ClockVector-v0", {"backend": "native"}, num_envs=3, n_steps=10, **sizes.get(agent, {}))
    epochs = 2 if agent.startswith("ppo") else 1
    minibatches = spy_on_minibatches(ppo)
    assert ppo.env.phantoms
    for update in range(1, 6):
        minibatches.clear()
        before, counted = ppo.progress.step, real
        ppo.update()
        assert ppo.progress.step - before == real - counted < 30, f"update {update}"
        rows = np.concatenate([m["obs"]["obs"].numpy() for m in minibatches])
        assert len(rows) == epochs * (real - counted)
        assert rows[:, 1].max() == 4, "a phantom row stands in a final observation: t = 3, 4, 5 by environment"
        # by environment no (episode, t) comes twice: 3 environments
        assert np.unique(rows, axis=0, return_counts=True)[1].max() <= 3 * epochs


# ---- every finished episode is told, and every space is learned in


@pytest.mark.parametrize("agent", AGENTS)
def test_every_finished_episode_is_logged(agent: str) -> None:
    """(rl.md, trap 2) Three episodes of 5 steps in 16, of each of 4 environments; then three more, and a fourth."""
    made = on_policy(agent, "Clock-v0", kwargs={"length": 5, "last": 50.0})
    metrics = made.update()
    assert len(made.recent.episodes) == 12 and metrics["rollout/ep_len_mean"] == 5
    assert metrics["rollout/ep_rew_mean"] == 54
    made.update()
    assert len(made.recent.episodes) == 24


@pytest.mark.parametrize("agent", [name for name in AGENTS if name != "ppo"])
@pytest.mark.parametrize(
    ("observation", "action"),
    [("dict", "discrete_start"), ("image_and_vector", "box_asymmetric"), ("discrete", "multibinary"), ("tuple", "box")],
)
def test_learns_in_every_kind_of_space(agent: str, observation: str, action: str) -> None:
    """The environment itself refuses an action outside of its space."""
    kwargs = {"observation": observation, "action": action}
    made = on_policy(agent, "Anything-v0", num_envs=2, kwargs=kwargs, squash=action == "box")
    before = copied(made.network.state_dict())
    for _ in range(2):
        assert all(np.isfinite(float(value)) for value in made.update().values())
    unchanged = {name for name, x in made.network.state_dict().items() if torch.equal(x, before[name])}
    assert not unchanged, "every weight is learned"
    found = made.evaluate()
    assert found.metrics["eval/mean_ep_length"] == 5
    made.close()


@pytest.mark.parametrize("agent", ["a2c", "reinforce", "ppo gru", "a2c lstm"])
def test_no_illegal_action(agent: str) -> None:
    """The environment raises on one."""
    made = on_policy(agent, "AllowedOnly-v0", episodes=6)
    batches = spy_on_batches(made)
    for _ in range(3):
        made.update()
        assert len(made.evaluate().records["episodes"]) == 6
    for batch in batches:
        assert batch["mask"].gather(1, batch["action"][:, None]).all()
