"""The record of a run: `log.jsonl`, one line per epoch, and TensorBoard's files."""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from mtc_perception.util.files import write_text_atomic

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class RunLog:
    """Context that writes both; what a killed run recorded after its last save is dropped."""

    def __init__(self, folder: Path | None, step: int) -> None:
        """The record in `folder` of a run that goes on after `step`; None: nothing is recorded."""
        self._path, self._board = None, None
        if folder is None:
            return
        self._path = folder / LOG_FILE
        if self._path.exists():
            write_text_atomic(self._path, _rows_until(self._path.read_text(), step))
        self._board = SummaryWriter(str(folder / TENSORBOARD_FOLDER), purge_step=step + 1)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._board:
            self._board.close()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Record numbers under their TensorBoard names."""
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def epoch(self, row: dict[str, Any]) -> None:
        """Record the end of an epoch: `epoch`, `step`, `loss`, `metrics`."""
        if self._path is None or self._board is None:
            return
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for task, figures in row.get("metrics", {}).items():
            numbers = {k: v for k, v in figures.items() if isinstance(v, float)}
            self.scalars(row["step"], {f"{task}/{k}": v for k, v in numbers.items()})
        self._board.flush()


def _rows_until(text: str, step: int) -> str:
    """The complete rows up to `step`."""
    kept = []
    for line in text.splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break  # cut off by a kill
        if row["step"] > step:
            break
        kept.append(line)
    return "".join(kept)
