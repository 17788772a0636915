"""`predict RUN data=... out=...` of a reward model: rewards of a table's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlgym.errors import RequestError
from rlgym.ssl.data.documents import Row
from rlgym.ssl.finetune import examples

if TYPE_CHECKING:
    from rlgym.ssl.finetune.config import RewardModelMethod
    from rlgym.ssl.finetune.reward_model import RewardModel

COMPLETION = "completion"


def scored(
    model: RewardModel, method: RewardModelMethod, table: examples.Table, bad: str
) -> tuple[list[Row], list[dict[str, Any]]]:
    """(usable rows, new columns of each): `reward` of a `completion`, or `reward_chosen` and `reward_rejected` for
    tables with training's columns."""
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

    def read(row: Row) -> list[list[int]]:
        prompt = examples.value(row.values, method.prompt, examples.as_string)
        return [model.encode(prompt, examples.value(row.values, name, examples.as_string)) for name in answers.values()]

    rows, tokens = examples.usable(table, read, bad)
    found = [model.read([each[place] for each in tokens])[:, 0].tolist() for place in range(len(answers))]
    return rows, [dict(zip(answers, rewards, strict=True)) for rewards in zip(*found, strict=True)]
