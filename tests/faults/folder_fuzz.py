"""Mutated run folders: whatever a folder holds, every command on it ends with an exit code of its own and one line.

    python -m tests.faults.folder_fuzz 400 --seed 0

Tiny runs of several kinds are made once. A mutation changes one file of a copy (a field, a tensor, the whole file), its
checksum made right again, and the kind's commands are run on it in this process. None may end in a traceback, import
the module that the mutations name, or, where it refuses the folder, change a file of it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from rlgym.cli.main import main
from tests.ssl import tiny
from tests.ssl.finetune.starts import write_table

EVIL = "folder_fuzz_evil"
"""A module that the mutations name; it must never be imported without trust=true."""
ODD: list[Any] = [
    None, True, "", "x", f"{EVIL}:Thing", "../../elsewhere", "${oc.env:HOME}", "💥", -1, 0, 2**31, 10**40, 10**400, 0.5,
    1e14, 1e308, float("inf"), float("nan"), [], {}, [1], {"x": 1}, {"_target_": f"{EVIL}.Thing"}, [[["x"]]],
]  # fmt: skip
RL = ["compile=off", "device=cpu", "threads=1", "display=quiet", "log.histograms=false", "tuned=off", "log.every=32"]
RL += ["env.num_envs=2", "evaluate.every=64", "evaluate.episodes=1", "checkpoint.every=64", "steps=128"]
PPO = ["agent=ppo", "agent.n_steps=16", "agent.batch_size=16", "agent.n_epochs=1", "agent.net_arch=[8]", *RL]
DQN = ["agent=dqn", "agent.buffer_size=200", "agent.learning_starts=32", "agent.save_replay=true", *RL]
KINDS: dict[str, list[str]] = {
    "ppo": [*PPO, "env=CartPole-v1"],
    "sync": [*PPO, "env=CartPole-v1", "env.backend=sync"],
    "dqn": [*DQN, "env=CartPole-v1", "agent.net_arch=[8]"],
    "self_play": [*PPO, "env=tic_tac_toe", "env.self_play.pool.every=32"],
    "sb3": ["agent=sb3/ppo", "agent.n_steps=16", "agent.batch_size=16", "agent.n_epochs=1", "env=CartPole-v1", *RL],
    "pretrain": ["pretrain", "objective=next_token", "model=gpt_nano", "tokens=512", "evaluate.tokens=64"],
    "classification": ["finetune", "tokens=512"],
    "grpo": ["finetune", "method=grpo", "reward=length", "tokens=64", "method.max_new_tokens=4", "batch_size=4"],
    "sweep": ["sweep", *PPO, "env=CartPole-v1", "agent.gamma=choice(0.9,0.99)", "trials=2", "seeds=1"],
}
REWARDED = ["method.group_size=2", "reward.target=4", "checkpoint.every=32", "evaluate.every=32"]
FINISHED = ["runs {root}", "compare {run} out={root}/compared", "export {run} path={root}/exported"]
COMMANDS: dict[str, list[str]] = {
    "ppo": ["evaluate {run} episodes=1", *FINISHED, "rerun {run} --cfg job", "resume {run} steps=192 display=quiet"],
    "self_play": [
        "evaluate {run} episodes=2 opponents={run}",
        "play {sound} against={run} seat=second",
        *FINISHED,
        "resume {run} steps=192 display=quiet",
    ],
    "pretrain": [
        "evaluate {run} tokens=64",
        "generate {run} tokens=4",
        *FINISHED,
        "finetune init_from={run} data=csv data.path={table} tokens=64 method.baselines=false display=quiet threads=1 "
        "run.dir={root}/tuned",
        "resume {run} tokens=768 display=quiet",
    ],
    "classification": ["predict {run} text=sun", "evaluate {run}", *FINISHED, "resume {run} tokens=768 display=quiet"],
    "grpo": ["generate {run} tokens=4", "evaluate {run}", *FINISHED, "resume {run} tokens=96 display=quiet"],
    "sweep": ["sweep {run} trials=3", "runs {run}", "compare {run} out={root}/compared"],
}
SECONDS = 240
"""In which a command must have ended."""


class Folders:
    """Sound runs of each kind under `root`, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table = write_table(root / "weather.csv", 40)
        self.text = tiny.write_text(root / "text", 12)

    def __getitem__(self, kind: str) -> Path:
        run = self.root / kind
        if not run.exists():
            words = [*KINDS[kind], f"run.dir='{run}'"]
            if kind == "pretrain":
                words += tiny.words(self.text, "log.every=128", "evaluate.every=256", "checkpoint.every=256")
            elif kind in ("classification", "grpo"):
                start = [f"init_from='{self['pretrain']}'", "threads=1", "display=quiet", "log.histograms=false"]
                table = ["data=csv", f"data.path='{self.table}'"]
                words += start + table + (REWARDED if kind == "grpo" else ["method.baselines=false", "batch_size=8"])
            code, _, err, fault = run_command(words)
            assert code == 0, f"{kind}: {fault or err}"
        return run


# ---- mutations


def mutate(run: Path, draw: random.Random) -> str:
    """Change one file of the folder; says in words what was done."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and "events.out" not in path.name)
    texts = [path for path in files if path.suffix in (".json", ".yaml")]
    path = draw.choice(texts if draw.random() < 0.7 else files)
    name = str(path.relative_to(run))
    step = path.parent if path.parent.name.startswith("step_") else None
    if draw.random() < 0.2:
        return f"{name}: {_replace(path, draw)}"
    if path.suffix in (".json", ".yaml"):
        done = _change_field(path, draw)
    elif path.suffix == ".safetensors":
        done = _change_tensor(path, draw)
    else:
        done = _change_bytes(path, draw)
    if step is not None and path.name != "manifest.json" and draw.random() < 0.9:
        _checksum(step, path)
        done += ", checksum made right"
    return f"{name}: {done}"


def _replace(path: Path, draw: random.Random) -> str:
    how = draw.choice(["delete", "folder", "empty", "/dev/zero", "fifo", "loop", "truncate", "noise"])
    content = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "/dev/zero":
        path.symlink_to(how)
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "loop":
        path.symlink_to(path.name)
    elif how != "delete":
        path.write_bytes({"empty": b"", "truncate": content[: len(content) // 2], "noise": draw.randbytes(200)}[how])
    return how


def _change_field(path: Path, draw: random.Random) -> str:
    text = path.read_text()
    data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    places = list(_places(data, ()))
    place = draw.choice(places)
    node = data
    for key in place[:-1]:
        node = node[key]
    how = draw.choice(["odd", "odd", "odd", "odd", "delete", "add"])
    value = draw.choice(ODD)
    if how == "delete":
        del node[place[-1]]
    elif how == "add" and isinstance(node, dict):
        node["zeal"] = value
    else:
        node[place[-1]] = value
    path.write_text(json.dumps(data) if path.suffix == ".json" else yaml.safe_dump(data))
    return f"{how} {'.'.join(map(str, place))} {value!r:.40}"


def _places(data: Any, above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data[:5]) if isinstance(data, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from _places(value, (*above, key))


def _change_tensor(path: Path, draw: random.Random) -> str:
    tensors = load_file(path)
    name = draw.choice(sorted(tensors))
    how = draw.choice(["shape", "scalar", "empty", "dtype", "huge", "negative", "nan", "delete", "rename"])
    tensor = tensors.pop(name)
    changed = {
        "shape": lambda: torch.cat([tensor.reshape(-1), tensor.reshape(-1)[:1]]),
        "scalar": lambda: tensor.reshape(-1)[:1].reshape(()).clone() if tensor.numel() else tensor,
        "empty": lambda: tensor.new_zeros(0),
        "dtype": lambda: tensor.to(torch.int32 if tensor.is_floating_point() else torch.float32),
        "huge": lambda: torch.full_like(tensor, 10**9 if tensor.dtype in (torch.int64, torch.int32) else 100),
        "negative": lambda: torch.full_like(tensor, -5) if tensor.dtype != torch.uint8 else tensor,
        "nan": lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor,
    }
    if how in changed:
        tensors[name] = changed[how]()
    elif how == "rename":
        tensors[f"{name}_"] = tensor
    save_file(tensors, path)
    return f"{how} {name}"


def _change_bytes(path: Path, draw: random.Random) -> str:
    content = bytearray(path.read_bytes() or b"\n")
    at = draw.randrange(len(content))
    content[at : at + draw.choice([1, 1, 20])] = draw.choice([b"", b"\xff", b"null", b"step_999", f"{EVIL}:T".encode()])
    path.write_bytes(content)
    return f"bytes at {at}"


def _checksum(step: Path, path: Path) -> None:
    file = step / "manifest.json"
    manifest = json.loads(file.read_text())
    if path.name in manifest["files"]:
        content = path.read_bytes()
        manifest["files"][path.name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        file.write_text(json.dumps(manifest))


# ---- commands


def run_command(words: Sequence[str]) -> tuple[int, str, str, str]:
    """(exit code, stdout, stderr, the traceback of what escaped) of a command in this process."""
    out, err, fault, code = io.StringIO(), io.StringIO(), "", -1

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(words))
    except BaseException:
        fault = traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return code, out.getvalue(), err.getvalue(), fault


def contents(folder: Path) -> dict[str, str]:
    """What every plain file holds, by its path: log.txt and what stood half written aside."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "log.txt" and not any(p.startswith(".") for p in path.parts[-3:])
        if path.stat().st_size < 1 << 26 and not path.is_symlink()
    }


def faults_of(words: Sequence[str], run: Path) -> str:
    """What is wrong with how a command on a mutated folder ended; empty: nothing."""
    held = contents(run)
    code, _, err, fault = run_command(words)
    last = err.strip().splitlines()[-1] if err.strip() else ""
    if fault or "Traceback" in err:
        return fault or err
    if code not in (0, 2, 3):
        return f"exit code {code}: {err}"
    if code and not last.startswith("rlgym: "):
        return f"exit code {code} without a line of its own: {err}"
    if EVIL in sys.modules:
        del sys.modules[EVIL]
        return "imported the module that only the folder names"
    if code == 2:
        now = contents(run)
        if lost := [name for name in held if held[name] != now.get(name)]:
            return f"refused the folder ({last}) and changed {lost}"
    return ""


def fuzz(
    folders: Folders, count: int, seed: int, kinds: Sequence[str], each: int, only: Sequence[str] = ()
) -> list[str]:
    """The faults of `count` mutations, each with about `each` of its kind's commands, or of those that begin with one
    of `only`."""
    found = []
    (folders.root / f"{EVIL}.py").write_text("Thing = object\n")
    sys.path.append(str(folders.root))
    began = time.monotonic()
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        kind = draw.choice(list(kinds))
        sound = folders[kind]
        root = folders.root / "work"
        shutil.rmtree(root, ignore_errors=True)
        run = root / "run"
        shutil.copytree(sound, run)
        done = mutate(run, draw)
        lines = [line for line in COMMANDS.get(kind, COMMANDS["ppo"]) if not only or line.split()[0] in only]
        chosen = [line for line in lines if each >= len(lines) or draw.random() < each / len(lines)] or lines[:1]
        for line in chosen:
            words = line.format(run=run, root=root, sound=sound, table=folders.table).split()
            fault = faults_of(words, run)
            if fault:
                found.append(f"mutation {number} of seed {seed}: {kind}, {done}\n  {line}\n{fault}")
                print(found[-1], flush=True)
        if number % 20 == 19:
            print(f"{number + 1} mutations, {len(found)} faults, {time.monotonic() - began:,.0f} s", flush=True)
    sys.path.remove(str(folders.root))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="commands on mutated run folders")
    parser.add_argument("count", type=int, nargs="?", default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--each", type=int, default=100, help="commands of a mutation, at most about")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place, tiny.cache(Path(place) / "cache"):
        os.chdir(place)
        faults = fuzz(Folders(Path(place)), given.count, given.seed, given.kinds, given.each)
    print(f"{given.count} mutations of seed {given.seed}: {len(faults)} faults")
    sys.exit(bool(faults))
