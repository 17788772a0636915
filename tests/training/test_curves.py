"""The figures show the numbers of metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlgym.training import curves


@pytest.fixture(scope="module", autouse=True)
def blank_plots() -> None:
    """Here they are drawn."""


def write(run: Path, rows: list[dict[str, Any]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rl_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(100, 1001, 100):
        rows.append(
            {"step": step, "time": step / 10, "rollout/ep_rew_mean": step / 2, "train/loss": 1 / step, "time/fps": 50.0}
        )
        if step % 500 == 0:
            rows.append({"step": step, "time": step / 10, "eval/mean_reward": float(step), "eval/std_reward": 10.0})
    return rows


def test_one_picture_a_group_of_tags(tmp_path: Path) -> None:
    write(tmp_path, rl_rows())
    made = curves.curves(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in made] == [
        "plots/learning.png",
        "plots/losses.png",
        "plots/speed.png",
    ]
    for path in made:
        with Image.open(path) as picture:
            assert picture.format == "PNG" and np.asarray(picture.convert("L")).std() > 5, "not blank"


def test_curves_show_the_numbers_with_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: figures.append(self))
    write(tmp_path, rl_rows())
    curves.curves(tmp_path)
    learning, losses, speed = figures
    training, evaluation = learning.axes[0].lines
    assert np.allclose(training.get_xydata(), [(step, step / 2) for step in range(100, 1001, 100)])
    assert np.allclose(evaluation.get_xydata(), [(500, 500), (1000, 1000)])
    (band,) = learning.axes[0].collections
    low, high = band.get_paths()[0].get_extents().intervaly
    assert (low, high) == (490, 1010), "mean -+ one standard deviation"
    assert learning.axes[0].get_xlabel() == "environment steps" and learning.axes[0].get_legend() is not None
    assert losses.axes[0].get_ylabel() == "train/loss" and speed.axes[0].get_ylabel() == "speed [steps/s]"


def test_language_runs_count_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: figures.append(self))
    write(tmp_path, [{"step": 1, "time": 0.1, "validation/loss": 3.0, "time/tokens_per_second": 9.0}])
    curves.curves(tmp_path)
    assert [figure.axes[0].get_xlabel() for figure in figures] == ["tokens", "tokens"]
    assert figures[0].axes[0].get_ylabel() == "validation loss [nats per token]"


def test_missing_and_odd_numbers_are_left_out(tmp_path: Path) -> None:
    assert curves.curves(tmp_path) == []
    write(tmp_path, [{"step": 1, "time": 0.1}, {"step": 2, "time": 0.2, "rollout/ep_rew_mean": None}])
    assert curves.curves(tmp_path) == [] and not (tmp_path / "plots").exists()
