"""Agents by name, and names of code."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlgym.config import registry
from rlgym.errors import RequestError


def test_built_in_agents_cannot_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    own = type("EntryPoint", (), {"name": "ppo", "value": "evil:Agent"})
    monkeypatch.setattr(registry, "entry_points", lambda group: [own])
    assert registry.entry("agent", "ppo").target == "rlgym.agents.ppo:PPO"


def test_an_installed_package_adds_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through its entry points, in either form in which packages are installed."""
    for name in ("wheel-1.0.dist-info", "develop.egg-info"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.split('-')[0]}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[rlgym.agents]\n{name[:5]} = somewhere:Agent\n")
    monkeypatch.syspath_prepend(tmp_path)
    for cached in (registry.entry_points, registry._any_entry_points):
        cached.cache_clear()
    try:
        assert registry.entry("agent", "wheel").target == registry.entry("agent", "devel").target == "somewhere:Agent"
    finally:
        for cached in (registry.entry_points, registry._any_entry_points):
            cached.cache_clear()


def test_module_name_is_its_own_entry() -> None:
    entry = registry.entry("agent", "somewhere:Agent")
    assert (entry.target, entry.config) == ("somewhere:Agent", "somewhere:Agent.Config")


def test_resolve_follows_attributes() -> None:
    assert registry.resolve("pathlib:Path.home") == Path.home


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "nothing: must be module:Name"),
        ("no_such_module:X", "cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"),
        ("pathlib:Pth", "no Pth in pathlib - did you mean Path?"),
    ],
)
def test_resolve_says_what_is_missing(name: str, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        registry.resolve(name)
    assert str(raised.value) == message


def test_a_module_that_raises_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raises.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RequestError, match="^cannot import raises: ZeroDivisionError: division by zero$"):
        registry.resolve("raises:X")
