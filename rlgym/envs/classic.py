"""Gymnasium's classic control as array code, bit-identical to the reference in each lane. Operations keep the
reference's order and precision (float32 and `math.cos` where it uses them), since a different last bit grows into a
different episode.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlgym.envs import partially_observable
from rlgym.envs.native import NativeEnv
from rlgym.envs.spaces import Array


def _constants(*values: float) -> tuple[Array, ...]:
    """0-d arrays, which ufuncs take twice as fast as Python numbers."""
    return tuple(np.array(value) for value in values)


class CartPole(NativeEnv):
    """State [x, theta, x_dot, theta_dot]: positions and velocities adjoin, so that Euler's step is two array calls."""

    initial = (-0.05, 0.05, 4)
    state_rows = 4

    def __init__(self, id: str, num_envs: int, max_steps: int | None) -> None:
        super().__init__(id, num_envs, max_steps)
        self.reward[:] = 1.0
        motion = np.zeros((6, num_envs))  # positions, velocities, accelerations
        self.state = motion[:4]
        self._positions, self._derivatives, (self._x_acc, self._theta_acc) = motion[:2], motion[2:], motion[4:]
        _, self._theta, _, self._theta_dot = self.state
        self._state_view = self.state.reshape(2, 2, num_envs)
        self._obs_view, self._shown = self.views()
        self._change = np.zeros((4, num_envs))
        self._size = self._change[:2]
        self._limit = np.repeat([[2.4], [12 * 2 * math.pi / 360]], num_envs, axis=1)
        self._beyond = np.zeros((2, num_envs), bool)
        self._x_beyond, self._theta_beyond = self._beyond
        self._scratch = tuple(np.zeros((5, num_envs)))
        self._forces = np.array([-10.0, 10.0])
        # 1.1: both masses; 0.05: pole mass times half length 0.5; 0.02: seconds a step
        self._numbers = _constants(0.05, 1.1, 0.1, 4.0 / 3.0, 0.5, 9.8, 0.02)

    @staticmethod
    def make_observation_space() -> spaces.Box:
        high = np.array([4.8, np.inf, 2 * 12 * 2 * math.pi / 360, np.inf], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    @staticmethod
    def make_action_space() -> spaces.Discrete:
        return spaces.Discrete(2)

    def views(self) -> tuple[Array, Array]:
        """Observations and the observed state in one memory layout, so that one copy fills them."""
        # obs is [x, x_dot, theta, theta_dot]: here as [position or velocity, x or theta, lane]
        return self.obs.reshape(-1, 2, 2).transpose(2, 1, 0), self._state_view

    def begin(self, lanes: Array, drawn: Array) -> None:
        self._state_view[..., lanes] = drawn.reshape(-1, 2, 2).T
        self.obs[lanes] = drawn

    def advance(self, actions: Array) -> None:
        temp, sin, cos, a, b = self._scratch
        pole, mass, pole_mass, four_thirds, half, gravity, tau = self._numbers
        theta, theta_dot, x_acc, theta_acc = self._theta, self._theta_dot, self._x_acc, self._theta_acc
        np.cos(theta, cos)
        np.sin(theta, sin)
        # temp = (force + 0.05 * theta_dot^2 * sin) / 1.1
        np.multiply(theta_dot, theta_dot, temp)
        np.multiply(temp, pole, temp)
        np.multiply(temp, sin, temp)
        np.add(temp, self._forces[actions], temp)
        np.divide(temp, mass, temp)
        # theta_acc = (9.8 * sin - cos * temp) / (0.5 * (4 / 3 - 0.1 * cos^2 / 1.1))
        np.multiply(cos, cos, b)
        np.multiply(b, pole_mass, b)
        np.divide(b, mass, b)
        np.subtract(four_thirds, b, b)
        np.multiply(b, half, b)
        np.multiply(sin, gravity, a)
        np.multiply(cos, temp, sin)
        np.subtract(a, sin, a)
        np.divide(a, b, theta_acc)
        # x_acc = temp - 0.05 * theta_acc * cos / 1.1
        np.multiply(theta_acc, pole, a)
        np.multiply(a, cos, a)
        np.divide(a, mass, a)
        np.subtract(temp, a, x_acc)
        # explicit Euler: positions by the old velocities, velocities by the accelerations
        np.multiply(self._derivatives, tau, self._change)
        np.add(self.state, self._change, self.state)
        np.abs(self._positions, self._size)
        np.greater(self._size, self._limit, self._beyond)
        np.logical_or(self._x_beyond, self._theta_beyond, self.terminated)
        self._obs_view[...] = self._shown


class CartPoleNoVelocity(CartPole):
    """Observes [x, theta] only."""

    @staticmethod
    def make_observation_space() -> spaces.Box:
        whole = CartPole.make_observation_space()
        return spaces.Box(whole.low[::2], whole.high[::2], dtype=np.float32)

    def views(self) -> tuple[Array, Array]:
        return self.obs.T, self._positions

    def begin(self, lanes: Array, drawn: Array) -> None:
        self._state_view[..., lanes] = drawn.reshape(-1, 2, 2).T
        self.obs[lanes] = drawn[:, ::2]


class MountainCar(NativeEnv):
    """State [position, velocity]."""

    initial = (-0.6, -0.4, 1)
    state_rows = 2

    def __init__(self, id: str, num_envs: int, max_steps: int | None) -> None:
        super().__init__(id, num_envs, max_steps)
        self.reward[:] = -1.0
        self._slope = np.zeros(num_envs)
        self._wall = np.zeros(num_envs, bool)
        self._pushes = (np.arange(3) - 1) * 0.001
        self._numbers = _constants(3.0, -0.0025, 0.07, -0.07, -1.2, 0.6, 0.5, 0.0)

    @staticmethod
    def make_observation_space() -> spaces.Box:
        return spaces.Box(np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32), dtype=np.float32)

    @staticmethod
    def make_action_space() -> spaces.Discrete:
        return spaces.Discrete(3)

    def begin(self, lanes: Array, drawn: Array) -> None:
        self.state[0, lanes] = drawn[:, 0]
        self.state[1, lanes] = 0.0
        self.obs[lanes] = self.state[:, lanes].T

    def advance(self, actions: Array) -> None:
        position, velocity = self.state
        slope, wall = self._slope, self._wall
        three, gravity, speed, back, low, high, goal, zero = self._numbers
        np.multiply(position, three, slope)
        slope[:] = [math.cos(angle) for angle in slope.tolist()]
        np.multiply(slope, gravity, slope)
        np.add(self._pushes[actions], slope, slope)
        np.add(velocity, slope, velocity)
        np.maximum(velocity, back, out=velocity)
        np.minimum(velocity, speed, out=velocity)
        np.add(position, velocity, position)
        np.maximum(position, low, out=position)
        np.minimum(position, high, out=position)
        np.equal(position, low, wall)
        if np.count_nonzero(wall):
            np.maximum(velocity, zero, out=velocity, where=wall)
        np.greater_equal(position, goal, self.terminated)
        if np.count_nonzero(self.terminated):
            np.logical_and(self.terminated, velocity >= 0, self.terminated)
        self.obs[...] = self.state.T


class MountainCarContinuous(NativeEnv):
    """State [position, velocity], float32 in the reference from the first step on, float64 only right after a reset."""

    initial = (-0.6, -0.4, 1)
    state_rows = 2

    @staticmethod
    def make_observation_space() -> spaces.Box:
        return spaces.Box(np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32), dtype=np.float32)

    @staticmethod
    def make_action_space() -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    def begin(self, lanes: Array, drawn: Array) -> None:
        self.state[0, lanes] = drawn[:, 0]
        self.state[1, lanes] = 0.0
        self.obs[lanes] = self.state[:, lanes].T

    def advance(self, actions: Array) -> None:
        action = actions[:, 0].astype(np.float32)
        force = np.clip(action, -1.0, 1.0)
        slope = np.array([math.cos(p) for p in self._three_positions()]) * 0.0025
        # a clipped force is a Python float in the reference, and its sum is rounded to float32 only once
        push = force * np.float32(0.0015) - slope.astype(np.float32)
        clipped = np.abs(action) > 1
        exact_push = np.where(clipped, force.astype(np.float64) * 0.0015 - slope, push)
        position, velocity = self.state.astype(np.float32)
        velocity += exact_push.astype(np.float32)
        np.clip(velocity, np.float32(-0.07), np.float32(0.07), velocity)
        position += velocity
        np.clip(position, np.float32(-1.2), np.float32(0.6), position)
        fresh = self._now - self._starts == 1
        if fresh.any():  # velocity 0 and a float64 position: neither limit is in reach
            velocity[fresh] = exact_push[fresh]
            position[fresh] = self.state[0, fresh] + exact_push[fresh]
        velocity[(position == np.float32(-1.2)) & (velocity < 0)] = 0.0
        self.terminated[:] = (position >= np.float32(0.45)) & (velocity >= 0)
        self.reward[:] = np.where(self.terminated, 100.0, 0.0) - np.square(action.astype(np.float64)) * 0.1
        self.state[0], self.state[1] = position, velocity
        self.obs[...] = self.state.T

    def _three_positions(self) -> list[float]:
        tripled = self.state[0] * 3
        fresh = self._now - self._starts == 1
        return np.where(fresh, tripled, tripled.astype(np.float32)).tolist()  # type: ignore[no-any-return]


class Pendulum(NativeEnv):
    """State [theta, theta_dot]. Never terminates."""

    initial = (np.array([-math.pi, -1.0]), np.array([math.pi, 1.0]), 2)
    state_rows = 2

    def __init__(self, id: str, num_envs: int, max_steps: int | None) -> None:
        super().__init__(id, num_envs, max_steps)
        self._a, self._cost = np.zeros((2, num_envs))
        self._u, self._effort = np.zeros((2, num_envs), np.float32)
        self._numbers = _constants(math.pi, 2 * math.pi, 0.1, 15.0, 0.05, 8.0, -8.0)
        self._numbers_32 = tuple(np.array(value, np.float32) for value in (2.0, -2.0, 0.001, 3.0))

    @staticmethod
    def make_observation_space() -> spaces.Box:
        high = np.array([1.0, 1.0, 8.0], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    @staticmethod
    def make_action_space() -> spaces.Box:
        return spaces.Box(-2.0, 2.0, (1,), np.float32)

    def begin(self, lanes: Array, drawn: Array) -> None:
        self.state[:, lanes] = drawn.T
        obs = np.zeros((len(lanes), 3), np.float32)
        self._write(obs, drawn.T)
        self.obs[lanes] = obs

    def advance(self, actions: Array) -> None:
        theta, theta_dot = self.state
        a, cost, u, effort = self._a, self._cost, self._u, self._effort
        pi, two_pi, tenth, gravity, tau, fast, back = self._numbers
        strong, weak, thousandth, three = self._numbers_32
        u[:] = actions[:, 0]
        np.maximum(u, weak, out=u)
        np.minimum(u, strong, out=u)
        # cost = normalised_angle^2 + 0.1 * theta_dot^2 + 0.001 * u^2
        np.add(theta, pi, cost)
        np.remainder(cost, two_pi, cost)
        np.subtract(cost, pi, cost)
        np.multiply(cost, cost, cost)
        np.multiply(theta_dot, theta_dot, a)
        np.multiply(a, tenth, a)
        np.add(cost, a, cost)
        np.multiply(u, u, effort)
        np.multiply(effort, thousandth, effort)
        np.add(cost, effort, cost)
        np.negative(cost, self.reward)
        # theta_dot += (15 * sin(theta) + 3 * u) * 0.05, clipped to +-8
        np.sin(theta, a)
        np.multiply(a, gravity, a)
        np.multiply(u, three, u)
        np.add(a, u, a)
        np.multiply(a, tau, a)
        np.add(theta_dot, a, theta_dot)
        np.maximum(theta_dot, back, out=theta_dot)
        np.minimum(theta_dot, fast, out=theta_dot)
        np.multiply(theta_dot, tau, a)
        np.add(theta, a, theta)
        self._write(self.obs, self.state)

    @staticmethod
    def _write(obs: Array, state: Array) -> None:
        np.cos(state[0], obs[:, 0], casting="same_kind")
        np.sin(state[0], obs[:, 1], casting="same_kind")
        obs[:, 2] = state[1]


class Acrobot(NativeEnv):
    """State [theta1, theta2, theta1_dot, theta2_dot], one Runge-Kutta step of 0.2 s at a time."""

    initial = (-0.1, 0.1, 4)
    state_rows = 4

    def __init__(self, id: str, num_envs: int, max_steps: int | None) -> None:
        super().__init__(id, num_envs, max_steps)
        self._torques = np.array([-1.0, 0.0, 1.0])
        self._max_speed = np.array([[4 * math.pi], [9 * math.pi]])

    @staticmethod
    def make_observation_space() -> spaces.Box:
        high = np.array([1.0, 1.0, 1.0, 1.0, 4 * math.pi, 9 * math.pi], np.float32)
        return spaces.Box(-high, high, dtype=np.float32)

    @staticmethod
    def make_action_space() -> spaces.Discrete:
        return spaces.Discrete(3)

    def begin(self, lanes: Array, drawn: Array) -> None:
        start = drawn.T.astype(np.float32)
        self.state[:, lanes] = start
        self._write(self.obs, lanes, start)

    @staticmethod
    def _write(obs: Array, lanes: Array | slice, state: Array) -> None:
        cos, sin = np.cos(state[:2]), np.sin(state[:2])
        obs[lanes, 0:4:2] = cos.T
        obs[lanes, 1:4:2] = sin.T
        obs[lanes, 4:] = state[2:].T

    def advance(self, actions: Array) -> None:
        torque = self._torques[actions]
        start = self.state
        k1 = self._derivative(start, torque)
        k2 = self._derivative(start + 0.1 * k1, torque)
        k3 = self._derivative(start + 0.1 * k2, torque)
        k4 = self._derivative(start + 0.2 * k3, torque)
        start += 0.2 / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        angles, speeds = start[:2], start[2:]
        while (over := angles > math.pi).any():
            angles[over] -= 2 * math.pi
        while (under := angles < -math.pi).any():
            angles[under] += 2 * math.pi
        np.clip(speeds, -self._max_speed, self._max_speed, speeds)
        np.greater(-np.cos(angles[0]) - np.cos(angles[1] + angles[0]), 1.0, self.terminated)
        np.subtract(self.terminated, 1.0, self.reward)
        self._write(self.obs, slice(None), start)

    @staticmethod
    def _derivative(state: Array, torque: Array) -> Array:
        """Sutton and Barto's book's equations; both links have length, mass and inertia 1, their centres at 0.5."""
        theta1, theta2, dtheta1, dtheta2 = state
        cos2, sin2 = np.cos(theta2), np.sin(theta2)
        d1 = 0.25 + (1.25 + cos2) + 1.0 + 1.0
        d2 = (0.25 + 0.5 * cos2) + 1.0
        phi2 = 4.9 * np.cos(theta1 + theta2 - math.pi / 2.0)
        phi1 = -0.5 * (dtheta2 * dtheta2) * sin2 - 1.0 * dtheta2 * dtheta1 * sin2
        phi1 = phi1 + 14.700000000000001 * np.cos(theta1 - math.pi / 2) + phi2
        ddtheta2 = (torque + d2 / d1 * phi1 - 0.5 * (dtheta1 * dtheta1) * sin2 - phi2) / (1.25 - d2 * d2 / d1)
        ddtheta1 = -(d2 * ddtheta2 + phi1) / d1
        return np.stack((dtheta1, dtheta2, ddtheta1, ddtheta2))


NATIVE: dict[str, type[NativeEnv]] = {
    "CartPole-v0": CartPole,
    "CartPole-v1": CartPole,
    partially_observable.CARTPOLE: CartPoleNoVelocity,
    "Acrobot-v1": Acrobot,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
}


def knows(id: str, kwargs: dict[str, Any]) -> bool:
    """Whether array code exists for this id as registered by Gymnasium (or rlgym), with these arguments."""
    spec = gymnasium.registry.get(id)
    own = spec is not None and str(spec.entry_point).startswith(
        ("gymnasium.envs.classic_control.", partially_observable.__name__)
    )
    limit = kwargs.get("max_episode_steps", 1)
    return id in NATIVE and own and set(kwargs) <= {"max_episode_steps"} and type(limit) is int and limit != 0


def make_native(id: str, num_envs: int, kwargs: dict[str, Any]) -> NativeEnv:
    limit = kwargs.get("max_episode_steps", gymnasium.registry[id].max_episode_steps)
    return NATIVE[id](id, num_envs, limit if limit and limit > 0 else None)
