"""Which part of the program may import which: downwards only, and no circles.

import-linter reads one package below one folder; `rlgym.agents` and `rlgym.ssl` lie beside rlgym/, so the imports are
read here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.packaging.wheel import ROOT, tracked

LAYERS = (
    ("rlgym", "rlgym.__main__"),
    ("rlgym.cli",),
    ("rlgym.api", "rlgym.sweeps", "rlgym.analysis"),
    ("rlgym.ssl.finetune",),
    ("rlgym.ssl.pretraining",),
    ("rlgym.ssl.inference",),
    ("rlgym.ssl.objectives", "rlgym.ssl.learner"),
    ("rlgym.ssl.models", "rlgym.ssl.data"),
    ("rlgym.ssl.config",),
    ("rlgym.agents.export", "rlgym.agents.sb3"),
    ("rlgym.agents",),
    ("rlgym.agents.selfplay", "rlgym.agents.q_learning"),
    ("rlgym.agents.on_policy", "rlgym.agents.off_policy"),
    ("rlgym.agents.common",),
    ("rlgym.agents.configs",),
    ("rlgym.envs", "rlgym.games"),
    ("rlgym.training",),
    ("rlgym.optim",),
    ("rlgym.run_folder",),
    ("rlgym.config",),
    ("rlgym.common",),
    ("rlgym.learner", "rlgym.errors", "rlgym.conf"),
)
"""From the top down. Parts of one line stand side by side and import none of each other, but for ALLOWED."""
ALLOWED = {
    ("rlgym.envs", "rlgym.games"),  # a game is an environment, and an environment's opponent plays by a game's rules:
    ("rlgym.games", "rlgym.envs"),  # file by file there is no circle
    ("rlgym.cli", "rlgym"),  # its version
}


def modules() -> dict[str, Path]:
    """Every module of the program by the name that it is imported by."""
    found = {}
    for path in tracked():
        if path.suffix == ".py" and path.parts[0] in ("rlgym", "agents", "ssl", "conf"):
            if (ROOT / path).is_symlink():
                continue
            name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
            found[name if name.startswith("rlgym") else f"rlgym.{name}"] = path
    return found


MODULES = modules()


def imported(name: str) -> Iterator[str]:
    """The modules of the program that `name` imports anywhere: at its top, in a function, or for types alone."""
    for node in ast.walk(ast.parse((ROOT / MODULES[name]).read_text())):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            wanted = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            base, wanted = "", [alias.name for alias in node.names]
        else:
            continue
        for full in wanted:
            target = full if full in MODULES else base
            if target in MODULES and target != name:
                yield target


IMPORTS = {name: set(imported(name)) for name in MODULES}


def part(module: str) -> str:
    """The part of the program that a module belongs to: the longest name of LAYERS that it is, or lies in."""
    named = [name for layer in LAYERS for name in layer]
    fits = [name for name in named if module == name or (module.startswith(f"{name}.") and name != "rlgym")]
    assert fits, f"{module} belongs to no layer"
    return max(fits, key=len)


def test_no_circles() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_go_down() -> None:
    height = {name: -number for number, layer in enumerate(LAYERS) for name in layer}
    upward = []
    for module, targets in IMPORTS.items():
        here = part(module)
        for target in targets:
            there = part(target)
            if here != there and height[there] >= height[here] and (here, there) not in ALLOWED:
                upward.append(f"{module} imports {target}")
    assert upward == []


def test_the_check_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"rlgym.agents.ppo", "rlgym.ssl.data.corpus", "rlgym.config.schema"} <= MODULES.keys() and len(MODULES) > 250
    assert "rlgym.agents.on_policy.base" in IMPORTS["rlgym.agents.ppo"]
    assert part("rlgym.agents.ppo") == "rlgym.agents" and part("rlgym.agents.sb3.env") == "rlgym.agents.sb3"
    monkeypatch.setitem(IMPORTS, "rlgym.errors", {"rlgym.agents.ppo"})
    with pytest.raises(pytest.fail.Exception, match=r"rlgym\.errors"):
        test_no_circles()
    with pytest.raises(AssertionError, match=r"rlgym\.errors imports rlgym\.agents\.ppo"):
        test_imports_go_down()
