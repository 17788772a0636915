"""What no source file of the program may do: run code that arrives as data, or import what an installation lacks."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions

import pytest
import yaml

from tests.packaging.wheel import FOLDERS, ROOT, tracked

SOURCES = [path for path in tracked() if path.suffix == ".py" and path.parts[0] in {*FOLDERS, "benchmarks"}]
SOURCES = [path for path in SOURCES if not (ROOT / path).is_symlink()]

FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "os.system", "os.popen"),
    *("torch.load", "torch.jit.load", "torch.save", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("hydra.utils.instantiate", "hydra.utils.call", "instantiate"),
}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a chain of attributes; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{base}.{node.attr}" if (base := dotted(node.value)) else ""
    return ""


def imports(tree: ast.AST) -> Iterator[str]:
    """Every absolute module name a source imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield node.module or ""


def violations(source: str) -> list[str]:
    tree = ast.parse(source)
    found = [f"import {name}" for name in imports(tree) if name.split(".")[0] in FORBIDDEN_IMPORTS]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in FORBIDDEN_CALLS:
                found.append(f"{name}(")
            for keyword in node.keywords:
                given = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                if keyword.arg == "_target_" or (keyword.arg in {"allow_pickle", "shell"} and given):
                    found.append(f"{keyword.arg}=")
        elif isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            found += ["_target_:" for key in keys if key == "_target_"]
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from pickle import loads", ["import pickle"]),
        ("def f():\n    import cloudpickle as c", ["import cloudpickle"]),
        ("x = eval('1')", ["eval("]),
        ("torch.load(path, weights_only=True)", ["torch.load("]),
        ("np.load(path, allow_pickle=True)", ["allow_pickle="]),
        ("config = {'_target_': 'os.system'}", ["_target_:"]),
        ("dict(_target_='os.system')", ["_target_="]),
        ("model.eval(); re.compile('x'); torch.compile(f); '_target_' in config; yaml.safe_load(s)", []),
    ],
)
def test_the_guard_itself(source: str, found: list[str]) -> None:
    assert violations(source) == found


def test_sources_run_no_data() -> None:
    found = {str(path): violations((ROOT / path).read_text()) for path in SOURCES}
    assert len(found) > 200 and {path: names for path, names in found.items() if names} == {}


def test_configs_name_no_code() -> None:
    def keys(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield str(key)
                yield from keys(value)
        elif isinstance(node, list):
            for value in node:
                yield from keys(value)

    configs = [path for path in tracked() if path.parts[0] == "conf" and path.suffix in {".yaml", ".yml"}]
    assert configs, "conf/ has YAML files"
    found = {str(path): set(keys(yaml.safe_load((ROOT / path).read_text()))) for path in configs}
    assert [path for path, names in found.items() if "_target_" in names] == []


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> tuple[set[str], dict[str, list[str]]]:
    """Distributions that pyproject.toml asks for, and its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {normal(re.split(r"[\[<>=!~; ]", line)[0]) for line in project["dependencies"]}
    return names, project["optional-dependencies"]


def test_every_import_is_declared() -> None:
    """A module that is here by luck, as some dependency's dependency, may be gone tomorrow."""
    names, extras = declared()
    optional = {normal(re.split(r"[\[<>=!~; ]", line)[0]) for lines in extras.values() for line in lines}
    optional |= {"ale-py", "mujoco"}  # gymnasium[atari], gymnasium[mujoco]
    owners = packages_distributions()
    missing = set()
    for path in SOURCES:
        for module in imports(ast.parse((ROOT / path).read_text())):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top in {"rlgym", "tests", "benchmarks"}:
                continue
            if path.parts[0] == "benchmarks" and (ROOT / path.parent / f"{top}.py").exists():
                continue  # a script beside this one
            found = {normal(owner) for owner in owners.get(top, [top])}
            if not found & (names | optional):
                missing.add(f"{path}: {module}")
    assert missing == set()


def test_constraints_pin_every_requirement() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    # name==version and nothing more: a local version ("+cpu") is no pin for other machines.
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9A-Za-z.]*", line)] == []
    pinned = {line.split("==")[0] for line in lines}
    names, extras = declared()
    assert names <= pinned
    wanted = {normal(re.split(r"[\[<>=!~; ]", line)[0]) for lines in extras.values() for line in lines} - {"rlgym-ssl"}
    assert wanted <= pinned
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])


def test_extras_named_in_sources_exist() -> None:
    """The pip line a person is told to type names an extra there is."""
    _, extras = declared()
    named = {
        extra.strip()
        for path in SOURCES
        for group in re.findall(r"rlgym-ssl\[([a-z0-9, -]+)\]", (ROOT / path).read_text())
        for extra in group.split(",")
    }
    assert named <= extras.keys()
