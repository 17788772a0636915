"""A generated corpus: additions of two numbers, each a document like `12+34=46`."""

from __future__ import annotations

from collections.abc import Iterator

from rlgym.ssl.config import AdditionsData
from rlgym.ssl.data.documents import Item, Meter, Source


def open_additions(config: AdditionsData) -> Source:
    """Every pair of numbers of `digits` digits, once."""
    low, high = 10 ** (config.digits - 1), 10**config.digits
    meter = Meter()

    def items() -> Iterator[Item]:
        for a in range(low, high):
            for b in range(low, high):
                yield f"{a}+{b}={a + b}", True
            meter.done += 1

    name = f"additions of {config.digits}-digit numbers"
    return Source(items(), meter, high - low, "exercise", name=name)
