"""Files that several checkpoints share: written once, gone with the last that names them, never named and missing."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from rlgym.errors import CheckpointError
from rlgym.learner import Shared
from rlgym.run_folder import checkpoint, tensor_file
from tests.training.dying import die_at, fail


class Journal:
    """A learner's section: pages that are full, shared, and the words after them. Page n holds n's and its writer's."""

    def __init__(self, run: Path, writer: int = 0) -> None:
        self.run, self.writer, self.pages = run, writer, dict[int, Shared]()
        self.made: list[int] = []

    def page(self, number: int) -> Shared:
        def make() -> dict[str, torch.Tensor]:
            self.made.append(number)
            return {"x": torch.full((50,), float(number)), "writer": torch.tensor([self.writer])}

        return self.pages.setdefault(number, Shared(make))

    def save(self, step: int, pages: Collection[int]) -> Path:
        section: dict[str, Any] = {"last": torch.ones(2) * step, **{f"page_{n}": self.page(n) for n in pages}}
        state: dict[str, Any] = {"model": {"w": torch.ones(3) * step}, "replay": section}
        return checkpoint.save(self.run, step, state, {"pages": list(pages)}, {})


def read(path: Path, writer: int = 0) -> list[int]:
    """The pages of a checkpoint, each read whole and found right."""
    state, loop = checkpoint.load(path)
    assert torch.equal(state["replay"]["last"], torch.ones(2) * int(path.name[5:]))
    for number in loop["pages"]:
        page = state["replay"][f"page_{number}"].make()
        assert torch.equal(page["x"], torch.full((50,), float(number))) and page["writer"] == writer
    return list(loop["pages"])


def shared(run: Path) -> dict[str, tuple[int, int]]:
    found = {path.name: path.stat() for path in (run / "checkpoints" / "shared").iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def silent(line: str) -> None:
    raise AssertionError(line)


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert read(journal.save(1, [0, 1])) == [0, 1]
    before = shared(tmp_path)
    assert read(journal.save(2, [1, 2])) == [1, 2]
    after = shared(tmp_path)
    assert journal.made == [0, 1, 2] and len(after) == 3 and before.items() <= after.items()
    assert read(tmp_path / "checkpoints" / "step_1") == [0, 1]
    # a page that somebody deleted is made again
    lost = journal.page(1).file
    assert lost is not None
    (tmp_path / "checkpoints" / "shared" / lost.name).unlink()
    assert read(journal.save(3, [1])) == [1] and journal.made == [0, 1, 2, 1]


def test_a_page_of_the_same_number_replaces_nothing(tmp_path: Path) -> None:
    """Two histories of one run: what the first wrote stays what its checkpoints name."""
    Journal(tmp_path).save(1, [0, 1])
    Journal(tmp_path, writer=7).save(2, [0, 1])
    assert read(tmp_path / "checkpoints" / "step_1") == [0, 1]
    assert read(tmp_path / "checkpoints" / "step_2", writer=7) == [0, 1]


def test_prune_drops_what_nobody_names(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step, pages in enumerate(([0], [0, 1], [1, 2], [2, 3]), 1):
        journal.save(step, pages)
    checkpoint.mark_best(tmp_path, 1)
    checkpoint.prune(tmp_path, 1)
    assert checkpoint.steps(tmp_path) == [1, 4]
    assert read(tmp_path / "checkpoints" / "step_1") == [0] and read(tmp_path / "checkpoints" / "step_4") == [2, 3]
    assert sorted(name[:13] for name in shared(tmp_path)) == ["replay-page_0", "replay-page_2", "replay-page_3"]
    # one whose page is gone does not count among those kept
    (tmp_path / "checkpoints" / "shared" / next(n for n in shared(tmp_path) if "page_3" in n)).unlink()
    journal.save(5, [2])
    (tmp_path / "checkpoints" / "best").unlink()
    checkpoint.prune(tmp_path, 2)
    assert checkpoint.steps(tmp_path) == [1, 5]


@pytest.mark.parametrize("fault", ["flipped", "truncated", "missing", "a pickle"])
def test_a_damaged_page_is_named(tmp_path: Path, fault: str) -> None:
    Journal(tmp_path).save(1, [0, 1])
    path = tmp_path / "checkpoints" / "step_1"
    page = next((tmp_path / "checkpoints" / "shared").glob("*page_1*"))
    content = page.read_bytes()
    if fault == "flipped":
        page.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif fault == "truncated":
        page.write_bytes(content[:-1])
    elif fault == "missing":
        page.unlink()
    else:  # with a manifest to match: a folder from elsewhere is consistent in itself
        page.write_bytes(b"\x80\x04" + content)
        manifest = json.loads((path / "manifest.json").read_text())
        entry = next(entry for entry in manifest["shared"] if entry["key"] == "page_1")
        entry |= {"bytes": page.stat().st_size, "sha256": tensor_file.sha256_of(page)}
        (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=page.name.replace(".", r"\.")):
        read(path)
    # who needs no past experience reads none, and is served
    assert checkpoint.newest(tmp_path, silent) == path
    state, _ = checkpoint.load(path, without=("replay",))
    assert state.keys() == {"model"}


def test_products_do_not_open_the_replay(tmp_path: Path) -> None:
    path = Journal(tmp_path).save(1, [0, 1])
    checkpoint.mark_best(tmp_path, 1)
    for file in [path / "replay.safetensors", *(tmp_path / "checkpoints" / "shared").iterdir()]:
        file.unlink()
    assert checkpoint.best(tmp_path) == path
    assert checkpoint.newest(tmp_path, silent, ("replay",)) == path
    assert torch.equal(checkpoint.load(path, ("replay",))[0]["model"]["w"], torch.ones(3))
    with pytest.raises(CheckpointError, match=r"replay\.safetensors: missing"):
        checkpoint.newest(tmp_path, silent)


@pytest.mark.parametrize(
    "shared", [5, [5], [{}], [{"section": "replay", "key": "page_0", "name": "../model", "bytes": 1, "sha256": ""}]]
)
def test_a_manifest_that_lists_no_such_thing_is_one_clear_error(tmp_path: Path, shared: Any) -> None:
    path = Journal(tmp_path).save(1, [0])
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"shared": shared}))
    with pytest.raises(CheckpointError, match="step_1"):
        checkpoint.load(path)


def test_a_key_cannot_leave_the_folder(tmp_path: Path) -> None:
    state: dict[str, Any] = {"replay": {"../evil": Shared(lambda: {"x": torch.ones(1)})}}
    with pytest.raises(ValueError, match="section"):
        checkpoint.save(tmp_path, 1, state, {}, {})
    assert checkpoint.steps(tmp_path) == [] and not list(tmp_path.rglob("*evil*"))


# ---- deaths and full disks


def sound(run: Path) -> list[int]:
    """The steps there are; every one of them has all its pages."""
    for step in checkpoint.steps(run):
        read(run / "checkpoints" / f"step_{step}")
    return checkpoint.steps(run)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("step", [2, 1], ids=["new step", "same step"])
def test_killed_at_every_phase_of_a_save_and_prune(tmp_path: Path, step: int) -> None:
    for moment in range(200):
        run = tmp_path / str(moment)
        journal = Journal(run)
        journal.save(1, [0, 1])

        def action(run: Path = run, journal: Journal = journal) -> None:
            journal.save(step, [1, 2])
            checkpoint.prune(run, 1)

        died = die_at(moment, action)
        checkpoint.newest(run, silent)
        assert sound(run) in ([1], [1, 2], [2])
        # whoever goes on from there, and numbers its pages alike, leaves no more than it needs
        Journal(run, writer=0).save(3, [2, 3])
        checkpoint.prune(run, 1)
        assert sound(run) == [3] and len(shared(run)) == 2
        assert not [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
        if not died:
            break
    assert moment > 30 and not died


@pytest.mark.parametrize("name", ["fsync", "rename", "mkdir"])
def test_a_full_disk_while_a_page_is_written_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    outcomes = []
    for call in range(14):
        run = tmp_path / f"{name}{call}"
        journal = Journal(run)
        journal.save(1, [0])
        with monkeypatch.context() as patch:
            fail(patch, os, name, call)
            try:
                journal.save(2, [0, 1, 2])
                outcomes.append("saved")
            except OSError as error:
                assert error.errno == errno.ENOSPC
                outcomes.append("failed")
        assert sound(run) in ([1], [1, 2])
        journal.save(3, [0, 1, 2, 3])  # when there is room again
        assert 3 in sound(run)
        checkpoint.prune(run, 1)
        assert sound(run) == [3] and len(shared(run)) == 4
    assert "failed" in outcomes and outcomes[-1] == "saved"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_system_refuses_to_write_a_page_on(tmp_path: Path) -> None:
    import resource

    journal = Journal(tmp_path)
    journal.save(1, [0])
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        page = Shared(lambda: {"x": torch.zeros(50_000)})
        try:
            checkpoint.save(tmp_path, 2, {"replay": {"page_9": page}}, {}, {})
        except OSError as error:
            os._exit(7 if "replay-page_9" in str(error) and page.file is None else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert sound(tmp_path) == [1] and len(shared(tmp_path)) == 1
