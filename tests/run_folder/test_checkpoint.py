"""What a checkpoint gives back: every value bit for bit, and nothing that was not written."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlgym.errors import CheckpointError
from rlgym.run_folder import checkpoint, tensor_file

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32,
    torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip


def save(run: Path, step: int, **sections: dict[str, Any]) -> Path:
    return checkpoint.save(run, step, sections, {"step": step}, {"git": None})


def silent(line: str) -> None:
    raise AssertionError(line)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """NaN payloads and the sign of zero included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bytes(a.contiguous().reshape(-1).view(torch.uint8)) == bytes(b.contiguous().reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_dtype_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    raw = torch.frombuffer(bytearray(os.urandom(96)), dtype=torch.uint8)
    vector = raw % 2 == 0 if dtype == torch.bool else raw.view(dtype)
    tensors = {"vector": vector, "scalar": vector[3].clone(), "empty": vector[:0], "matrix": vector.reshape(2, -1)}
    state, _ = checkpoint.load(save(tmp_path, 1, model=tensors))
    assert state["model"].keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert same_bits(state["model"][key], tensor), key


def test_strided_and_shared_tensors_keep_their_values(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    images = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors = {
        "base": base,
        "transposed": base.permute(2, 0, 1),
        "every_second": base[..., ::2],
        "row": base[1],
        "expanded": torch.tensor([1.5]).expand(4),
        "tied": base,
        "images": images,
        "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
        "parameter": torch.nn.Parameter(torch.tensor([1.0, -0.0])),
    }
    state, _ = checkpoint.load(save(tmp_path, 1, model=tensors))
    for key, tensor in tensors.items():
        assert torch.equal(state["model"][key], tensor), key
        assert not state["model"][key].requires_grad
    state["model"]["base"].zero_()
    assert state["model"]["tied"].sum() == base.sum(), "restored tensors share no memory"


def test_plain_values_come_back_exactly(tmp_path: Path) -> None:
    plain = {
        "big": 2**200 + 1,
        "negative": -(2**63) - 1,
        "third": 1 / 3,
        "tiny": 5e-324,
        "minus_zero": -0.0,
        "infinite": math.inf,
        "flag": True,
        "one": 1,
        "nothing": None,
        "text": 'é "\n\u2028',
        "nested": {"list": [1, 2.0, [], {}]},
    }
    state, loop = checkpoint.load(checkpoint.save(tmp_path, 3, {"data": plain, "empty": {}}, {"best": 1e-17}, {}))
    assert state == {"data": plain, "empty": {}} and loop == {"best": 1e-17}
    for key, value in state["data"].items():
        assert type(value) is type(plain[key]), key
    assert math.copysign(1, state["data"]["minus_zero"]) == -1
    assert math.isnan(checkpoint.load(save(tmp_path, 4, data={"nan": math.nan}))[0]["data"]["nan"])


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {1, 2}, np.float32(1), np.arange(2), b"bytes", object], ids=repr)
def test_a_value_that_would_come_back_changed_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"data\.deep"):
        save(tmp_path, 1, data={"deep": [value]})
    assert checkpoint.steps(tmp_path) == [] and list((tmp_path / "checkpoints").iterdir()) == []


def test_generators_continue_as_if_never_interrupted(tmp_path: Path) -> None:
    array, plain, tensor = np.random.default_rng(7), random.Random(7), torch.Generator().manual_seed(7)
    array.integers(10), plain.gauss(), torch.rand(3, generator=tensor)
    version, words, gauss = plain.getstate()
    rng = {
        "torch": tensor.get_state(),
        "numpy": array.bit_generator.state,
        "python": [version, list(words), gauss],
    }
    state = checkpoint.load(save(tmp_path, 1, rng=rng))[0]["rng"]
    array2, plain2, tensor2 = np.random.default_rng(), random.Random(), torch.Generator()
    array2.bit_generator.state = state["numpy"]
    version, words, gauss = state["python"]
    plain2.setstate((version, tuple(words), gauss))
    tensor2.set_state(state["torch"])
    assert array.normal(size=9).tobytes() == array2.normal(size=9).tobytes()
    assert [plain.gauss() for _ in range(9)] == [plain2.gauss() for _ in range(9)]
    assert torch.equal(torch.randn(9, generator=tensor), torch.randn(9, generator=tensor2))


def test_an_optimizer_takes_the_same_next_step(tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.Adam]:
        model = torch.nn.Linear(4, 3)
        return model, torch.optim.Adam(model.parameters(), lr=0.01)

    def learn(model: torch.nn.Linear, optimizer: torch.optim.Adam) -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()

    model, optimizer = make()
    learn(model, optimizer)
    moments = {f"{i}.{key}": v for i, part in optimizer.state_dict()["state"].items() for key, v in part.items()}
    state, _ = checkpoint.load(save(tmp_path, 1, model=model.state_dict(), optimizer=moments))
    again, again_optimizer = make()
    again.load_state_dict(state["model"])
    groups = again_optimizer.state_dict()["param_groups"]
    restored: dict[int, dict[str, Any]] = {}
    for key, value in state["optimizer"].items():
        index, name = key.split(".")
        restored.setdefault(int(index), {})[name] = value
    again_optimizer.load_state_dict({"state": restored, "param_groups": groups})
    for _ in range(3):
        learn(model, optimizer)
        learn(again, again_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_files_are_as_the_contract_says(tmp_path: Path) -> None:
    path = checkpoint.save(
        tmp_path, 12, {"model": {"w": torch.ones(2)}, "rng": {"seed": 1}}, {"updates": 4}, {"git": "x"}
    )
    assert path == tmp_path / "checkpoints" / "step_12"
    assert {file.name for file in path.iterdir()} == {"model.safetensors", "state.json", "manifest.json"}
    assert json.loads((path / "state.json").read_text()) == {
        "step": 12,
        "loop": {"updates": 4},
        "sections": {"model": {}, "rng": {"seed": 1}},
    }
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["schema"], manifest["step"], manifest["info"]) == (checkpoint.SCHEMA, 12, {"git": "x"})
    assert manifest["files"].keys() == {"model.safetensors", "state.json"}
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_12\n"


def test_loaded_tensors_outlive_their_file(tmp_path: Path) -> None:
    path = save(tmp_path, 1, model={"w": torch.arange(50_000.0)})
    state, _ = checkpoint.load(path)
    os.truncate(path / "model.safetensors", 0)  # a mapped file would now end the process with SIGBUS
    assert torch.equal(state["model"]["w"], torch.arange(50_000.0))


def test_what_is_equal_is_not_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second save of a step takes over the files of equal bits, whole; -0.0 is not 0.0."""
    once = {"w": torch.tensor([0.0, float("nan")]), "n": torch.tensor(3)}
    first = save(tmp_path, 1, model=once, moved={"w": torch.tensor([0.0])}, other={"w": torch.zeros(2)})
    before = {file.name: file.stat().st_ino for file in first.iterdir()}
    second = save(tmp_path, 1, model=once, moved={"w": torch.tensor([-0.0])}, other={"v": torch.zeros(2)})
    kept = [file.name for file in second.iterdir() if file.stat().st_ino == before.get(file.name)]
    assert kept == ["model.safetensors"]
    checkpoint.verify(second)
    assert checkpoint.load(second)[0]["moved"]["w"].signbit().all()
    (second / "model.safetensors").write_bytes(b"damaged")
    checkpoint.verify(save(tmp_path, 1, model=once))
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    checkpoint.verify(save(tmp_path, 1, model=once))


def test_hints_may_be_missing_or_lie(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        save(tmp_path, step, data={"step": step})
    folder = tmp_path / "checkpoints"
    assert checkpoint.best(tmp_path) is None
    (folder / "latest").write_text("step_9")
    assert checkpoint.newest(tmp_path, silent).name == "step_100", "by number, neither by hint nor by spelling"
    (folder / "latest").unlink()
    assert checkpoint.newest(tmp_path, silent).name == "step_100"
    for lie in ("step_77", "../../etc", "", "checkpoints", "\udcff"):
        (folder / "best").write_bytes(lie.encode("utf-8", "surrogateescape"))
        assert checkpoint.best(tmp_path) is None
    checkpoint.mark_best(tmp_path, 10)
    assert checkpoint.best(tmp_path) == folder / "step_10"


def test_prune_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10, 20):
        save(tmp_path, step, data={})
    checkpoint.mark_best(tmp_path, 2)
    (tmp_path / "checkpoints" / "step_20" / "state.json").unlink()  # damaged: does not count among those kept
    checkpoint.prune(tmp_path, 2)
    assert checkpoint.steps(tmp_path) == [2, 3, 10]
    checkpoint.prune(tmp_path, 1)
    assert checkpoint.steps(tmp_path) == [2, 10]
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step_2", "step_10", "latest", "best"}


def test_prune_deletes_nothing_when_no_checkpoint_is_complete(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step, data={}) / "manifest.json").unlink()
    checkpoint.prune(tmp_path, 1)
    assert checkpoint.steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a.b"])
def test_section_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="section"):
        checkpoint.save(tmp_path, 1, {name: {"w": torch.ones(1)}}, {}, {})
    assert checkpoint.steps(tmp_path) == []


# ---- what comes from elsewhere


def edit_manifest(path: Path, **fields: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | fields))


def test_fault_17_another_schema_is_refused_and_said(tmp_path: Path) -> None:
    path = save(tmp_path, 1, data={})
    for schema, word in ((0, "older"), (checkpoint.SCHEMA + 1, "newer"), (None, "older"), ("x", "older")):
        edit_manifest(path, schema=schema)
        with pytest.raises(CheckpointError, match=f"an? {word} schema"):
            checkpoint.load(path)


class Canary:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_fault_18_a_pickle_renamed_safetensors_is_refused_unread(tmp_path: Path) -> None:
    path = save(tmp_path, 1, model={"w": torch.ones(1)})
    canary = tmp_path / "canary"
    poison = pickle.dumps(Canary(canary))
    for payload in (poison, b"\x80\x04" + poison):
        (path / "model.safetensors").write_bytes(payload)
        entry = {"sha256": tensor_file.sha256_of(path / "model.safetensors"), "bytes": len(payload)}
        files = json.loads((path / "manifest.json").read_text())["files"]
        edit_manifest(path, files=files | {"model.safetensors": entry})
        with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file"):
            checkpoint.load(path)
    torch.save({"w": Canary(canary)}, path / "model.safetensors")
    with pytest.raises(CheckpointError):
        checkpoint.load(path)
    assert not canary.exists()
    pickle.loads(poison)
    assert canary.exists(), "the canary works"


@pytest.mark.parametrize(
    "name", ["../../secret.safetensors", "/etc/passwd", "a/b.safetensors", "model.pt", "..safetensors"]
)
def test_fault_18_file_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1, data={})
    files = json.loads((path / "manifest.json").read_text())["files"]
    edit_manifest(path, files=files | {name: {"sha256": "", "bytes": 0}})
    with pytest.raises(CheckpointError, match="refused"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", "{", "[" * 100_000, '{"schema": 1}', '{"schema":1,"files":[]}', "\x00"]
)
def test_a_manifest_of_another_shape_is_one_clear_error(tmp_path: Path, content: str) -> None:
    path = save(tmp_path, 1, data={})
    (path / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match="step_1"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"sections": [], "loop": {}}', '{"sections": {"a": 1}, "loop": {}}', "[" * 100_000]
)
def test_a_state_of_another_shape_is_one_clear_error(tmp_path: Path, content: str) -> None:
    path = save(tmp_path, 1, data={})
    (path / "state.json").write_text(content)
    entry = {"sha256": tensor_file.sha256_of(path / "state.json"), "bytes": len(content)}
    edit_manifest(path, files={"state.json": entry})
    with pytest.raises(CheckpointError, match=r"state\.json"):
        checkpoint.load(path)
