"""A file of TensorBoard's events, written at once: what torch's writer does in a thread fails where nobody hears it."""

from __future__ import annotations

import os
import socket
import time
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from mtdiff_core.files import explained

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class EventFile:
    """A new file of events in a folder.

    Args:
        folder: Where; it is made if need be. TensorBoard reads its files in the order of their names: by their time.
        hidden_from: From this step on, what earlier files of the folder hold does not count.

    Raises:
        UserError: It cannot be written, such as on a full disk; here, and by what adds to it.
    """

    def __init__(self, folder: Path, hidden_from: int) -> None:
        now = time.time()
        self.path = folder / f"events.out.tfevents.{now:017.6f}.{socket.gethostname()}.{os.getpid()}"
        with explained("cannot make the folder of the curves", folder):
            folder.mkdir(exist_ok=True)
        self._append(
            Event(wall_time=now, file_version="brain.Event:2"),
            Event(wall_time=now, step=hidden_from, session_log=SessionLog(status=SessionLog.START)),
        )

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append points of curves, by their names."""
        self._add(step, *(Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()))

    def add_picture(self, step: int, name: str, png: Path) -> None:
        """Append a picture, which is copied from a PNG file."""
        with Image.open(png) as picture:
            width, height = picture.size
        shown = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png.read_bytes())
        self._add(step, Summary.Value(tag=name, image=shown))

    def _add(self, step: int, *values: Summary.Value) -> None:
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _append(self, *events: Event) -> None:
        records = BytesIO()
        writer = RecordWriter(records)
        for event in events:
            writer.write(event.SerializeToString())
        with explained("cannot write the curves", self.path), self.path.open("ab") as file:
            file.write(records.getvalue())
