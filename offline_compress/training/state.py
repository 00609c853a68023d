"""What continuing a run needs, in one file that is always complete."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from mtc_perception.util.errors import UserError
from mtc_perception.util.files import replacing, sync

STATE_FILE = "state.pt"
PREVIOUS_STATE_FILE = "state.previous.pt"
REQUIRED = {
    *("recipe", "spec", "step", "model", "optimizer", "average", "scaler"),
    *("best", "best_epoch", "validated_epoch", "ended_epochs", "loss_sums", "loss_count"),
}


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the state in `folder` atomically; the one before it stays as a second chance."""
    current = folder / STATE_FILE
    with replacing(current, durable=True, alone=True) as part:
        with part.open("wb") as file:
            torch.save(state, file)
        sync(part)
        if current.exists():
            os.replace(current, folder / PREVIOUS_STATE_FILE)


def read_state(folder: Path) -> dict[str, Any] | None:
    """The newest state in `folder`; None if there is none. Raises UserError if it is damaged."""
    newest, previous = folder / STATE_FILE, folder / PREVIOUS_STATE_FILE
    path = newest if newest.exists() else previous
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(_damage(path, previous, error)) from None
    if not isinstance(state, dict) or not state.keys() >= REQUIRED:
        raise foreign_state(path)
    return state


def foreign_state(path: Path) -> UserError:
    """The error of a state that another version of this program wrote."""
    return UserError(f"{path} is no state of this version; choose another --out or delete it")


def _damage(path: Path, previous: Path, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if path != previous and previous.exists():
        return f"{path} is damaged ({reason}); delete it to continue from {previous.name}"
    return f"{path} is damaged ({reason}); delete it to begin again"
