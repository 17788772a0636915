"""A new physics world for every episode of Gymnasium's Box2D environments.

BipedalWalker and CarRacing keep their world across episodes, and with it Box2D's internal order: the same seed gives
different episodes depending on the past (Gymnasium issue 728, fixed in LunarLander only), so that no resume can be
exact.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

KEEP = ("BipedalWalker", "CarRacing")


def keeps_its_world(env: gym.Env[Any, Any]) -> bool:
    inner = env.unwrapped
    return type(inner).__module__.startswith("gymnasium.envs.box2d.") and type(inner).__name__ in KEEP


class FreshWorld(gym.Wrapper[Any, Any, Any, Any]):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        inner: Any = self.unwrapped
        inner._destroy()
        inner.world = type(inner.world)(gravity=inner.world.gravity)
        return self.env.reset(seed=seed, options=options)
