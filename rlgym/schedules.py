"""How a hyper-parameter moves over the budget."""

from __future__ import annotations

import math


def factor(
    schedule: str, step: float, total: float, warmup: float = 0.0, decay: float = 1.0, minimum: float = 0.0
) -> float:
    """Share of the peak at `step` of `total` (in tokens, or whatever the budget counts).

    Up from 0 along a line over the share `warmup` of the budget; then

    - cosine: down to `minimum` along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983);
    - wsd: 1 until the last share `decay` of the budget, then down to `minimum` as 1 - sqrt, better there than a line
      (Haegele et al. 2024, arXiv:2405.18392);
    - linear: down to `minimum` along a line;
    - constant: 1.

    Past `total` it stays where it ended. Ask for the step that an update ends at, and the first one moves too.
    """
    rise = warmup * total
    if step < rise:
        return step / rise
    if schedule == "constant":
        return 1.0
    begin = max(rise, total - decay * total) if schedule == "wsd" else rise
    done = min(max((step - begin) / (total - begin), 0.0), 1.0)
    shape = {"cosine": (1 + math.cos(math.pi * done)) / 2, "wsd": 1 - math.sqrt(done), "linear": 1 - done}
    return minimum + (1 - minimum) * shape[schedule]
