"""The user's config folder as a Hydra source before the package's own; a file that it would ignore is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from rlgym.config.groups import GROUPS
from rlgym.errors import RequestError

WHOLE = ("tuned", "experiment")
"""Groups whose files hold keys of the whole config: Hydra's package `_global_`, even if the file does not declare
it."""
PACKAGE = re.compile(r"^\s*#\s*@package:?\s+(\S+)\s*$", re.MULTILINE)


class OwnFolder(FileConfigSource):
    """Hydra's config source for `own://FOLDER`: files, except that a byte order mark is skipped and `# @package` may be
    on any line."""

    @staticmethod
    def scheme() -> str:
        return "own"

    def load_config(self, config_path: str) -> ConfigResult:
        name = self._normalize_file_name(config_path)
        file = Path(self.path) / name
        group = name.partition("/")[0]
        try:
            text = file.read_text(encoding="utf-8-sig")
            loaded = OmegaConf.load(StringIO(text))
        except UnicodeDecodeError as error:
            raise RequestError(f"{file}: not text in UTF-8") from error
        except (YAMLError, OSError, ValueError, RecursionError) as error:
            raise RequestError(f"{file}: not plain YAML ({' '.join(str(error).split())})") from error
        if not isinstance(loaded, DictConfig):
            raise RequestError(f"{file}: must hold keys and values, as KEY: VALUE")
        found = PACKAGE.search(text)
        package = found.group(1) if found else None
        if group in WHOLE and package not in (None, "_global_"):
            raise RequestError(f"{file}: @package {package}: files of {group}/ hold whole keys, so it must be _global_")
        header = {"package": "_global_" if group in WHOLE else package}
        return ConfigResult(config=loaded, path=self.full_path(), provider=self.provider, header=header)


SourcesRegistry.instance().register(OwnFolder)


def refuse_misplaced(folder: Path, root: str, agent: str, env: str) -> None:
    """RequestError where `folder` has a file that would be ignored, since groups with automatic choices (env, tuned)
    would continue without it."""
    if (folder / f"{root}.yaml").is_file():
        raise RequestError(
            f"{folder / root}.yaml: conf/{root}.yaml cannot be replaced; as experiment/NAME.yaml it is experiment=NAME"
        )
    groups = {group.lower(): group for group in GROUPS[root]}
    for part in folder.iterdir():
        if part.name not in groups.values() and part.name.lower() in groups and part.is_dir():
            raise RequestError(f"{part}: is not read; a group's folder is named {groups[part.name.lower()]}")
    if root != "train":
        return
    for group, names in {"env": [env], "tuned": [f"{agent}/{env}", env]}.items():
        wanted = folder / group / f"{names[0]}.yaml"
        if wanted.is_file() or not (folder / group).is_dir():
            continue
        for file in sorted((folder / group).rglob("*")):
            if _letters(str(file.relative_to(folder / group))) in map(_letters, names) and file.is_file():
                raise RequestError(f"{file}: is not read for env={env}; rename it to {wanted.relative_to(folder)}")


def own_files(folder: str | None, chosen: Mapping[str, str]) -> list[str]:
    """The files of the user's folder used by these choices (group -> name)."""
    if folder is None:
        return []
    files = (Path(folder) / group / f"{name}.yaml" for group, name in chosen.items())
    return [str(file) for file in files if file.is_file()]


def _letters(name: str) -> str:
    """A file's name without extension, case and separators."""
    return re.sub(r"\.(ya?ml|json|txt)(?=\.|$)|[\W_]", "", name.lower())
