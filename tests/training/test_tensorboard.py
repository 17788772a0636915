"""The event file against TensorBoard's own code: checksums, records, and the summaries torch's writer would make."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import summary as torch_summary

from rlgym.training import tensorboard


def test_checksums_equal_tensorboards() -> None:
    for length in (*range(20), 20_001):
        data = random.Random(length).randbytes(length)
        assert tensorboard._masked_crc(data) == masked_crc32c(data), length


def test_records_read_back_up_to_the_first_damage() -> None:
    datas = [b"", b"one", bytes(3000)]
    content = b"".join(map(tensorboard.record, datas))
    assert list(tensorboard.read_records(content)) == datas
    for end in range(len(content)):
        read = list(tensorboard.read_records(content[:end]))
        assert read == datas[: len(read)] and len(read) < 3
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        read = list(tensorboard.read_records(bytes(damaged)))
        assert read == datas[: len(read)] and len(read) < 3


def test_tensorboards_reader_accepts_the_file(tmp_path: Path) -> None:
    file = tensorboard.EventFile(tmp_path)
    file.scalars(5, {"a": 0.5, "b": float("nan")})
    first, second = (Event.FromString(data) for data in RawEventFileLoader(str(file.path)).Load())  # not closed yet
    assert first.file_version == "brain.Event:2"
    assert second.step == 5 and [value.tag for value in second.summary.value] == ["a", "b"]
    file.close()


def test_files_of_one_second_sort_in_the_order_of_their_making(tmp_path: Path) -> None:
    made = []
    for _ in range(12):
        file = tensorboard.EventFile(tmp_path)
        file.close()
        made.append(file.path)
    assert tensorboard.event_files(tmp_path) == made == sorted(made)


def test_histogram_counts_and_moments() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    histo = tensorboard.histogram("w", values, bins=30).histo  # type: ignore[union-attr]
    counts, edges = np.histogram(values.astype(np.float64), 30)
    assert list(histo.bucket) == [0, *counts] and np.allclose(histo.bucket_limit, edges)
    assert histo.num == 1000 and (histo.min, histo.max) == (values.min(), values.max())
    assert histo.sum == pytest.approx(values.sum(dtype=np.float64))
    assert histo.sum_squares == pytest.approx(np.square(values, dtype=np.float64).sum())


def test_histogram_of_odd_values() -> None:
    assert tensorboard.histogram("w", np.array([np.nan, np.inf])) is None
    assert tensorboard.histogram("w", np.array([])) is None
    assert tensorboard.histogram("w", np.array([1.0, np.nan, 1.0])).histo.num == 2  # type: ignore[union-attr]
    assert sum(tensorboard.histogram("w", np.zeros((3, 3))).histo.bucket) == 9  # type: ignore[union-attr]


def test_hparams_are_the_summaries_that_torch_makes() -> None:
    """torch's `hparams()` puts them into a run of their own; the content is the same but for the times."""
    hparams = {"lr": 0.1, "n": 3, "name": "x", "none": None}
    torch_hparams: Any = torch_summary.hparams
    theirs = torch_hparams(hparams, {"eval/mean_reward": 1.0})
    ours = [*tensorboard.hparams_start(hparams, ["eval/mean_reward"]), tensorboard.hparams_end(success=True)]
    for summary, value in zip(theirs, ours, strict=True):
        expected = summary.value[0]
        assert value.tag == expected.tag
        plugin, expected_plugin = value.metadata.plugin_data, expected.metadata.plugin_data
        assert plugin.plugin_name == expected_plugin.plugin_name
        content = HParamsPluginData.FromString(plugin.content)
        part = getattr(content, content.WhichOneof("data"))
        for time in ("start_time_secs", "end_time_secs"):
            if time in part.DESCRIPTOR.fields_by_name:
                part.ClearField(time)
        assert content == HParamsPluginData.FromString(expected_plugin.content)


def test_a_flag_among_the_hparams_stays_a_flag() -> None:
    _, start = tensorboard.hparams_start({"flag": True, "list": [1, 2]}, [])
    session = HParamsPluginData.FromString(start.metadata.plugin_data.content).session_start_info
    assert session.hparams["flag"].bool_value is True and session.hparams["list"].string_value == "[1, 2]"
