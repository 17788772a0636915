"""A2C's loss and step against Stable-Baselines3's, RMSprop against torch's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C as Theirs
from stable_baselines3.common.logger import Logger

from rlgym.learner import NON_FINITE
from rlgym.optim.rmsprop import FlatRMSprop
from tests.agents.worlds import copied, on_policy, same


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"normalize_advantage": True, "ent_coef": 0.1, "gae_lambda": 0.9},
        {"use_rms_prop": False, "max_grad_norm": 0.01, "vf_coef": 0.25},
    ],
)
def test_equals_stable_baselines3(id: str, knobs: dict[str, Any]) -> None:
    """Three updates of both from the same rollouts, weights and advantages lead to the same weights."""
    ours = on_policy("a2c", id, n_steps=8, num_envs=4, net_arch=[16, 8], learning_rate=1e-2, **knobs)
    same_knobs = {key: value for key, value in knobs.items()}
    network: dict[str, Any] = {"net_arch": {"pi": [16, 8], "vf": [16, 8]}, "ortho_init": False}
    if not ours.knobs.use_rms_prop:
        network["optimizer_kwargs"] = {"eps": ours.knobs.adam_eps}
    theirs = Theirs(
        "MlpPolicy", ours_env(id), n_steps=32, learning_rate=1e-2, policy_kwargs=network, device="cpu", **same_knobs
    )
    theirs.set_logger(Logger(None, []))
    copy_weights(ours.network, theirs.policy)
    for _ in range(3):
        ours.rollout.collect(ours.env, ours.policy, ours.sampler, None)
        batch = ours.batch()
        fill(theirs.rollout_buffer, batch)
        metrics = ours.learn(batch)
        theirs.train()
        ours.rollout.carry_over()
        logged = theirs.logger.name_to_value
        assert float(metrics["train/value_loss"]) == pytest.approx(logged["train/value_loss"], rel=1e-4)
        assert float(metrics["train/policy_gradient_loss"]) == pytest.approx(logged["train/policy_loss"], abs=1e-5)
        assert float(metrics["train/entropy_loss"]) == pytest.approx(logged["train/entropy_loss"], rel=1e-4)
        expected = dict(theirs.policy.named_parameters())
        for name, parameter in ours.network.named_parameters():
            np.testing.assert_allclose(
                parameter.detach(), expected[their_name(name, ours.network)].detach(), atol=2e-5, err_msg=name
            )


def ours_env(id: str) -> Any:
    import gymnasium as gym

    return gym.make(id)


def their_name(name: str, network: Any) -> str:
    """Stable-Baselines3's name of our parameter."""
    if name == "log_std":
        return name
    head, index, kind = name.split(".")
    if int(index) == len(getattr(network, head)) - 1:
        return f"{'action_net' if head == 'actor' else 'value_net'}.{kind}"
    return f"mlp_extractor.{'policy' if head == 'actor' else 'value'}_net.{index}.{kind}"


def copy_weights(network: Any, policy: Any) -> None:
    theirs = dict(policy.named_parameters())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            theirs[their_name(name, network)].copy_(parameter)


def fill(buffer: Any, batch: dict[str, Any]) -> None:
    """Stable-Baselines3's rollout of one environment with our rows in it."""
    rows = len(batch["advantage"])
    buffer.reset()
    buffer.observations[:, 0] = batch["obs"]["obs"].numpy()
    buffer.actions[:, 0] = batch["action"].view(rows, -1).numpy()
    buffer.advantages[:, 0] = batch["advantage"].numpy()
    buffer.returns[:, 0] = batch["target"].numpy()
    buffer.pos, buffer.full = rows, True


def test_an_update_is_one_step_on_all_rows() -> None:
    a2c = on_policy("a2c", "CartPole-v1", n_steps=5)
    before = copied(a2c.network.state_dict())
    rows = []
    original = a2c.loss

    def loss(batch: Any) -> Any:
        rows.append(len(batch["action"]))
        return original(batch)

    a2c.loss = loss
    a2c.update()
    assert rows == [5 * 4] and not same(before, a2c.network.state_dict())


def test_the_policys_gradient_is_the_advantages() -> None:
    """d loss / d logits of a row is (pi - one-hot of the action) * advantage / rows: the likelihood ratio's."""
    a2c = on_policy("a2c", "CartPole-v1", n_steps=8)
    a2c.rollout.collect(a2c.env, a2c.policy, a2c.sampler, None)
    batch = a2c.batch()
    logits: list[Any] = []
    forward = a2c.network.outputs

    def outputs(features: Any) -> Any:
        logits.append(forward(features))
        logits[-1].retain_grad()
        return logits[-1]

    a2c.network.outputs = outputs
    loss, _ = a2c.minibatch_loss(batch)
    loss.backward()
    one_hot = torch.nn.functional.one_hot(batch["action"], 2)
    expected = (logits[0].softmax(-1) - one_hot) * batch["advantage"][:, None] / len(one_hot)
    torch.testing.assert_close(logits[0].grad, expected)


def test_rmsprop_equals_torchs() -> None:
    """Ten steps, some of them clipped; and a step that is not finite moves nothing."""
    torch_generator = torch.Generator().manual_seed(0)
    modules = [torch.nn.Linear(3, 2) for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    ours = FlatRMSprop(modules[0], max_grad_norm=0.7, eps=1e-5)
    theirs = torch.optim.RMSprop(modules[1].parameters(), alpha=0.99, eps=1e-5)
    norms = []
    for step in range(10):
        x = torch.randn(5, 3, generator=torch_generator)
        rate = 0.01 * (10 - step)
        norm, skipped = ours.step(modules[0](x).square().mean(), rate)
        norms.append(float(norm))
        assert skipped == 0
        if step == 4:
            before = copied([dict(modules[0].named_parameters()), ours.state_dict()])
            for bad in (math.nan, math.inf):
                _, skipped = ours.step(modules[0](x).sum() * bad, rate)
                assert skipped == 1
            assert same(before, [dict(modules[0].named_parameters()), ours.state_dict()])
        theirs.zero_grad()
        modules[1](x).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(modules[1].parameters(), 0.7)
        for group in theirs.param_groups:
            group["lr"] = rate
        theirs.step()
        for mine, other in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert max(norms) > 0.7 > min(norms), "else the clip was not tried"


@pytest.mark.parametrize("agent", ["a2c", "reinforce", "a2c lstm"])
def test_a_bad_update_is_not_applied(agent: str) -> None:
    made = on_policy(agent, "Clock-v0", kwargs={"length": 2, "last": 1e25})
    before = copied([made.network.state_dict(), made.optimizer.state_dict()])
    assert made.update()[NON_FINITE] == 1
    assert same(before, [made.network.state_dict(), made.optimizer.state_dict()])
