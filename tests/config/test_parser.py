"""A typed config from plain data: what is accepted, as which value, and how a mistake is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from rlgym.common.suggest import nearest
from rlgym.config.parser import build, keys, to_dict
from rlgym.config.schema import knob
from rlgym.errors import RequestError


@dataclass
class Inner:
    rate: float = knob(0.5, "", ge=0, lt=1)
    mode: str = knob("on", "", choices=("on", "off"))


@dataclass
class Outer:
    must: int
    steps: int = knob(10, "", gt=0)
    limit: int | None = knob(None, "", gt=0)
    flag: bool = False
    name: str = ""
    sizes: list[int] = knob([64, 64], "", gt=0)
    extra: dict[str, Any] = knob({}, "")
    inner: Inner = field(default_factory=Inner)
    free: Any = None


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("steps", "1e6", 1_000_000),
        ("steps", 1e6, 1_000_000),
        ("steps", "1_000_000", 1_000_000),
        ("steps", "9007199254740993", 9_007_199_254_740_993),  # 2^53 + 1: exact, not through a float
        ("steps", 3, 3),
        ("limit", None, None),
        ("limit", "null", None),
        ("limit", "", None),
        ("limit", "7", 7),
        ("flag", "true", True),
        ("flag", "False", False),
        ("flag", True, True),
        ("name", 7, "7"),
        ("name", "a=b, [c]", "a=b, [c]"),
        ("sizes", [1e2, "32"], [100, 32]),
        ("sizes", [], []),
        ("extra", {"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        ("inner", {"rate": 0}, Inner(rate=0.0)),
        ("inner", {"mode": False}, Inner(mode="off")),  # YAML 1.1 reads off as false
        ("free", object, object),
    ],
)
def test_value_arrives_as_its_type(key: str, given: Any, expected: Any) -> None:
    value = getattr(build(Outer, {"must": 1, key: given}), key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"steps": "abc"}, "steps=abc: must be an integer, like 1000 or 1e6"),
        ({"steps": "1.5"}, "steps=1.5: must be an integer, like 1000 or 1e6"),
        ({"steps": True}, "steps=true: must be an integer, like 1000 or 1e6"),
        ({"steps": None}, "steps=null: must be an integer, like 1000 or 1e6"),
        ({"steps": "1e999"}, "steps=1e999: must be an integer, like 1000 or 1e6"),
        ({"steps": 0}, "steps=0: must be > 0"),
        ({"limit": -1}, "limit=-1: must be > 0"),
        ({"flag": 1}, "flag=1: must be true or false"),
        ({"flag": "yes"}, "flag=yes: must be true or false"),
        ({"name": None}, "name=null: must be text"),
        ({"name": ["a"]}, "name=['a']: must be text"),
        ({"sizes": "64"}, "sizes=64: must be a list, like sizes=[64,64]"),
        ({"sizes": [64, "x"]}, "sizes[1]=x: must be an integer, like 1000 or 1e6"),
        ({"sizes": [64, 0]}, "sizes[1]=0: must be > 0"),
        ({"extra": 3}, "extra=3: must be names and values, like extra.name=value"),
        ({"extra": {3: 4}}, "extra={3: 4}: must be names and values, like extra.name=value"),
        ({"inner": 3}, "inner=3: inner is a group of keys, like inner.rate=..."),
        ({"inner": {"rate": 1}}, "inner.rate=1.0: must be < 1"),
        ({"inner": {"rate": -0.1}}, "inner.rate=-0.1: must be >= 0"),
        ({"inner": {"rate": "nan"}}, "inner.rate=nan: must be a finite number, like 0.5 or 3e-4"),
        ({"inner": {"rate": "inf"}}, "inner.rate=inf: must be a finite number, like 0.5 or 3e-4"),
        ({"inner": {"mode": "of"}}, "inner.mode=of: must be one of on, off - did you mean inner.mode=off?"),
        ({"inner": {"ratte": 1}}, "unknown key inner.ratte - did you mean inner.rate?"),
        ({"iner": {"rate": 1}}, "unknown key iner.rate - did you mean inner.rate?"),
        ({"rate": 1}, "unknown key rate - did you mean inner.rate?"),
        ({"zzzz": 1}, "unknown key zzzz"),
    ],
)
def test_mistake_is_one_line_that_names_it(data: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        build(Outer, {"must": 1, **data})
    assert str(raised.value) == message


def test_missing_key_and_own_check_are_named() -> None:
    @dataclass
    class Checked:
        low: int = 0

        def __post_init__(self) -> None:
            if self.low > 3:
                raise ValueError("low must stay below high")

    with pytest.raises(RequestError, match="^must is missing$"):
        build(Outer, {})
    with pytest.raises(RequestError, match="^agent: low must stay below high$"):
        build(Checked, {"low": 4}, "agent")


def test_round_trip_and_keys() -> None:
    config = build(Outer, {"must": 1, "inner": {"rate": 0.25}, "sizes": [1]})
    assert build(Outer, to_dict(config)) == config
    expected = ["must", "steps", "limit", "flag", "name", "sizes", "extra", "inner.rate", "inner.mode", "free"]
    assert keys(Outer) == expected


def test_defaults_are_not_shared() -> None:
    build(Outer, {"must": 1}).sizes.append(3)
    assert build(Outer, {"must": 1}).sizes == [64, 64]


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("n_steps", ["steps", "agent.n_steps"], "agent.n_steps"),  # the same last part beats a similar whole
        ("logg.every", ["evaluate.every", "log.every", "checkpoint.every"], "log.every"),
        ("cartpole-v1", ["Acrobot-v1", "CartPole-v1"], "CartPole-v1"),
        ("agent.zzz", ["agent.std", "agent.gamma"], None),
        ("x", [], None),
    ],
)
def test_nearest(word: str, known: list[str], expected: str | None) -> None:
    assert nearest(word, known) == expected
