"""The budgets of a run (steps or tokens, updates, minutes): how much is spent, and how a resume can continue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rlgym.config.schema import RootConfig


class Budget(NamedTuple):
    key: str
    """The key on the command line."""
    unit: str
    """Name of the unit: self-play counts its steps in moves."""
    done: float
    total: float

    @property
    def spent(self) -> bool:
        return self.done >= self.total

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total)

    def __str__(self) -> str:
        return f"{_short(self.done)}/{self.words}"

    @property
    def words(self) -> str:
        return f"{self.total:g} minutes" if self.key == "minutes" else f"{self.total:,} {self.unit}"


def budgets(config: RootConfig, unit: str, step: int, update: int, seconds: float) -> list[Budget]:
    """All budgets of the run, the one in `unit` (steps, moves or tokens) first. The first one spent ends the run."""
    found = [Budget(config.budget_key, unit, step, config.budget)]
    if config.updates is not None:
        found.append(Budget("updates", "updates", update, config.updates))
    if config.minutes is not None:
        found.append(Budget("minutes", "minutes", seconds / 60, config.minutes))
    return found


def leading(found: Iterable[Budget]) -> Budget:
    """The budget with the largest spent share, which measures progress."""
    return max(found, key=lambda budget: budget.share)


def more(found: Iterable[Budget]) -> str:
    """Arguments of `resume` that let a run continue: twice each spent budget, or twice what is done if that is more;
    empty if none is spent."""
    words = []
    for key, _, done, total in (budget for budget in found if budget.spent):
        twice = 2 * (total if 2 * total > done else done)
        words.append(f"{key}={twice:.3g}" if key == "minutes" else f"{key}={twice}")
        if key in ("steps", "tokens"):
            words.append(f"schedule_{key}={twice}")
    return " ".join(words)


def _short(value: float) -> str:
    return f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:,.0f}"
