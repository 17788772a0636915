"""From the arguments of a training command to its typed config: Hydra composes the choices, the dataclasses check them.
Hydra sees plain dicts only (its structured configs silently drop unknown keys); keys, types and bounds are then checked
against the dataclasses, so that a mistake gives one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlgym.common.atomic_io import read_yaml
from rlgym.common.suggest import did_you_mean
from rlgym.config import overrides as grammar
from rlgym.config.built_in import BUILT_IN
from rlgym.config.effect import refuse_without_effect
from rlgym.config.groups import GROUPS, choices, config_folder, roots
from rlgym.config.io import from_plain, vouch
from rlgym.config.options import RerunOptions, read
from rlgym.config.overrides import Words
from rlgym.config.parser import flattened, to_dict
from rlgym.config.registry import OPEN, entries, entry, resolve
from rlgym.config.schema import ROOTS, RootConfig
from rlgym.config.user_folder import OwnFolder, own_files, refuse_misplaced
from rlgym.errors import RequestError

MOST_FILES = 10_000
"""Maximum number of files in an untrusted config folder."""


def compose(overrides: list[str], root: str = "train", config_dir: str | None = None, trust: bool = True) -> Any:
    """Compose the complete typed config: TrainConfig, PretrainConfig, ... Raises RequestError only. `trust`: whether
    the arguments and `config_dir` come from the user or from a folder the user trusts. Without it the composed config
    may neither name code to import nor read anything from this machine.
    """
    given = [word for word in overrides if word.startswith("trust=")]
    vouched = read(RerunOptions, given)["trust"] and trust
    words = grammar.parse([word for word in overrides if word not in given], GROUPS[root])
    _refuse_hydra(words)
    if not trust:
        _check_files(config_dir)
    config_dir = config_folder(config_dir)
    roots(config_dir)  # refuses a missing folder, where Hydra would only warn
    for group, name in words.choices.items():
        _check_choice(root, group, name, config_dir)
    data, chosen = _compose(root, hydra_words(words), config_dir, trust)
    if config_dir is not None:
        agent, env = (words.choices.get(group, chosen.get(group, "")) for group in ("agent", "env"))
        refuse_misplaced(Path(config_dir), root, agent, "" if "tuned" in words.choices else env)
    _check_recipe(words, root, config_dir, trust)
    named = [(group, key) for group, key in ROOTS[root].sections.items() if chosen.get(group) in entries(group)]
    for group, key in (("env", "id"), ("model", "name"), *named):
        if group in chosen and isinstance(data.get(group), dict) and not data[group].get(key):
            data[group][key] = chosen[group]
    try:
        config = from_plain(data, trust)
    except RequestError as error:
        own = own_files(config_dir, chosen)
        if not own or any(key in str(error) for key in words.values):
            raise
        raise RequestError(f"{error} (in {' or '.join(own)})") from error
    if config.refuse:
        resolve(config.refuse)(config)
    _check_given(config, words)
    if vouched:
        vouch(data)
    return config


def expand(overrides: list[str], root: str = "train") -> list[list[str]]:
    """The arguments of each job of a sweep; Hydra's own arguments belong to the sweep, not to its jobs."""
    hydra_own = ("hydra.", "hydra/")
    return grammar.expand([word for word in overrides if not word.lstrip("+").startswith(hydra_own)])


def revise(config: RootConfig, overrides: list[str], trust: bool = True, drawn: bool = False) -> Any:
    """A saved config with some keys changed (`rerun`). The groups' choices cannot change, since another choice would
    bring its own values. `trust`: see `compose`. `drawn`: a search drew the values, so keys without effect are
    allowed."""
    words = grammar.parse(overrides, GROUPS[config.root])
    for group, name in words.choices.items():
        raise RequestError(f"{group}={name}: a rerun keeps its run's choices; start a new run with {group}={name}")
    _refuse_hydra(words)
    data = to_dict(config)
    for key, value in words.values.items():
        *sections, last = key.split(".")
        node: Any = data
        for section in sections:
            node = node.setdefault(section, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise RequestError(f"unknown key {key}")
        node[last] = value
    revised = from_plain(data, trust)
    if not drawn:
        _check_given(revised, words)
    return revised


def _check_given(config: RootConfig, words: Words) -> None:
    """Refuse keys given by the user that have no effect; values of a tuned file or an experiment may have none."""
    config.given = frozenset(key for key, _ in flattened(words.values))
    refuse_without_effect(config, words.values)
    refuse_folder(config.run.dir)


def refuse_folder(text: str) -> None:
    """RequestError where `run.dir` names a folder that must not become a run folder."""
    here, home = Path.cwd(), Path.home()
    if text and Path(os.path.abspath(os.path.expanduser(text))) in (here, *here.parents, home, *home.parents):
        raise RequestError(
            f"run.dir={text}: a run's files would lie among others; a folder of its own would do, as runs/mine"
        )


def hydra_words(words: Words) -> list[str]:
    """Compose with Hydra, after filling its ConfigStore with what the arguments need."""
    _store(words.choices)
    return [*words.hydra, *(f"{group}={_quoted(name)}" for group, name in words.choices.items()), *words.lines]


@contextmanager
def hydra_at_conf(config_dir: str | None) -> Iterator[None]:
    """Initialise Hydra with the user's config folder before `conf/`; a Hydra of the caller's own is restored
    afterwards."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    version.setbase("1.3")
    path = create_config_search_path("pkg://rlgym.conf")
    if config_dir is not None:
        path.prepend("own", f"{OwnFolder.scheme()}://{Path(config_dir).resolve()}", anchor="main")
    # Hydra would take a stored choice of a file's name for its schema and merge them.
    stored = ConfigStore.instance().repo
    replaced = {
        (group, file): stored[group].pop(file)
        for group in BUILT_IN
        for file in list(stored.get(group, ()))
        if config_dir is not None and Path(config_dir, group, file).is_file()
    }
    try:
        Hydra.create_main_hydra2("rlgym", path)
        yield
    finally:
        GlobalHydra.instance().hydra = outer
        for (group, file), node in replaced.items():
            stored[group][file] = node


def _quoted(text: str) -> str:
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def _store(chosen: dict[str, str]) -> None:
    """Fill Hydra's store with what YAML files refer to: the dataclasses' defaults, and choices without a file."""
    _store_built_in()
    for cls in ROOTS.values():
        for group, key in cls.sections.items():
            if group not in OPEN:
                continue
            others = entries(group).keys() - {known.name for known in BUILT_IN[group]}
            if ":" in chosen.get(group, ""):
                others.add(chosen[group])
            for name in others:
                _put(f"{group}/{name}", {key: name})  # its dataclass has the defaults


@cache
def _store_built_in() -> None:
    """Store the dataclasses' defaults as plain nodes: under the choice's name if it has no file, else as NAME_schema
    for files that extend them. Once per process, as it takes a third of composing."""
    for root, cls in ROOTS.items():
        ConfigStore.instance().store(name=f"{root}_schema", node=to_dict(cls()))
        for group in cls.sections:
            for known in BUILT_IN[group]:
                defaults = to_dict(resolve(known.config)())
                if not files("rlgym.conf").joinpath(group, f"{known.name}.yaml").is_file():
                    _put(f"{group}/{known.name}", defaults)
                _put(f"{group}/{known.name}_schema", defaults)


def _put(path: str, node: dict[str, Any]) -> None:
    """Split a choice's name at its slash (agent=sb3/ppo), which is a folder to Hydra."""
    group, _, name = path.rpartition("/")
    ConfigStore.instance().store(group=group, name=name, node=node)


def _refuse_hydra(words: Words) -> None:
    for word in words.hydra:
        raise RequestError(f"{word}: Hydra's own words are for sweeps (-m)")


def _check_choice(root: str, group: str, name: str, config_dir: str | None) -> None:
    if group == "env":
        return  # the resulting id is checked against Gymnasium's registry
    known = choices(root, group, config_dir)
    if name in known:
        return
    if group in OPEN:
        if ":" not in name:
            near = did_you_mean(name, known, f"{group}=") or f": one of {', '.join(known)}, or module:Class"
            raise RequestError(f"{group}={name} not found{near}")
        entry(group, name)
        return
    near = did_you_mean(name, known, f"{group}=") or f": one of {', '.join(known)}"
    raise RequestError(f"{group}={name} not found{near}")


def _check_recipe(words: Words, root: str, config_dir: str | None, trust: bool) -> None:
    """Refuse an experiment with another agent and env, or objective and model, than its values were tuned for."""
    recipe = words.choices.get("experiment")
    groups = ROOTS[root].recipe_groups
    given = {group: words.choices[group] for group in groups if group in words.choices}
    if recipe is None or not given:
        return
    _, own = _compose(root, hydra_words(Words({"experiment": recipe}, {}, [], [])), config_dir, trust)
    for group, name in given.items():
        if name != own[group]:
            recipe_for = " ".join(f"{g}={own[g]}" for g in groups)
            raise RequestError(
                f"{group}={name}: experiment={recipe} is a recipe for {recipe_for}; leave out one of the two"
            )


def _check_files(config_dir: str | None) -> None:
    """RequestError where an untrusted config folder is too large, since Hydra has no limits."""
    count = 0
    for place, folders, names in os.walk(config_dir or ""):
        for path in (Path(place, name) for name in (*folders, *names)):
            count += 1
            try:
                if count > MOST_FILES:
                    raise ValueError(f"more than {MOST_FILES:,} files")
                if path.is_symlink():
                    raise ValueError("a symbolic link")
                if path.suffix == ".yaml":
                    read_yaml(path)
            except (OSError, ValueError) as error:
                said = getattr(error, "strerror", None) or error
                raise RequestError(f"{path}: {said}; add trust=true if you trust {config_dir}") from error


def _refuse_lookups(value: Any, key: str = "") -> None:
    """RequestError where a config reads anything outside of itself, like ${oc.env:HOME}."""
    if isinstance(value, str) and "${" in value and ":" in value:
        raise RequestError(f"{key}={value} looks something up on this machine: add trust=true if you trust it")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in items:
        _refuse_lookups(part, f"{key}.{name}" if key else str(name))


def _compose(root: str, lines: list[str], config_dir: str | None, trust: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """The composed plain data, and each group's choice."""
    try:
        with hydra_at_conf(config_dir):
            composed = hydra.compose(root, lines, return_hydra_config=True)
        chosen = OmegaConf.to_container(composed.hydra.runtime.choices)
        OmegaConf.set_struct(composed, False)
        composed.pop("hydra")
        if not trust:
            _refuse_lookups(OmegaConf.to_container(composed, resolve=False))
        data = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        lines_of_error = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise RequestError("; ".join(lines_of_error[:2]) or type(error).__name__) from error
    except RecursionError as error:
        where = "" if config_dir is None else f"--config-dir {config_dir}: a config includes itself, or "
        raise RequestError(f"{where}values are nested too deeply") from error
    assert isinstance(data, dict) and isinstance(chosen, dict)
    return data, chosen  # type: ignore[return-value]
