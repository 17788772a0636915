"""The toy environments are registered with Gymnasium for every test of this folder."""

from __future__ import annotations

from tests.envs import toys

toys.register()
