"""The state of a training on disk: one file per saved step, `step-000340-<checksum>.safetensors`.

Everything stands in the one file (tensors, and the rest as JSON in its header), and the file's name carries the
checksum of its content: there is no pair of files that a power cut could part. The newest two are kept.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lessons.checkpoints import CheckpointError, Tensors, deserialise, serialise, write_atomically

STATE_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.safetensors")
KEPT = 2  # the newest, and the one before it in case the newest is damaged


def save_state(folder: Path, step: int, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> Path:
    """Writes the state after `step` steps, then removes all but the newest two; returns the file's path."""
    blob = serialise(tensors, json.dumps(dict(notes)))
    path = folder / f"step-{step:06d}-{_checksum(blob)}.safetensors"
    write_atomically(path, blob)
    for old in state_files(folder)[KEPT:]:
        old.unlink()
    return path


def load_state(folder: Path) -> tuple[Tensors, dict[str, Any]] | None:
    """Tensors and notes of the newest whole state in `folder`, or None where there is no state at all.

    A damaged one is set aside (renamed to .damaged) with a warning and the one before it is taken.
    Raises CheckpointError where every one is damaged.
    """
    files = state_files(folder)
    for path in files:
        try:
            return read_state(path)
        except CheckpointError as error:
            path.rename(path.with_name(path.name + ".damaged"))
            warnings.warn(f"{error} It is set aside and the state before it is taken.", stacklevel=2)
    if files:
        raise CheckpointError(f"Every saved state in {folder} is damaged; begin anew without resume.")
    return None


def read_state(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and notes of one state. Raises CheckpointError where its content does not have its name's checksum."""
    blob = path.read_bytes()
    match = STATE_NAME.fullmatch(path.name)
    if match is None or _checksum(blob) != match[2]:
        raise CheckpointError(f"The saved state {path} is damaged.")
    tensors, notes = deserialise(blob, path)
    return tensors, json.loads(notes)


def state_files(folder: Path) -> list[Path]:
    """The saved states of a folder, newest first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := STATE_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def remove_states(folder: Path) -> None:
    """Removes the saved states of a folder, and nothing else in it."""
    for path in state_files(folder):
        path.unlink()


def _checksum(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()[:16]


# --- many dicts of tensors in one file ---------------------------------------------------------------------------


def join(**parts: Mapping[str, Tensor]) -> Tensors:
    """One dict of all tensors: `join(model={"weight": w})` is {"model.weight": w}."""
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], name: str) -> Tensors:
    """One of the dicts that `join` took (the order is the file's)."""
    return {key.removeprefix(name + "."): tensor for key, tensor in tensors.items() if key.startswith(name + ".")}


# --- the optimiser's state as named tensors ----------------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """The optimiser's state: its tensors by name "parameter.entry" (as "3.exp_avg"), and its plain numbers likewise.

    Raises ValueError for an optimiser that keeps anything else.
    """
    tensors: Tensors = {}
    numbers: dict[str, Any] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            elif value is None or isinstance(value, int | float):
                numbers[f"{index}.{name}"] = value
            else:
                raise ValueError(f"{type(optimizer).__name__} keeps a {type(value).__name__} as {name!r}; "
                                 "only tensors and numbers can be saved.")
    return tensors, numbers


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Gives the optimiser the state that `optimizer_tensors` returned; its own settings stay."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers}.items():
        index, name = key.split(".", 1)
        # a copy, since the optimiser goes on to change it in place
        state.setdefault(int(index), {})[name] = value.clone() if isinstance(value, Tensor) else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
