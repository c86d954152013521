"""Weights on disk: safetensors files, written whole or not at all, each with a card that says how it was made.

A card is a JSON file beside the weights (`rcnn.safetensors`, `rcnn.json`). Whoever trained says "seed", "data" (its
`data_hash`), "steps", "seconds", "device" and "metrics"; the command, torch's version, size and checksum are added
here. Nothing is ever pickled, so reading a file can run no code.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

Tensors = dict[str, Tensor]


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or does not fit; the text is one sentence for the reader."""


def save_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any],
                    dtype: torch.dtype | None = None) -> Path:
    """Writes `tensors` to `path` (ending in .safetensors) and `card` beside it (.json); returns the path.

    dtype: floating tensors are stored in it, for shipped files torch.float16; None keeps each as it is.
    Raises ValueError for another ending, for NaN, and for a value that is too large for `dtype`.
    """
    path = _weights_path(path)
    blob = serialise({name: _stored(name, tensor, dtype) for name, tensor in tensors.items()})
    added = {"command": command_line(), "torch": torch.__version__, "bytes": len(blob),
             "sha256": hashlib.sha256(blob).hexdigest()}
    text = json.dumps({**added, **card, "bytes": added["bytes"], "sha256": added["sha256"]}, indent=1)
    write_atomically(path, blob)
    write_atomically(path.with_suffix(".json"), (text + "\n").encode())
    return path


def load_checkpoint(path: str | Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of `path`, floating ones as float32, on the CPU, and the card beside it.

    Raises CheckpointError, one sentence, where the file or its card is missing, or the file's sha256 is not the card's.
    """
    path = _weights_path(path)
    card_path = path.with_suffix(".json")
    for wanted in (path, card_path):
        if not wanted.is_file():
            raise CheckpointError(f"There is no {wanted}; a checkpoint is a .safetensors file with its .json card.")
    try:
        card = json.loads(card_path.read_text())
        expected = card["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"The card {card_path} is no JSON object with a sha256 ({error!r}).") from None
    blob = path.read_bytes()
    if hashlib.sha256(blob).hexdigest() != expected:
        raise CheckpointError(f"{path} is damaged or belongs to another card: its sha256 is not that in {card_path}.")
    tensors, _ = deserialise(blob, path)
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}, card


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copies `tensors` into `model`: every entry of its state must be there in its shape, and none may be left over.

    source: what the tensors are, for the message. Raises CheckpointError that lists every entry in question.
    """
    state = model.state_dict()
    missing = [name for name in state if name not in tensors]
    unexpected = [name for name in tensors if name not in state]
    shapes = [f"{name} {tuple(tensors[name].shape)} instead of {tuple(state[name].shape)}"
              for name in state if name in tensors and tensors[name].shape != state[name].shape]
    faults = [f"{what}: {', '.join(names)}" for what, names in
              (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes)) if names]
    if faults:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: {'; '.join(faults)}.")
    model.load_state_dict(dict(tensors))


def command_line() -> str:
    """The command that runs now, with `-m` modules by their name instead of their path, for a card."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"-m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name
    return " ".join(["python", program, *sys.argv[1:]]).strip()


def data_hash(dataset: Dataset, samples: int = 16) -> str:
    """Sixteen hexadecimal digits that tell one data set from another, for a card.

    Taken from the length and up to `samples` evenly spaced samples: pixels rounded to bytes, boxes and labels; a sample
    may also be a picture and its one label.
    """
    length = len(dataset)  # type: ignore[arg-type]
    digest = hashlib.sha256(str(length).encode())
    for i in range(min(samples, length)):
        image, target = dataset[i * length // min(samples, length)]
        pixels = (image * 255).round().to(torch.uint8)
        truth = [target[k] for k in ("boxes", "labels")] if isinstance(target, dict) else [torch.tensor(target)]
        for tensor in (pixels, *truth):
            digest.update(str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


# --- files -------------------------------------------------------------------------------------------------------


def serialise(tensors: Mapping[str, Tensor], notes: str = "") -> bytes:
    """The bytes of a safetensors file with `tensors` and, in its header, a text `notes`."""
    from safetensors.torch import save

    # cloned, since safetensors refuses tensors that share memory (tied weights)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(plain, metadata={"notes": notes} if notes else None)


def deserialise(blob: bytes, path: str | Path) -> tuple[Tensors, str]:
    """Tensors and notes of a safetensors file's bytes. Raises CheckpointError naming `path` where it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(blob)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no whole safetensors file ({error}).") from None
    header = json.loads(blob[8:8 + int.from_bytes(blob[:8], "little")])
    return tensors, header.get("__metadata__", {}).get("notes", "")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that at any moment, power cuts included, either the old or the new one stands there whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # a full disk, or Ctrl-C
        part.unlink(missing_ok=True)
        raise


def _weights_path(path: str | Path) -> Path:
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"a checkpoint's name ends in .safetensors, got {str(path)!r}.")
    return Path(path)


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    if tensor.isnan().any():
        raise ValueError(f"{name} holds NaN; such weights are not saved.")
    stored = tensor if dtype is None else tensor.to(dtype)
    if not torch.equal(stored.isinf(), tensor.isinf()):
        raise ValueError(f"{name} holds {tensor.abs().max().item():g}, too large for {dtype}.")
    return stored
