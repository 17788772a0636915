"""Does a built wheel hold exactly the tracked files of the code folders? `python tests/packaging/wheel.py WHEEL`"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"rlgym": "rlgym", "agents": "rlgym/agents", "ssl": "rlgym/ssl", "conf": "rlgym/conf"}
"""Code folder of the repository -> where an installation has it."""


def tracked() -> list[Path]:
    """Files that git tracks or would with the next `git add`, relative to the root; links included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    paths = {Path(name) for name in names if name}
    return sorted(path for path in paths if (ROOT / path).is_symlink() or (ROOT / path).is_file())


def expected() -> dict[str, bytes]:
    """Every tracked file of a code folder, under its name in the wheel; the links rlgym/{agents,ssl,conf} left out."""
    files = {}
    for path in tracked():
        if path.parts[0] in FOLDERS and len(path.parts) > 1 and not (ROOT / path).is_symlink():
            files["/".join([FOLDERS[path.parts[0]], *path.parts[1:]])] = (ROOT / path).read_bytes()
    return files


def contents(wheel: Path) -> dict[str, bytes]:
    """What the wheel installs, without its own metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def differences(wheel: Path) -> list[str]:
    """One line for each file that is missing, superfluous or not the tracked one."""
    want, have = expected(), contents(wheel)
    lines = [f"missing from the wheel: {name}" for name in sorted(want.keys() - have.keys())]
    lines += [f"in the wheel, not tracked: {name}" for name in sorted(have.keys() - want.keys())]
    lines += [f"differs: {name}" for name in sorted(want.keys() & have.keys()) if want[name] != have[name]]
    return lines


if __name__ == "__main__":
    found = differences(Path(sys.argv[1]))
    print("\n".join(found) or f"{len(expected())} files, all as tracked")
    sys.exit(1 if found else 0)
