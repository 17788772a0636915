"""`predict RUN data=... out=...` of a reward model: what each answer of a table is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlgym.errors import RequestError
from rlgym.ssl.finetune import examples

if TYPE_CHECKING:
    from rlgym.ssl.finetune.config import RewardModelMethod
    from rlgym.ssl.finetune.reward_model import RewardModel

COMPLETION = "completion"


def scored(
    model: RewardModel, method: RewardModelMethod, table: examples.Table
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows, what is new in each): `reward` of a `completion`, or `reward_chosen` and `reward_rejected`, for tables
    with the columns that training had."""
    if COMPLETION in table.columns:
        answers = {"reward": COMPLETION}
    else:
        answers = {"reward_chosen": method.chosen, "reward_rejected": method.rejected}
    lacking = [name for name in (method.prompt, *answers.values()) if name not in table.columns]
    if lacking:
        raise RequestError(
            f"data: scoring takes the columns {method.prompt} and {COMPLETION}, or {method.prompt}, {method.chosen} "
            f"and {method.rejected}; {table.name} has {', '.join(table.columns)}"
        )
    rows = [dict(row.values) for row in table.rows]
    texts = {}
    for name in (method.prompt, *answers.values()):
        for row in table.rows:
            if not isinstance(row.values.get(name), str):
                raise RequestError(f"data: {row.where}: {name} is {str(row.values.get(name))[:40]!r}, no text")
        texts[name] = [str(row[name]) for row in rows]
    found: list[dict[str, Any]] = [{} for _ in rows]
    for new, name in answers.items():
        for each, reward in zip(found, model.score(texts[method.prompt], texts[name]).tolist(), strict=True):
            each[new] = reward
    return rows, found
