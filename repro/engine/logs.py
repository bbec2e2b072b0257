"""Training logs that need no backend: TensorBoard events and a CSV file."""

import csv
import io
import time
from pathlib import Path

from repro.files import atomic_write


class EventWriter:
    """TensorBoard scalars without TensorFlow."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder))

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Append scalars at a step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


def write_csv(path: Path, history: dict[str, list[float]]) -> None:
    """One row an epoch; validation scores stand in the rows of their epochs."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(history)
    validated = dict.fromkeys(history["val_epoch"])
    sparse = {key: dict(zip(validated, values, strict=False)) for key, values in history.items() if key[:4] == "val_"}
    for index, epoch in enumerate(history["epoch"]):
        rows.writerow(sparse[key].get(epoch, "") if key in sparse else history[key][index] for key in history)
    atomic_write(path, text.getvalue().encode())
