"""Every script of `benchmarks/` at small sizes: that it runs, and that its tables have the figures they promise."""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlgym.config.compose import compose
from rlgym.learner import Shared
from rlgym.run_folder import checkpoint
from tests.benchmarks.forked import inside, popen
from tests.ssl import tiny

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
Load = Callable[[str], Any]
Table = Callable[[Any, list[str]], list[dict[str, str]]]


def slow(value: Any) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


def test_every_script_has_a_test() -> None:
    scripts = {path.stem for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert scripts - {name.removeprefix("test_") for name in globals()} == set()


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """A script as a module; the programs it starts are forks of this process, with what a test has changed in it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(subprocess, "Popen", popen)
    import_module("stable_baselines3")  # here, and not in every fork
    return import_module


@pytest.fixture
def table(capsys: pytest.CaptureFixture[str]) -> Table:
    """The rows of the tables that a script prints, each by the names of its columns."""

    def run(main: Callable[[list[str]], None], words: list[str]) -> list[dict[str, str]]:
        capsys.readouterr()
        main(words)
        return rows_of(capsys.readouterr().out)

    return run


def rows_of(text: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif not line.startswith("|---"):
            rows.append(dict(zip(header, cells, strict=True)))
    return rows


def number(cell: str) -> float:
    """The figure that a cell begins with."""
    found = re.match(r"[+-]?[\d,]*\.?\d+", cell)
    assert found, cell
    return float(found[0].replace(",", ""))


# ---- learning from reward


def test_rainbow(load: Load, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rainbow = load("rainbow")
    monkeypatch.setattr(load("kept_runs"), "subprocess", SimpleNamespace(run=inside))
    small = [word for word in rainbow.COMMON if not word.startswith(("agent.net_arch", "agent.learning_starts"))]
    monkeypatch.setattr(rainbow, "COMMON", [*small, "agent.net_arch=[8]", "agent.learning_starts=16", "compile=off"])
    for name, variant in rainbow.VARIANTS.items():
        assert compose([*variant, *rainbow.COMMON], "train").agent.net_arch == [8], name
    few = ("rainbow", "dqn")
    monkeypatch.setattr(rainbow, "VARIANTS", {name: rainbow.VARIANTS[name] for name in few})
    words = [str(tmp_path), "--env", "CartPole-v1", "--steps", "24", "--seeds", "1"]
    rows = table(rainbow.main, words)
    assert tuple(row["agent"] for row in rows) == few
    assert all(8 <= number(row["mean of the evaluations"]) <= 500 for row in rows)
    files = set(tmp_path.rglob("summary.json"))
    again = table(rainbow.main, [*words, "2"])
    assert len(set(tmp_path.rglob("summary.json")) - files) == 2  # what is there is not run again
    assert 0 <= number(again[1]["P(rainbow is better)"]) <= 1


def test_parts(load: Load, table: Table) -> None:
    rows = {row["part"]: row for row in table(load("parts").main, ["--updates", "3", "--n-epochs", "1"])}
    update = number(rows["update"]["us a step"])
    assert update > sum(number(rows[part]["us a step"]) for part in ("rollout", "epochs")) > 0.3 * update
    assert number(rows["epochs"]["us a gradient step"]) > number(
        rows["&nbsp;&nbsp;loss, forward"]["us a gradient step"]
    )


@pytest.mark.parametrize("case", ["solve", slow("speed"), slow("fast"), slow("window"), slow("lunar")])
def test_ppo(load: Load, table: Table, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    ppo = load("ppo")
    monkeypatch.setattr(ppo, "EPISODES", 2)
    if case == "solve":
        monkeypatch.delitem(ppo.CASES[case], "sb3 zoo")  # as the other
    rows = table(ppo.main, [case, "--repeats", "1", "--steps", "2048"])
    assert [row["program"] for row in rows] == list(ppo.CASES[case])
    for row in rows:
        assert number(row["steps/s"]) > 10 and number(row["peak MB"]) > 50
        assert row["solved"] == "0/1" and row["steps to 475"] == "-"  # not by so few steps


def test_the_figures_of_a_ppo_run(load: Load) -> None:
    ppo = load("ppo")
    points = [(0, 10.0, None), *((100 * k, 10.0 + k, 60.0 * k) for k in range(1, 11)), (1000, 21.0, None)]
    found = ppo.figures(points, 8.0)
    assert found["steps to 475"] == 800 and found["s to 475"] == 8 and found["s to 475 with process start"] == 10
    assert found["steps/s"] == 500 / 6  # from the fifth update to the end
    assert ppo.figures(points[:3], 8.0)["steps/s"] == 100


def make_small(script: Any, monkeypatch: pytest.MonkeyPatch, **values: int) -> None:
    """Other values for both programs of a script, and nothing is compiled."""
    words = list(script.WORDS)
    for key, value in values.items():
        words[words.index(f"agent.{key}={script.ZOO[key]}")] = f"agent.{key}={value}"
        monkeypatch.setitem(script.ZOO, key, value)
    monkeypatch.setattr(script, "WORDS", [*words, "compile=off"])


def check_turns(rows: list[dict[str, str]], programs: list[str], gradient_steps: float, parameters: int) -> None:
    """What the table of programs that take turns says of each."""
    assert [row["program"] for row in rows] == programs
    for row in rows:
        assert number(row["us a step"]) * number(row["steps/s"]) == pytest.approx(1e6, rel=0.2)
        assert number(row["gradient steps a step"]) == gradient_steps and number(row["peak MB"]) > 50
        assert number(row["parameters"]) == parameters


def dense(*widths: int) -> int:
    """Weights and biases of layers that follow each other."""
    return sum((inputs + 1) * outputs for inputs, outputs in zip(widths, widths[1:], strict=False))


def test_sac(load: Load, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    sac = load("sac")
    make_small(sac, monkeypatch, learning_starts=16)
    rows = table(sac.main, ["--rounds", "1", "--steps", "4", "--warm", "20"])
    check_turns(rows, ["rlgym", "sb3"], 1, dense(3, 256, 256, 2))


def test_atari(load: Load, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    atari = load("atari")
    make_small(atari, monkeypatch, learning_starts=16)
    rows = table(atari.main, ["--rounds", "1", "--steps", "4", "--warm", "20"])
    nature = (4 * 64 + 1) * 32 + (32 * 16 + 1) * 64 + (64 * 9 + 1) * 64
    check_turns(rows, ["rlgym", "sb3"], 0.25, nature + dense(64 * 7 * 7, 512, 6))


@pytest.mark.parametrize("every", [False, slow(True)])
def test_dqn(load: Load, table: Table, monkeypatch: pytest.MonkeyPatch, every: bool) -> None:
    dqn = load("dqn")
    make_small(dqn, monkeypatch, learning_starts=16, train_freq=8, gradient_steps=4)
    extension = "n_step=3, prioritized, c51"
    others = {name: words for name, words in dqn.EXTENSIONS.items() if every and name != extension}
    monkeypatch.setattr(dqn, "EXTENSIONS", {extension: dqn.EXTENSIONS[extension], **others})
    rows = table(dqn.main, ["--rounds", "1", "--steps", "16", "--warm", "24"])
    programs = [row for row in rows if "program" in row]
    check_turns(programs[:3], ["rlgym", "sb3", "rlgym"], 0.5, dense(4, 256, 256, 2))
    check_turns(programs[3:4], [extension], 0.5, dense(4, 256, 256, 2 * 51))
    assert [row["program"] for row in programs[4:]] == list(others)
    ratio = number(programs[3]["us a step"]) / number(programs[2]["us a step"])
    beside, *_ = (row for row in rows if "beside plain DQN" in row)
    assert number(beside["time a step"]) == pytest.approx(ratio, abs=0.01)
    spent = {row["part"]: row for row in rows if "part" in row}
    assert number(spent["update"]["us a step"]) > number(spent["gradient steps"]["us a step"])
    each, step = (number(spent["gradient steps"][unit]) for unit in ("us a gradient step", "us a step"))
    assert each == pytest.approx(8 / 4 * step, rel=0.05)
    assert sum(number(row["us"]) for row in rows if "us" in row) > 0


def test_startup(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load("startup").main(["--repeats", "1"])
    out = capsys.readouterr().out
    assert re.fullmatch(r"--help: median \S+ s \(\S+\) of 1\nfirst update: median \S+ s \(\S+\) of 1\n", out)


def test_replay(load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("replay").main([str(tmp_path / "here"), "--frames", "800"])
    out = capsys.readouterr().out
    assert [row["checkpoint"] for row in rows_of(out)] == ["of 800 frames", "after 40 more"]
    assert out.endswith("1,000 transitions drawn from both are equal\n")


def test_selfplay(load: Load, table: Table) -> None:
    sizes = ["--games", "2", "4", "--simulations", "4", "--seconds", "0", "--repeats", "1", "--width", "8"]
    rows = table(load("selfplay").main, sizes)
    by = {column: [row for row in rows if column in row] for column in ("games", "simulations a move", "program")}
    assert [number(row["games"]) for row in by["games"]] == [2, 4]
    for row in by["games"]:
        assert number(row["simulations/s"]) == pytest.approx(4 * number(row["moves/s"]), abs=4)
    assert [number(row["simulations a move"]) for row in by["simulations a move"]] == [1, 2, 4, 8, 16, 32]
    assert [row["program"] for row in by["program"]][1:] == [f"rlgym, {n} games" for n in (1, 2, 4)]


# ---- learning from text


@pytest.mark.usefixtures("cache")
def test_spam(load: Load, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spam = load("spam")
    monkeypatch.setattr(load("kept_runs"), "subprocess", SimpleNamespace(run=inside))
    file = tmp_path / "spam.tsv"
    lines = [f"{('ham', 'spam')[n % 2]}\t{('see you at', 'win cash at')[n % 2]} {n}" for n in range(60)]
    file.write_text("\n".join(lines) + "\n")
    small = ["pretrain", "objective=masked", "model=modernbert", *tiny.SHAPE, "data=jsonl", "tokenizer=char"]
    monkeypatch.setattr(spam, "PRETRAIN", [*small, "tokens=512", "batch_size=4"])
    monkeypatch.setattr(spam, "TABLE", [*spam.TABLE, "method.epochs=1"])
    kinds = ("pretrained", "random, 5 %")
    monkeypatch.setattr(spam, "KINDS", {kind: spam.KINDS[kind] for kind in kinds})
    before, *rows = table(spam.main, [str(file), str(tmp_path / "runs"), "--seeds", "1"])
    assert before[""] == "pretraining" and tuple(row[""] for row in rows) == kinds
    for row in rows:
        accuracies = number(row["accuracy, %"]), number(row["TF-IDF: accuracy"])
        assert all(0 <= accuracy <= 100 for accuracy in accuracies)
        gain = number(row["difference, points, by seed (95 %)"])
        assert gain == pytest.approx(accuracies[0] - accuracies[1], abs=0.02)


def test_tokens(load: Load, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = load("tokens")
    monkeypatch.setattr(tokens, "subprocess", SimpleNamespace(run=inside, PIPE=subprocess.PIPE))
    rows = table(tokens.main, ["--gigabytes", "0.0001", "--repeats", "1", "--threads", "1"])
    assert [row[""] for row in rows] == ["this program, to the disk", "`encode_batch_fast` alone"]
    assert all(number(row["MB/s"]) > 0 and number(row["tokens/s"]) > 1_000 for row in rows)


@pytest.mark.timeout(1800)  # four are compiled
@pytest.mark.parametrize("parts", [["medium", "hf"], slow(["small", "encoder", "hf"])])
def test_pretrain(load: Load, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str]) -> None:
    pretrain = load("pretrain")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # their threads do not survive a fork
    monkeypatch.setattr(pretrain, "matrix_rate", lambda device, dtype: 1e10)
    shapes = {parts[0]: (1, 32, 2, 16, 4)}
    if "encoder" in parts:
        pytest.importorskip("accelerate")
    else:
        monkeypatch.setattr(pretrain, "PLAIN", ("plain fp32 eager",))
        monkeypatch.setattr(pretrain, "TRAINER", ())
        monkeypatch.setattr(pretrain, "DECODERS", ())
        monkeypatch.setattr(pretrain, "ENCODERS", ("bert",))
    monkeypatch.setattr(pretrain, "SHAPES", shapes)
    monkeypatch.setattr(pretrain, "HOPELESS", 1e9)
    (tmp_path / "text.txt").write_text(tiny.sentences(400, 0))
    sizes = ["--rounds", "1", "--seconds", "0", "--threads", "1", "--text", str(tmp_path / "text.txt")]
    rows = table(pretrain.main, [*parts, *sizes])
    programs = [row["program"] for row in rows if "program" in row]
    decoders = ["ours", *pretrain.PLAIN, *pretrain.TRAINER] * len(shapes)
    encoders = ["ours", *pretrain.TRAINER] * len(shapes) * ("encoder" in parts)
    assert programs == [*decoders, *encoders]
    for row in rows:
        if "program" in row:  # 4 blocks of 16 tokens a step
            assert number(row["tokens/s"]) * number(row["ms a step (quartiles)"]) == pytest.approx(64e3, rel=0.05)
    families = [(row["size"], row["architecture"]) for row in rows if "architecture" in row]
    assert families == [(size, family) for size in shapes for family in (*pretrain.DECODERS, *pretrain.ENCODERS)]
    assert all(number(row["gain"]) > 0 for row in rows if "gain" in row)


def test_gpu(load: Load, table: Table, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What it measures on a GPU, on the CPU: small and not compiled."""
    gpu = load("gpu")
    monkeypatch.setattr(gpu, "COMPILE", ("off",))
    monkeypatch.setattr(gpu, "UPDATES", 2)
    monkeypatch.setattr(
        gpu, "CASES", {"images": ("RandomImages-v0", 1, {"n_steps": 16, "batch_size": 16, "n_epochs": 1})}
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (row,) = table(gpu.main, ["ppo"])
    assert (row["case"], row["device"], row["compile"]) == ("images", "cpu", "off")
    assert number(row["steps/s (min-max)"]) > 0
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["pretrain"])
    assert "on a CUDA GPU; ppo alone runs without" in capsys.readouterr().err


@pytest.mark.usefixtures("cache")
def test_gpu_learning_from_text(
    load: Load, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = load("gpu")
    monkeypatch.setattr(gpu, "FAST", ["device=cpu", "compile=off", "threads=1"])
    monkeypatch.setattr(gpu, "PRETRAIN", (("gpt2", "documents"),))
    data = ["data=text", f"data.path=['{text}']", "tokenizer=byte"]
    monkeypatch.setattr(gpu, "GPT", [*tiny.SHAPE, *data, "precision=fp32"])
    gpu.pretrain(argparse.Namespace(batch_size=2, seconds=0.05))
    (row,) = rows_of(capsys.readouterr().out)
    assert (row["model"], row["packing"], row["batch"]) == ("gpt2", "documents", "2 x 32")
    assert number(row["tokens/s"]) > 10

    monkeypatch.setattr(
        gpu, "SHAKESPEARE", ["model=gpt2", *tiny.SHAPE, "batch_size=2", "tokens=256", "evaluate.every=128"]
    )
    file = text.parent / "all.txt"
    file.write_text(tiny.sentences(60, 0))
    gpu.shakespeare(argparse.Namespace(text=file))
    rows = rows_of(capsys.readouterr().out)
    assert [row["recipe"] for row in rows] == list(gpu.RECIPES)
    assert all(1 < number(row["best validation loss"]) < 6 for row in rows)
    assert all(number(row["at tokens"]) in (0, 128, 256) for row in rows)


# ---- equal to the bit


@pytest.mark.skipif(not (BENCHMARKS.parent / ".git").exists(), reason="revisions are those of a git checkout")
def test_bits(monkeypatch: pytest.MonkeyPatch, table: Table) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bits = import_module("bits")  # its programs are no forks: each has code of its own
    (row,) = table(bits.main, ["HEAD", "HEAD", "--only", "ppo"])
    assert row["found"] == "equal" and number(row["updates"]) >= bits.UPDATES and number(row["tensors compared"]) > 30


def test_what_bits_calls_a_difference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bits = import_module("bits")
    zero, nan = torch.zeros(2, 3), torch.full((2,), torch.nan, dtype=torch.bfloat16)
    whole = {"model: a": zero, "model: b": nan, "rng: c": torch.tensor(7)}
    assert bits.difference(whole, {name: tensor.clone() for name, tensor in whole.items()}) == ""
    for other in (-zero, zero.double(), zero.reshape(3, 2)):
        assert bits.difference(whole, {**whole, "model: a": other}) == "1 of 3 differ, the first is model: a"
    renamed = {"model: z": zero, "model: b": nan, "rng: c": torch.tensor(8)}
    text = "only in OLD: model: a; only in NEW: model: z; 1 of 2 differ, the first is rng: c"
    assert bits.difference(whole, renamed) == text

    checkpoint.save(tmp_path, 90, {"model": {"a": zero}}, {}, {})
    checkpoint.save(tmp_path, 100, {"model": {"a": zero + 1}, "data": {"kept": Shared(lambda: {"b": nan})}}, {}, {})
    found = bits.tensors(tmp_path)
    assert bits.difference(found, {"model: a": zero + 1, "shared data-kept: b": nan}) == ""
