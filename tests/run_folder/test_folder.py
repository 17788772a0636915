"""Run folders: unique, complete, found again; a refused one leaves nothing behind."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from rlgym.agents.configs.on_policy import PPOConfig
from rlgym.config.schema import EnvConfig, RunConfig, TrainConfig
from rlgym.errors import RequestError
from rlgym.run_folder import folder, manifest
from rlgym.run_folder.config_file import load_config
from rlgym.run_folder.folder import Run, create_run, find_run, list_runs


def config(env: str = "CartPole-v1", seed: int = 1, **run_keys: str) -> TrainConfig:
    return TrainConfig(seed=seed, env=EnvConfig(id=env), run=RunConfig(**run_keys), agent=PPOConfig())


def make(root: Path, env: str = "CartPole-v1", seed: int = 1, **run_keys: str) -> Run:
    return create_run(config(env, seed, **run_keys), ["rlgym", "agent=ppo"], root)


# ---- making


def test_a_new_run_holds_its_config_and_manifest(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there" / "yet"
    made = create_run(config(seed=3), ["rlgym", "seed=3"], root, device="cpu", threads=2)
    assert made.dir.parent == root and made.exit_code == 0
    stamp, rest = made.name[:19], made.name[19:]
    assert rest == "_ppo_CartPole-v1_s3"
    assert abs((datetime.now() - datetime.strptime(stamp, "%Y-%m-%d_%H-%M-%S")).total_seconds()) < 60
    assert load_config(made.config_path) == config(seed=3)
    recorded = made.manifest
    assert recorded["command"] == ["rlgym", "seed=3"] and recorded["status"] == "running"
    assert (recorded["agent"], recorded["env"], recorded["seed"]) == ("ppo", "CartPole-v1", 3)
    assert (recorded["device"], recorded["threads"], recorded["pid"]) == ("cpu", 2, os.getpid())
    assert recorded["python"] == platform.python_version() and recorded["cpu_count"] == os.cpu_count()
    for package in ("torch", "numpy", "gymnasium"):
        assert recorded["packages"][package] == __import__(package).__version__
    assert made.summary == {}


@pytest.mark.parametrize(
    ("env", "safe"),
    [
        ("ALE/Pong-v5", "ALE-Pong-v5"),
        ("my.module:Env-v0", "my.module-Env-v0"),
        ("../../x", "..-..-x"),
        ("a b\n$", "a-b-"),
    ],
)
def test_ids_are_made_path_safe(tmp_path: Path, env: str, safe: str) -> None:
    made = make(tmp_path, env)
    assert made.dir.parent == tmp_path and made.name.endswith(f"_ppo_{safe}_s1")
    assert made.manifest["env"] == env


def test_run_name_replaces_the_label(tmp_path: Path) -> None:
    assert make(tmp_path, name="first/try").name[20:] == "first-try"
    assert len(make(tmp_path, name="x" * 1000).name) < 255
    assert make(tmp_path, name="...").name.endswith("_run")


def test_fault_15_runs_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    """Eight threads at once, several times: every run its own folder and its own manifest."""
    barrier, made = Barrier(8), []

    def begin(seed: int) -> None:
        barrier.wait()
        made.append((seed, make(tmp_path, seed=seed % 2)))

    threads = [Thread(target=begin, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({item.dir for _, item in made}) == 8 == len(list(tmp_path.iterdir()))
    assert all(item.manifest["seed"] == seed % 2 for seed, item in made)


def test_suffixes_count_up_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Noon(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Noon:
            return cls(2026, 11, 20, 12, 0, 0)

    monkeypatch.setattr(folder, "datetime", Noon)
    name = "2026-11-20_12-00-00_ppo_CartPole-v1_s1"
    assert [make(tmp_path).name for _ in range(3)] == [name, f"{name}_2", f"{name}_3"]


def test_run_dir_is_taken_as_given_and_never_shared(tmp_path: Path) -> None:
    chosen = tmp_path / "deep" / "my run"
    assert make(tmp_path / "runs", dir=str(chosen)).dir == chosen
    assert not (tmp_path / "runs").exists()
    before = {path: path.read_bytes() for path in chosen.iterdir()}
    with pytest.raises(RequestError, match=r"run\.dir=.*my run already holds a run"):
        make(tmp_path, dir=str(chosen))
    assert {path: path.read_bytes() for path in chosen.iterdir()} == before


def test_run_dir_may_hold_other_files(tmp_path: Path) -> None:
    (tmp_path / "slurm.out").write_text("x")
    assert make(tmp_path, dir=str(tmp_path)).dir == tmp_path
    assert (tmp_path / "slurm.out").read_text() == "x"


def test_two_programs_cannot_claim_one_run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have looked and found nothing there; still only one gets it."""
    monkeypatch.setattr(folder, "MARKS", ())
    make(tmp_path, dir=str(tmp_path / "one"))
    with pytest.raises(RequestError, match="already holds a run"):
        make(tmp_path, dir=str(tmp_path / "one"))


def test_fault_6_an_unwritable_place_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    for root, run_dir, named in (
        (file, "", str(file)),
        (file / "runs", "", str(file / "runs")),
        (tmp_path, str(file / "x"), "run.dir="),
        (tmp_path, str(file), "run.dir="),
    ):
        with pytest.raises(RequestError) as caught:
            make(root, dir=run_dir)
        line = str(caught.value)
        assert named in line and "cannot be written" in line and "\n" not in line
    assert list(tmp_path.iterdir()) == [file] and file.read_text() == "not a folder"


def test_a_config_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "mine.txt").write_text("x")
    monkeypatch.setattr(folder, "write_atomic", full)
    with pytest.raises(RequestError, match="No space left on device"):
        make(tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []
    with pytest.raises(RequestError):
        make(tmp_path, dir=str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "runs"}


# ---- its files


def test_manifest_and_summary_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path)
    made.update_manifest(status="stopped", resume={"environment": "exact"})
    assert made.manifest["status"] == "stopped" and made.manifest["seed"] == 1
    made.write_summary({"steps": 2**70, "final": {"a": float("nan"), "b": 0.1}, "best": None})
    assert made.summary == {"steps": 2**70, "final": {"a": None, "b": 0.1}, "best": None}
    before = {path: path.read_bytes() for path in made.dir.iterdir()}

    def crash(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError):
        made.update_manifest(status="finished")
    with pytest.raises(OSError):
        made.write_summary({})
    assert {path: path.read_bytes() for path in made.dir.iterdir()} == before


def test_scalars_of_other_libraries_become_json(tmp_path: Path) -> None:
    import numpy as np
    import torch

    made = Run(tmp_path)
    made.write_summary({"a": np.float32(0.5), "b": torch.tensor(2), "c": np.arange(2), "d": Path("x"), "e": np.True_})
    assert made.summary == {"a": 0.5, "b": 2, "c": [0, 1], "d": "x", "e": True}


def test_tracebacks_go_to_the_log(tmp_path: Path) -> None:
    made = make(tmp_path)
    try:
        raise ValueError("a reason") from KeyError("its cause")
    except ValueError as error:
        made.log_line("update 3")
        made.log_traceback(error)
    text = (made.dir / "log.txt").read_text()
    assert "update 3" in text and "ValueError: a reason" in text and "KeyError: 'its cause'" in text
    assert "test_tracebacks_go_to_the_log" in text
    Run(tmp_path / "nowhere").log_line("must not raise")


# ---- the manifest


def test_git_names_the_commit_and_whether_files_differ(tmp_path: Path) -> None:
    assert manifest.git(tmp_path) is None

    def git(*words: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *author, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init")
    (tmp_path / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "x")
    sha = git("rev-parse", "HEAD")
    assert manifest.git(tmp_path) == {"sha": sha, "dirty": False}
    (tmp_path / "a.py").write_text("2")
    assert manifest.git(tmp_path) == {"sha": sha, "dirty": True}
    git("checkout", "a.py")
    (tmp_path / "new.py").write_text("code that no commit has")
    assert manifest.git(tmp_path) == {"sha": sha, "dirty": True}
    (tmp_path / "package").mkdir()
    assert manifest.git(tmp_path / "package") is None, "another project's repository around an installed package"


def test_a_process_is_known_by_its_id_and_its_start() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = manifest.process()
    assert manifest.alive(child.pid) and manifest.alive(mine["pid"], mine["pid_start"])
    assert not manifest.alive(mine["pid"], mine["pid_start"] - 1000), "the same id, another process"
    assert child.stdin
    child.stdin.close()
    child.wait()
    assert not manifest.alive(child.pid) and not manifest.alive(-5)


# ---- finding


def test_find_run_by_folder_name_part_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="no run"):
        find_run("last", tmp_path)
    first, second = make(tmp_path, "CartPole-v1"), make(tmp_path, "Acrobot-v1")
    for word in (str(second.dir), f"{second.dir}/", second.name, second.name[:-2], "acrobot", "Acrobot-v1_s1", "last"):
        assert find_run(word, tmp_path).dir.samefile(second.dir), word
    assert find_run("cartpole", tmp_path).dir == first.dir
    monkeypatch.chdir(second.dir)
    assert find_run(".", tmp_path).name == second.name
    for word, answer in (
        ("v1", "fits 2 runs"),
        (first.name[:10], "fits 2 runs"),
        ("Cartpoel-v1", f"did you mean {first.name}"),
        ("lsat", "did you mean last"),
        ("nothing-like-it", "rlgym runs"),
        (str(tmp_path), "not a run folder"),
        ("", "fits 2 runs"),
    ):
        with pytest.raises(RequestError) as caught:
            find_run(word, tmp_path)
        assert answer in str(caught.value) and "\n" not in str(caught.value)


def test_last_is_the_last_that_began_not_the_last_by_name(tmp_path: Path) -> None:
    made = [make(tmp_path, name=name) for name in ("b", "c", "a")]
    for count, (item, name) in enumerate(zip(made, ("b", "c", "a"), strict=True)):
        item.update_manifest(start=f"2026-11-20T12:00:0{count}+00:00")
        item.dir.rename(tmp_path / name)
    assert find_run("last", tmp_path).name == "a"


def test_list_runs_tells_each_runs_state(tmp_path: Path) -> None:
    finished, running, killed, resumed = (make(tmp_path, seed=seed) for seed in (1, 2, 3, 4))
    finished.update_manifest(status="finished")
    metrics = {"rollout/ep_rew_mean": 7.0, "eval/mean_reward": 480.0, "train/loss": 0.1}
    finished.write_summary(
        {"steps": 1000, "wall_time_s": 2.5, "final": metrics, "best": {"step": 9, "eval/mean_reward": 500}}
    )
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    rows = [
        {"step": 10, "time": 1.0, "rollout/ep_rew_mean": 30.0},
        {"step": 20, "time": 2.0, "rollout/ep_rew_mean": 20.0},
    ]
    for item in (killed, resumed):
        (item.dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 30, "ti')
        item.update_manifest(pid=child.pid)
    resumed.write_summary({"steps": 5, "final": {}, "best": {}})  # of before its resume
    listed = {row["seed"]: row for row in list_runs(tmp_path)}
    assert [row["status"] for row in listed.values()] == ["finished", "running", "killed", "killed"]
    first = listed[1]
    assert (first["agent"], first["env"], first["name"]) == ("ppo", "CartPole-v1", finished.name)
    assert (first["steps"], first["best"], first["final"], first["wall_time_s"]) == (1000, 500, 480.0, 2.5)
    assert (first["metric"], first["lower"]) == ("eval/mean_reward", False)
    assert 0 <= first["age_s"] < 60
    assert listed[2]["steps"] is None
    for seed in (3, 4):
        row = listed[seed]
        assert (row["steps"], row["best"], row["final"], row["wall_time_s"]) == (20, 30.0, 20.0, 2.0)


@pytest.mark.parametrize(
    ("monitor", "final", "best", "row"),
    [
        (
            ["validation/accuracy", "max"],
            {"validation/loss": 0.3, "validation/accuracy": 0.9},
            0.95,
            (False, 0.95, 0.9),
        ),
        (["eval/nash_conv", "min"], {"rollout/ep_rew_mean": 1.0, "eval/nash_conv": 0.2}, 0.1, (True, 0.1, 0.2)),
        (["eval/diverse_reward", "max"], {"train/loss": 2.0, "rollout/reward_mean": 0.4}, 0.5, (False, 0.5, None)),
    ],
)
def test_the_metric_of_a_run_is_what_its_learner_is_monitored_by(
    monitor: list[str], final: dict[str, float], best: float, row: tuple[bool, float, float | None], tmp_path: Path
) -> None:
    """A collapsed policy has no diverse reward at the end, and its loss is none."""
    run = make(tmp_path)
    run.write_summary({"steps": 1, "final": final, "best": {monitor[0]: best, "step": 1}})
    run.update_manifest(status="finished", monitor=monitor)
    (found,) = list_runs(tmp_path)
    assert (found["metric"], (found["lower"], found["best"], found["final"])) == (monitor[0], row)
    (run.dir / "summary.json").unlink()
    rows = [{"step": 1, "time": 0.1, **final}, {"step": 2, "time": 0.2, monitor[0]: best}]
    (run.dir / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (found,) = list_runs(tmp_path)
    assert (found["metric"], found["best"], found["final"]) == (monitor[0], best, best)
    run.update_manifest(monitor=None)
    run.write_summary({"steps": 1, "final": final, "best": {monitor[0]: best, "step": 1}})
    (found,) = list_runs(tmp_path)
    assert (found["metric"], found["lower"]) == (monitor[0], row[0]), "an older run: its summary's best"


def test_list_runs_survives_broken_folders(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    good = make(tmp_path)
    for count, content in enumerate(
        (b"", b"[]", b"{", b"\xff\xfe", b'{"start": 5}', b'{"status": "running", "pid": "x"}')
    ):
        folder = tmp_path / f"broken{count}"
        folder.mkdir()
        (folder / "manifest.json").write_bytes(content)
        (folder / "summary.json").write_bytes(content)
        (folder / "metrics.jsonl").write_bytes(b'\xff\n[1]\n{"step": "x"}\n{"step": 1}\n{"st')
    (tmp_path / "file").write_text("")
    (tmp_path / "no run").mkdir()
    rows = list_runs(tmp_path)
    assert len(rows) == 7
    assert {row["status"] for row in rows if row["name"] != good.name} <= {"broken", "killed", "running"}
    assert find_run("last", tmp_path)


def test_listing_imports_neither_torch_nor_tensorboard(tmp_path: Path) -> None:
    make(tmp_path)
    code = f"""
import sys
from pathlib import Path
from rlgym.run_folder.folder import list_runs
assert len(list_runs(Path({str(tmp_path)!r}))) == 1
import rlgym.run_folder.checkpoint, rlgym.training.curves, rlgym.training.progress
print([m for m in sys.modules if m in ("torch", "tensorboard", "numpy", "rich", "matplotlib", "safetensors")])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
