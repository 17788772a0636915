"""Writes TensorBoard's event file, record by record in the calling thread. TensorBoard's own `EventFileWriter` costs
0.3 s of imports and a thread, and its `RecordWriter` computes checksums in Python, which takes seconds for a picture;
its protocol buffers alone cost 0.07 s. The file is a sequence of length-prefixed, checksummed records (TFRecord), each
a serialised `Event`.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto

from rlgym.common.atomic_io import Appended

HPARAMS = "hparams"  # TensorBoard's name of the plugin


# ---- records


def _masked_crc(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(data: bytes) -> bytes:
    """One TFRecord: length, its checksum, data, its checksum."""
    header = struct.pack("<Q", len(data))
    return header + struct.pack("<I", _masked_crc(header)) + data + struct.pack("<I", _masked_crc(data))


def read_records(content: bytes) -> Iterator[bytes]:
    """The data of each record, up to the first torn or altered one."""
    at = 0
    while at + 12 <= len(content):
        header = content[at : at + 8]
        (size,) = struct.unpack("<Q", header)
        end = at + 12 + size
        if _masked_crc(header) != int.from_bytes(content[at + 8 : at + 12], "little") or end + 4 > len(content):
            return
        data = content[at + 12 : end]
        if _masked_crc(data) != int.from_bytes(content[end : end + 4], "little"):
            return
        yield data
        at = end + 4


# ---- files


class EventFile:
    """A new event file in a folder, sorted after existing ones; unbuffered."""

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stamps = [int(path.name.split(".")[3]) for path in event_files(folder)]
        stamp = max([int(time.time()), *(stamp + 1 for stamp in stamps)])
        self.path = folder / f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = Appended(self.path, "xb")
        self.write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if resume_step is not None:  # makes a running TensorBoard drop the steps that are repeated
            start = SessionLog(status=SessionLog.START)
            self.write(Event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def write(self, event: Any) -> None:
        self._file.write(record(event.SerializeToString()))

    def scalars(self, step: int, metrics: Mapping[str, float]) -> None:
        event = Event(wall_time=time.time(), step=step)
        add = event.summary.value.add
        for tag, value in metrics.items():
            add(tag=tag, simple_value=value)
        self.write(event)

    def value(self, step: int, value: Any) -> None:
        """Any other summary, built by the functions below."""
        self.write(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


def event_files(folder: Path) -> list[Path]:
    """A folder's event files, oldest first."""
    return sorted(path for path in folder.glob("events.out.tfevents.*") if path.name.split(".")[3].isdigit())


def keep_until(content: bytes, step: int) -> bytes:
    """An event file's records up to `step`, without a torn tail and without hparams, which a resume rewrites."""
    kept = []
    for data in read_records(content):
        event = Event.FromString(data)
        plugins = (value.metadata.plugin_data.plugin_name for value in event.summary.value)
        if event.step <= step and HPARAMS not in plugins:
            kept.append(record(data))
    return b"".join(kept)


# ---- summaries


def text(tag: str, content: str) -> Any:
    """Markdown text, as a 0-d tensor, which TensorBoard does not render as a table."""
    tensor = TensorProto(dtype="DT_STRING", string_val=[content.encode()])
    return Summary.Value(tag=tag, tensor=tensor, metadata=_plugin("text", b""))


def histogram(tag: str, values: NDArray[Any], bins: int = 64) -> Any | None:
    """A histogram in the layout of torch's writer; None without finite values."""
    finite = np.asarray(values, np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return None
    counts, edges = np.histogram(finite, bins)
    proto = HistogramProto(
        min=finite.min(),
        max=finite.max(),
        num=finite.size,
        sum=finite.sum(),
        sum_squares=finite @ finite,
        bucket_limit=edges.tolist(),  # upper edges: the first bucket is empty
        bucket=[0.0, *counts.tolist()],
    )
    return Summary.Value(tag=tag, histo=proto)


def image(tag: str, encoded: bytes, height: int, width: int) -> Any:
    """A PNG, or a GIF, which TensorBoard animates."""
    proto = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    return Summary.Value(tag=tag, image=proto)


def hparams_start(hparams: Mapping[str, Any], metrics: list[str]) -> list[Any]:
    """Summaries that open a session of the hparams table: its columns (experiment) and this run's values (session
    start)."""
    from tensorboard.plugins.hparams.api_pb2 import Experiment, HParamInfo, MetricInfo, MetricName
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionStartInfo

    session = SessionStartInfo(start_time_secs=time.time())
    columns = []
    for name, value in hparams.items():
        if value is None:
            continue
        if isinstance(value, bool):
            session.hparams[name].bool_value = value
            kind = "DATA_TYPE_BOOL"
        elif isinstance(value, int | float):
            session.hparams[name].number_value = value
            kind = "DATA_TYPE_FLOAT64"
        else:
            session.hparams[name].string_value = str(value)
            kind = "DATA_TYPE_STRING"
        columns.append(HParamInfo(name=name, type=kind))
    scores = [MetricInfo(name=MetricName(tag=tag)) for tag in metrics]
    experiment = Experiment(hparam_infos=columns, metric_infos=scores)
    return [_hparams("experiment", experiment=experiment), _hparams("session_start_info", session_start_info=session)]


def hparams_end(success: bool) -> Any:
    """The summary that closes the session: end time and status."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo

    status = "STATUS_SUCCESS" if success else "STATUS_FAILURE"
    return _hparams("session_end_info", session_end_info=SessionEndInfo(status=status, end_time_secs=time.time()))


def _hparams(name: str, **part: Any) -> Any:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = HParamsPluginData(version=0, **part).SerializeToString()
    return Summary.Value(tag=f"_hparams_/{name}", metadata=_plugin(HPARAMS, content))


def _plugin(name: str, content: bytes) -> Any:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=name, content=content))
