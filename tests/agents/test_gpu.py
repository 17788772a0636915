"""PPO on a CUDA device: the checks that need one (`make test-all` on a machine that has it)."""

from __future__ import annotations

import pytest
import torch

from rlgym.agents.configs.on_policy import PPOConfig
from rlgym.agents.ppo import PPO
from rlgym.config.schema import EnvConfig, TrainConfig

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


def config(**changes: object) -> TrainConfig:
    made = TrainConfig(steps=4096, device="cuda", env=EnvConfig("CartPole-v1"), agent=PPOConfig())
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def test_trains_on_the_device_and_evaluates() -> None:
    learner = PPO(config())
    before = learner.optimizer.parameters.clone()
    for _ in range(3):
        metrics = learner.update()
    assert all(torch.as_tensor(value).isfinite() for tag, value in metrics.items() if "variance" not in tag)
    assert learner.rollout.reward.is_cuda and not torch.equal(before, learner.optimizer.parameters)
    assert learner.evaluate().metrics["eval/mean_reward"] > 0
    learner.close()


def test_the_update_equals_the_cpus() -> None:
    """The same rollout and weights on both devices: the loss agrees, and its gradient."""
    gpu, cpu = PPO(config()), PPO(config(device="cpu"))
    for name, tensor in gpu.network.state_dict().items():
        assert torch.equal(tensor.cpu(), cpu.network.state_dict()[name])
    cpu.recent.add(cpu.rollout.collect(cpu.env, cpu.policy, cpu.sampler, None))
    batch = cpu.batch()
    there = {
        name: None if x is None else {k: v.cuda() for k, v in x.items()} if isinstance(x, dict) else x.cuda()
        for name, x in batch.items()
    }
    losses = []
    for learner, given in ((cpu, batch), (gpu, there)):
        loss, _ = learner.minibatch_loss(given, 0.2, 0.01)
        learner.optimizer.gradients.zero_()
        loss.backward()
        losses.append((loss.item(), learner.optimizer.gradients.cpu().clone()))
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-4)
    torch.testing.assert_close(losses[0][1], losses[1][1], rtol=1e-3, atol=1e-5)


def test_compiled_equals_eager() -> None:
    eager, compiled = PPO(config()), PPO(config(compile="on"))
    for _ in range(3):
        a, b = eager.update(), compiled.update()
    torch.testing.assert_close(a["train/value_loss"], b["train/value_loss"], rtol=1e-2, atol=1e-2)


def test_state_round_trip() -> None:
    first, second = PPO(config()), PPO(config())
    first.update()
    second.load_state_dict(first.state_dict())
    first.update()
    second.update()
    torch.testing.assert_close(first.optimizer.parameters, second.optimizer.parameters, rtol=1e-4, atol=1e-6)
