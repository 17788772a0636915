"""REINFORCE with a learned baseline (Williams 1992, doi:10.1007/BF00992696; Sutton & Barto 2018, section 13.4).

Gathers `n_steps` steps of `num_envs` parallel environments with the current policy. The return of a step is the
discounted sum of all rewards to the end of its episode; if the episode is truncated, plus the baseline's value of the
final observation; if the rollout ends first, plus the baseline's value of the state reached. Rollouts of fixed length
instead of whole episodes also suit tasks without an end and do not favour short episodes; with `n_steps` of several
episodes the baseline completes few returns. One gradient step on all of it:

    - log pi(a) * (return - baseline) - ent_coef * entropy + vf_coef * (return - baseline)^2
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlgym.agents.a2c import A2C
from rlgym.optim.adam import FlatAdam

if TYPE_CHECKING:
    from rlgym.agents.on_policy.base import Optimizer


class Reinforce(A2C):
    """The learner: A2C's loss and step on whole returns, which are GAE's with lambda = 1."""

    @property
    def gae_lambda(self) -> float:
        return 1.0

    def build_optimizer(self) -> Optimizer:
        return FlatAdam(self.network, self.knobs.max_grad_norm, self.knobs.adam_eps)
