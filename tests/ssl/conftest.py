"""What tests of learning from text share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlgym.config.compose import compose
from rlgym.ssl.pretraining import Pretraining
from tests.ssl import tiny


@pytest.fixture
def learner(cache: Path, text: Path) -> Iterator[Callable[..., Pretraining]]:
    """`learner("batch_size=8")`: one of a tiny model, closed afterwards."""
    made: list[Pretraining] = []

    def make(*words: str) -> Pretraining:
        made.append(Pretraining(compose(tiny.words(text, "tokens=4096", *words), "pretrain")))
        return made[-1]

    yield make
    for one in made:
        one.close()
