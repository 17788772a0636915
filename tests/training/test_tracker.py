"""metrics.jsonl and TensorBoard say the same, lose nothing, and repeat no step after a resume."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from rlgym.common.atomic_io import read_rows
from rlgym.training.tensorboard import event_files
from rlgym.training.tracker import Tracker
from tests.training.dying import die_at


def accumulator(folder: Path) -> EventAccumulator:
    """TensorBoard's own reader, with every event kept."""
    sizes = dict.fromkeys(("scalars", "tensors", "images", "histograms"), 0)
    return EventAccumulator(str(folder), size_guidance=sizes).Reload()


def scalar_steps(folder: Path, tag: str) -> list[int]:
    return [event.step for event in accumulator(folder).Scalars(tag)]


def row_steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_rows(folder / "metrics.jsonl")]


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def test_tensorboard_reads_what_metrics_jsonl_says(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    values = np.random.default_rng(0).normal(size=(20, 3)) * [1, 1e6, 1e-9]
    for i, (a, b, c) in enumerate(values):
        tracker.log(i * 128, i * 0.5, {"rollout/ep_rew_mean": a, "train/loss": b, "time/fps": c.astype(np.float32)})
    rows = read_rows(tmp_path / "metrics.jsonl")  # both are readable while the run goes on
    found = accumulator(tmp_path)
    assert set(found.Tags()["scalars"]) == rows[0].keys() - {"step", "time"}
    for tag in found.Tags()["scalars"]:
        curve = [(event.step, event.value) for event in found.Scalars(tag)]
        assert curve == [(row["step"], float(np.float32(row[tag]))) for row in rows], tag
    assert [row["train/loss"] for row in rows] == values[:, 1].tolist(), "the row has every digit"
    assert [row["time"] for row in rows] == [i * 0.5 for i in range(20)]
    tracker.close()


def test_a_number_that_is_not_finite_is_null_in_the_row(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.log(1, 0.0, {"train/loss": math.nan, "train/kl": -math.inf, "train/ok": 1})
    tracker.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert row == {"step": 1, "time": 0.0, "train/loss": None, "train/kl": None, "train/ok": 1.0}
    assert math.isnan(accumulator(tmp_path).Scalars("train/loss")[0].value)


def test_texts_histograms_and_images_read_back(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.text("config", "# *run*\nseed: 1", 0)
    tracker.histogram("parameters/w", np.arange(10.0), 7)
    tracker.histogram("parameters/broken", np.array([np.nan]), 7)
    tracker.image("plots/returns", png(30, 20), 9)
    tracker.close()
    found = accumulator(tmp_path)
    (text,) = found.Tensors("config")
    assert text.tensor_proto.string_val == [b"# *run*\nseed: 1"] and text.step == 0
    assert found.summary_metadata["config"].plugin_data.plugin_name == "text"
    (histogram,) = found.Histograms("parameters/w")
    assert histogram.step == 7 and sum(histogram.histogram_value.bucket) == 10
    assert found.Tags()["histograms"] == ["parameters/w"]
    (image,) = found.Images("plots/returns")
    assert (image.step, image.width, image.height, image.encoded_image_string) == (9, 30, 20, png(30, 20))


def test_videos_are_a_run_of_their_own(tmp_path: Path) -> None:
    frames = np.zeros((5, 12, 16, 3), np.uint8)
    for i in range(5):
        frames[i, :, 3 * i : 3 * i + 3] = 255
    tracker = Tracker(tmp_path)
    tracker.video("video/episode", frames, fps=25, step=100)
    tracker.close()
    assert accumulator(tmp_path).Tags()["images"] == []
    (image,) = accumulator(tmp_path / "videos").Images("video/episode")
    assert (image.step, image.width, image.height) == (100, 16, 12)
    gif = Image.open(io.BytesIO(image.encoded_image_string))
    shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert gif.info["duration"] == 40 and np.array_equal(np.stack(shown), frames)


def test_hparams_are_in_the_run_itself(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.log(5, 0.0, {"eval/mean_reward": 3.0})
    tracker.hparams({"seed": 1, "agent": {"name": "ppo", "gamma": 0.99, "normalize": True}}, ["eval/mean_reward"])
    tracker.close(success=False)
    assert len(list(tmp_path.rglob("*tfevents*"))) == 1, "no run beside this one"
    found = accumulator(tmp_path)

    def content(name: str) -> HParamsPluginData:
        return HParamsPluginData.FromString(found.summary_metadata[f"_hparams_/{name}"].plugin_data.content)

    hparams = content("session_start_info").session_start_info.hparams
    assert hparams["seed"].number_value == 1 and hparams["agent.name"].string_value == "ppo"
    assert hparams["agent.normalize"].bool_value is True
    experiment = content("experiment").experiment
    assert {info.name for info in experiment.hparam_infos} == set(hparams)
    assert [info.name.tag for info in experiment.metric_infos] == found.Tags()["scalars"]
    assert content("session_end_info").session_end_info.status == 2  # STATUS_FAILURE


def test_a_killed_process_loses_nothing_that_it_logged(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        tracker = Tracker(tmp_path)
        for step in range(50):
            tracker.log(step, 0.0, {"train/loss": float(step)})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert row_steps(tmp_path) == scalar_steps(tmp_path, "train/loss") == list(range(50))


# ---- resume


def write(tracker: Tracker, steps: range) -> None:
    for step in steps:
        tracker.log(step, step / 10, {"train/loss": step / 7})
        tracker.histogram("parameters/w", np.arange(3.0), step)


def test_a_resume_removes_the_steps_that_come_again(tmp_path: Path) -> None:
    straight = tmp_path / "straight"
    resumed = tmp_path / "resumed"
    for folder in (straight, resumed):
        folder.mkdir()
    tracker = Tracker(straight)
    write(tracker, range(30))
    tracker.close()

    tracker = Tracker(resumed)
    tracker.text("config", "seed: 1", 0)
    tracker.video("video", np.zeros((2, 4, 4, 3), np.uint8), 20, 5)
    tracker.video("video", np.zeros((2, 4, 4, 3), np.uint8), 20, 15)
    write(tracker, range(20))  # no close: killed
    tracker = Tracker(resumed, resume_step=11)
    write(tracker, range(12, 25))
    tracker.video("video", np.zeros((2, 4, 4, 3), np.uint8), 20, 15)
    tracker = Tracker(resumed, resume_step=17)
    write(tracker, range(18, 30))
    tracker.close()

    assert (resumed / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    found, expected = accumulator(resumed), accumulator(straight)
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [
        (e.step, e.value) for e in expected.Scalars("train/loss")
    ]
    assert [e.step for e in found.Histograms("parameters/w")] == list(range(30))
    assert [e.step for e in found.Tensors("config")] == [0]
    assert [e.step for e in accumulator(resumed / "videos").Images("video")] == [5, 15]


def test_a_resume_announces_itself_to_an_open_tensorboard(tmp_path: Path) -> None:
    """A reader that already holds the discarded steps must drop them: it sees no step twice either."""
    tracker = Tracker(tmp_path)
    for step in range(20):
        tracker.log(step, 0.0, {"train/loss": float(step)})
    open_since = accumulator(tmp_path)
    tracker = Tracker(tmp_path, resume_step=11)
    for step in range(12, 16):
        tracker.log(step, 0.0, {"train/loss": float(step)})
    open_since.Reload()
    assert [event.step for event in open_since.Scalars("train/loss")] == list(range(16))


@pytest.mark.parametrize("cut", [1, 20, 60, 10**9])
def test_fault_19_truncated_files(tmp_path: Path, cut: int) -> None:
    tracker = Tracker(tmp_path)
    write(tracker, range(20))
    tracker.close()
    for path in (tmp_path / "metrics.jsonl", *event_files(tmp_path)):
        os.truncate(path, max(0, path.stat().st_size - cut))
    before = scalar_steps(tmp_path, "train/loss") if cut < 10**9 else []
    assert before == list(range(len(before))), "TensorBoard still opens it"
    tracker = Tracker(tmp_path, resume_step=11)
    write(tracker, range(12, 30))
    tracker.close()
    kept = min(12, len(before))
    assert scalar_steps(tmp_path, "train/loss") == [*range(kept), *range(12, 30)]
    steps = row_steps(tmp_path)
    assert steps == sorted(set(steps)) and steps[-18:] == list(range(12, 30))
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


def test_a_last_row_that_lacks_only_its_line_end_is_whole(tmp_path: Path) -> None:
    write(Tracker(tmp_path), range(12))
    path = tmp_path / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - 1)
    write(Tracker(tmp_path, resume_step=11), range(12, 14))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == list(range(14))


def test_a_resume_that_is_killed_itself_can_be_repeated(tmp_path: Path) -> None:
    for moment in range(100):
        run = tmp_path / str(moment)
        run.mkdir()
        tracker = Tracker(run)
        tracker.video("video", np.zeros((2, 4, 4, 3), np.uint8), 20, 15)
        write(tracker, range(20))
        died = die_at(moment, lambda run=run: Tracker(run, resume_step=11))  # type: ignore[misc]
        between = scalar_steps(run, "train/loss")
        assert between in (list(range(20)), list(range(12))), "before or after, at every moment"
        tracker = Tracker(run, resume_step=11)
        write(tracker, range(12, 20))
        tracker.close()
        assert row_steps(run) == scalar_steps(run, "train/loss") == list(range(20))
        if not died:
            break
    assert moment > 10 and not died


def test_a_resumed_run_has_one_line_of_hparams(tmp_path: Path) -> None:
    for resume_step in (None, 5):
        tracker = Tracker(tmp_path, resume_step)
        tracker.hparams({"steps": 10 if resume_step is None else 20}, [])
        tracker.close()
    found = accumulator(tmp_path)
    content = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    session = HParamsPluginData.FromString(content).session_start_info
    assert session.hparams["steps"].number_value == 20, "the first would win: it has to go"


# ---- cost


def test_a_log_point_is_cheap(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    metrics = {f"train/metric_{i}": i / 3 for i in range(20)}
    costs = []
    for step in range(300):
        start = time.perf_counter()
        tracker.log(step, 0.0, metrics)
        costs.append(time.perf_counter() - start)
    assert sorted(costs)[len(costs) // 2] < 5e-4  # about 1e-4 on an idle core


def test_tracking_imports_neither_torch_nor_tensorboards_backend() -> None:
    heavy = ("torch", "tensorboard.backend", "PIL")
    code = f"import sys, rlgym.training.tracker; print([m for m in sys.modules if m in {heavy}])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
