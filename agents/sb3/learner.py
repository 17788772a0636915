"""Bridge to Stable-Baselines3 (Raffin et al. 2021, JMLR 22(268)): its PPO, A2C, DQN, SAC and TD3 under this program's
loop. One update is one iteration of the library's own `learn`: its `collect_rollouts`, then its `train`, on its buffers
and with its optimisers. Environments, evaluation, checkpoints, tags and run folder are this program's.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage
from torch import nn

from rlgym.agents.common.action_spaces import agents_for, refused
from rlgym.agents.common.base import Agent, as_trained, seeded
from rlgym.agents.off_policy import saved_replay
from rlgym.agents.off_policy.replay import require_memory
from rlgym.agents.sb3.env import BatchVecEnv, View
from rlgym.agents.sb3.policy import SB3Policy
from rlgym.agents.sb3.state import (
    GlobalRandom,
    ReplayRecord,
    load_noise,
    load_normalizer,
    load_optimizers,
    load_variables,
    noise_state,
    normalizer_state,
    optimizers_state,
    variables_state,
)
from rlgym.common.rng import load_numpy_state, numpy_state
from rlgym.config.effect import refuse_given
from rlgym.envs.make import make_env
from rlgym.errors import RequestError, TrainingError
from rlgym.learner import REPLAY, Metrics, Section
from rlgym.training.load_module import load_module

if TYPE_CHECKING:
    from rlgym.config.schema import EnvConfig, TrainConfig
    from rlgym.envs.batch import BatchEnv

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "sac": SAC, "td3": TD3}
ANY = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)
ACTS_IN: dict[str, tuple[type[spaces.Space[Any]], ...]] = {
    "ppo": ANY,
    "a2c": ANY,
    "dqn": (spaces.Discrete,),
    "sac": (spaces.Box,),
    "td3": (spaces.Box,),
}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
}
OF_POLICY = ("net_arch", "activation", "ortho_init", "log_std_init", "n_critics")
"""Hyper-parameters that the library takes as `policy_kwargs`."""
CPU = torch.device("cpu")
OWN = ("name", "save_replay", "learning_rate_schedule", "clip_range_schedule", "train_freq_unit", "action_noise_std")
"""Hyper-parameters that are folded into others, or are not the library's."""
COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_current_progress_remaining",
    "_n_calls",
    "exploration_rate",
)
"""Counters of an algorithm; some have fewer."""


class SB3(Agent):
    """The learner: `update()` is one iteration of the library's `learn`. `agent.name` names the algorithm."""

    keeps_past_selves = False

    def __init__(self, config: TrainConfig) -> None:
        """Starts the environments and resolves the config's automatic choices (backend, device, threads)."""
        knobs: Any = config.agent
        if config.compile == "on":
            raise RequestError(f"compile=on: agent={knobs.name} steps by the library's own code; compile=off would do")
        super().__init__(config, False)
        self.knobs = knobs
        self.algorithm = algorithm_of(knobs.name)
        self.view = View(self.env.leaves, self.env.action_space)
        check(config, self.env, self.view)
        self.venv = BatchVecEnv(self.env, self.view)
        self.venv.obs = self.env.reset(config.seed)
        self.normalizer = build_normalizer(self.venv, config.env, knobs.gamma)
        self.random = GlobalRandom(self.device)
        venv = self.venv if self.normalizer is None else self.normalizer
        with self.random():
            self.model, said = build_model(self.algorithm, knobs, venv, self.device, config.seed)
            self.model.set_logger(Logger(None, []))
            _, self.callback = self.model._setup_learn(config.schedule_budget)
            self.callback.on_training_start({}, {})
        self.notices += said
        if self.env.action_mask is not None:
            self.notices.append(
                f"{config.env.id} tells which actions are legal; agent={knobs.name} does not heed it, as agent=ppo does"
            )
        self.policy = cast(Any, SB3Policy(self.model.policy, self.view, self.normalizer))
        self.learns_from = 0
        self.replay: ReplayRecord | None = None
        if isinstance(self.model, OffPolicyAlgorithm):
            self.learns_from = self.model.learning_starts
            assert self.model.replay_buffer is not None
            self.replay = ReplayRecord(self.model.replay_buffer)
            self.exactness[REPLAY] = saved_replay.promise(knobs.save_replay, saved_replay.refill(knobs))
        self.exactness["random"] = "exact: the states of torch's and NumPy's global generators and of the action space"
        self._lately: dict[str, float] = {}

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"": self.model.policy}

    # ---- one turn

    def update(self) -> Metrics:
        model = self.model
        with self.random():
            try:
                if isinstance(model, OnPolicyAlgorithm):
                    self.on_policy(model)
                else:
                    assert isinstance(model, OffPolicyAlgorithm)
                    self.off_policy(model)
            except (
                ValueError,
                RuntimeError,
            ) as error:  # torch's errors for a network's NaN, in a distribution or a draw
                words = " ".join(str(error).split())[:200]
                raise TrainingError(f"Stable-Baselines3 failed after step {self.progress.step}: {words}") from error
        self.progress.step = model.num_timesteps
        self.progress.update += 1
        if self.venv.episodes:
            self.recent.add(self.venv.episodes)
            self.venv.episodes.clear()
            self._lately = self.recent.metrics()
        return {**self.logged(), **self._lately}

    def on_policy(self, model: OnPolicyAlgorithm) -> None:
        """As `OnPolicyAlgorithm.learn`."""
        assert model.env is not None
        model.collect_rollouts(model.env, self.callback, model.rollout_buffer, n_rollout_steps=model.n_steps)
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        model.train()

    def off_policy(self, model: OffPolicyAlgorithm) -> None:
        """As `OffPolicyAlgorithm.learn`."""
        assert model.env is not None and model.replay_buffer is not None
        rollout = model.collect_rollouts(
            model.env,
            train_freq=cast(Any, model.train_freq),
            action_noise=model.action_noise,
            callback=self.callback,
            learning_starts=model.learning_starts,
            replay_buffer=model.replay_buffer,
            log_interval=None,
        )
        if model.num_timesteps > self.learns_from:
            steps = model.gradient_steps if model.gradient_steps >= 0 else rollout.episode_timesteps
            model.train(batch_size=model.batch_size, gradient_steps=steps)

    def logged(self) -> dict[str, float]:
        """The library's TensorBoard scalars of this iteration, under its tags. The library steps whatever the loss, so
        a non-finite number ends training here.
        """
        logger = self.model.logger
        found = {
            tag: float(value)
            for tag, value in logger.name_to_value.items()
            if "tensorboard" not in logger.name_to_excluded[tag]
        }
        logger.name_to_value.clear()
        if not math.isfinite(found.get("train/explained_variance", 0.0)):
            del found["train/explained_variance"]  # undefined for constant returns
        for tag, value in found.items():
            if not math.isfinite(value):
                raise self._diverged(f"{tag} is {value}")
        return found

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"non-finite numbers at step {self.progress.step} (update {self.progress.update}): {what}, and "
            "Stable-Baselines3 has stepped by it; a lower learning_rate or max_grad_norm may help"
        )

    # ---- checkpoints

    def state_dict(self) -> dict[str, Section]:
        model = self.model
        weights = model.policy.state_dict()
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise self._diverged(f"the weights {name} are")
        state: dict[str, Section] = {
            "model": weights,
            "optimizer": optimizers_state(model),
            "variables": variables_state(model),
            "counters": {
                **{name: getattr(model, name) for name in COUNTERS if hasattr(model, name)},
                "learns_from": self.learns_from,
                "episode_starts": np.asarray(model._last_episode_starts).tolist(),
                "noise": noise_state(model.action_noise),
            },
            "rng": {**self.random.state_dict(), "action_space": numpy_state(model.action_space.np_random)},
            **self.base_state(),
        }
        if self.normalizer is not None:
            state["normalizer"] = normalizer_state(self.normalizer)
        if self.replay is not None and self.knobs.save_replay:
            state[REPLAY] = self.replay.state_dict(self.venv.steps)
        return state

    def load_state_dict(self, state: Mapping[str, Section]) -> None:
        self.check_base_state(state)
        model, counters = self.model, state["counters"]
        load_module(model.policy, state["model"])
        load_optimizers(model, state["optimizer"])
        load_variables(model, state["variables"])
        for name in COUNTERS:
            if hasattr(model, name):
                setattr(model, name, counters[name])
        self.learns_from = cast(int, counters["learns_from"])
        model._last_episode_starts = np.array(counters["episode_starts"], bool)
        load_noise(model.action_noise, counters["noise"])
        self.random.load_state_dict(state["rng"])
        load_numpy_state(model.action_space.np_random, cast(Any, state["rng"]["action_space"]))
        if self.replay is not None and REPLAY in state:
            self.venv.steps = self.replay.load_state_dict(state[REPLAY])
        self.venv.obs = self.load_base_state(state)
        self._lately = self.recent.metrics()
        assert model.env is not None
        if self.normalizer is None:
            model._last_obs = cast(Any, model.env.reset())
        else:  # the current observations are in its statistics already
            load_normalizer(self.normalizer, state["normalizer"])
            self.normalizer.training = False
            model._last_obs = cast(Any, model.env.reset())
            self.normalizer.training = True
            load_normalizer(self.normalizer, state["normalizer"])  # the reset cleared its running returns
            model._last_original_obs = cast(Any, self.normalizer.get_original_obs())
        if self.replay is not None and REPLAY not in state:
            refill = saved_replay.refill(self.knobs)
            self.learns_from = max(self.learns_from, self.progress.step + refill)
            self.notices.append(saved_replay.missing(refill))
        elif self.replay is not None and self.env.restore_report:
            self.replay.interrupt()

    @staticmethod
    def load(config: TrainConfig, state: Mapping[str, Section], device: torch.device, folder: Path) -> SB3Policy:
        """The policy of the finished run in `folder`, from its config and a checkpoint."""
        knobs: Any = config.agent
        env = make_env(config.env, num_envs=1)
        try:
            view = View(as_trained(env.leaves, state), env.action_space)
            normalizer = build_normalizer(BatchVecEnv(env, view), config.env, knobs.gamma)
        finally:
            env.close()
        if normalizer is not None:
            load_normalizer(normalizer, state["normalizer"])
        kind = algorithm_of(knobs.name).policy_aliases[view.policy]
        with seeded(config.seed):
            build: Any = kind
            policy: BasePolicy = build(view.observation_space, view.action_space, lambda _: 0.0, **policy_kwargs(knobs))
        load_module(policy, state["model"])
        return SB3Policy(policy.to(device), view, normalizer)


# ---- requests that the library cannot fulfil


def algorithm_of(name: str) -> type[BaseAlgorithm]:
    return ALGORITHMS[name.removeprefix("sb3/")]


def check(config: TrainConfig, env: BatchEnv, view: View) -> None:
    """RequestError where the library does not take this environment, or this combination of hyper-parameters."""
    knobs: Any = config.agent
    name = knobs.name
    check_actions(name, env)
    if env.phantoms and env.num_envs > 1:
        raise RequestError(
            f"env.backend={env.backend}: {config.env.id} resets one step late, which agent={name} knows no place for; "
            "env.backend=sync or env.num_envs=1 would do"
        )
    if getattr(knobs, "train_freq_unit", "step") == "episode" and env.num_envs > 1:
        raise RequestError(
            f"agent.train_freq_unit=episode: agent={name} counts episodes of one environment only; env.num_envs=1 or "
            "agent.train_freq_unit=step would do"
        )
    if hasattr(knobs, "buffer_size"):  # it also stores next observations, in host memory
        seen = sum(math.prod(space.shape or ()) * np.dtype(space.dtype).itemsize for _, space in view.parts.values())
        require_memory(knobs.buffer_size, 2 * seen + 8 * math.prod(env.action_space.shape or ()) + 12, CPU)
    if hasattr(knobs, "buffer_size") and knobs.n_steps > 1 and not view.whole:
        raise RequestError(
            f"agent.n_steps={knobs.n_steps}: agent={name} sums rewards for observations of one array only; "
            "agent.n_steps=1 would do"
        )
    if getattr(knobs, "use_sde", False) and not isinstance(env.action_space, spaces.Box):
        raise RequestError(
            f"agent.use_sde=true explores in Box actions, and {config.env.id} has {env.action_space}; "
            "agent.use_sde=false would do"
        )
    if not isinstance(env.action_space, spaces.Box):
        refuse_given(config, "agent", ("log_std_init",), f"env={env.id} takes {env.action_space}, and no Gaussian")
    rows = getattr(knobs, "n_steps", 2) * env.num_envs
    if getattr(knobs, "normalize_advantage", False) and rows < 2:
        raise RequestError("agent.n_steps=1, env.num_envs=1: one advantage has no deviation; more of either would do")


def check_actions(name: str, env: BatchEnv) -> None:
    """RequestError where the algorithm does not act in this environment; names those that do."""
    space, box = env.action_space, "a bounded Box of floats"
    kinds = ACTS_IN[name.removeprefix("sb3/")]
    if isinstance(space, kinds) and (not isinstance(space, spaces.Box) or "sac" in agents_for(space)):
        return
    acts_in = " or ".join(box if kind is spaces.Box else kind.__name__ for kind in kinds)
    raise refused(name, f"acts in {acts_in}", env.id, space)


# ---- building the library's objects


def build_normalizer(venv: BatchVecEnv, config: EnvConfig, gamma: float) -> VecNormalize | None:
    """The library's running normalisation of observations (real numbers only) and rewards, or None."""
    scaled = [key for key, (leaf, _) in venv.view.parts.items() if leaf.kind == "vector" and leaf.dtype.kind == "f"]
    if config.normalize_observation and not scaled:
        raise RequestError(f"env.normalize_observation=true: env={config.id} observes no real numbers to scale")
    if not (config.normalize_observation or config.normalize_reward):
        return None
    return VecNormalize(
        venv,
        norm_obs=config.normalize_observation,
        norm_reward=config.normalize_reward,
        gamma=gamma,
        norm_obs_keys=None if venv.view.whole else scaled,
    )


def build_model(
    algorithm: type[BaseAlgorithm], knobs: Any, venv: VecEnv, device: torch.device, seed: int
) -> tuple[BaseAlgorithm, list[str]]:
    """The library's model with all hyper-parameters, and its warnings."""
    if isinstance(venv.observation_space, spaces.Dict) or is_image_space(venv.observation_space):
        venv = VecTransposeImage(venv, skip=True)  # images are channels-first already; the library would guess
    view = cast(BatchVecEnv, venv.unwrapped).view
    given = {key: value for key, value in asdict(knobs).items() if key not in (*OWN, *OF_POLICY)}
    for key in ("learning_rate", "clip_range"):
        if getattr(knobs, f"{key}_schedule", "constant") == "linear":
            given[key] = linear(given[key])
    if "train_freq" in given:
        given["train_freq"] = (knobs.train_freq, knobs.train_freq_unit)
    if "action_noise" in given:
        given["action_noise"] = build_noise(knobs, view)
    own_random = random.getstate()  # the library seeds Python's generator too, and never draws from it
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            build: Any = algorithm
            kwargs = policy_kwargs(knobs)
            kwargs.pop("use_sde", None)  # the algorithm passes it on
            model = build(view.policy, venv, policy_kwargs=kwargs, device=device, seed=seed, **given)
    finally:
        random.setstate(own_random)
    lines = [" ".join(str(warning.message).split()) for warning in said if warning.category is UserWarning]
    for line in lines:
        if "enough memory to store" in line:
            raise RequestError(f"agent.buffer_size={knobs.buffer_size}: {line}; lower it")
    return model, [f"Stable-Baselines3: {line}" for line in lines]


def policy_kwargs(knobs: Any) -> dict[str, Any]:
    """Arguments of the library's policies other than spaces and learning rate."""
    kwargs = {key: getattr(knobs, key) for key in OF_POLICY if hasattr(knobs, key)}
    kwargs["activation_fn"] = ACTIVATIONS[kwargs.pop("activation")]
    if hasattr(knobs, "use_sde"):
        kwargs["use_sde"] = knobs.use_sde
    return kwargs


def build_noise(knobs: Any, view: View) -> ActionNoise | None:
    shape = view.action_space.shape or ()
    mean, deviation = np.zeros(shape), np.full(shape, knobs.action_noise_std)
    if knobs.action_noise == "normal":
        return NormalActionNoise(mean, deviation)
    return OrnsteinUhlenbeckActionNoise(mean, deviation) if knobs.action_noise == "ornstein_uhlenbeck" else None


def linear(start: float) -> Any:
    """A linear schedule in the library's form: from `start` to 0 over the budget, constant 0 afterwards."""

    def schedule(remaining: float) -> float:
        return start * max(remaining, 0.0)

    return schedule
