"""What a training was asked to do: refuse what makes no sense, tell one training from another, open the device."""

import hashlib
import math
import os
import struct
from typing import TYPE_CHECKING, Any

import torch

from lessons.checkpoints import CheckpointError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from lessons.training import Trainer

# settings of an optimiser that change how fast it computes, not what
_SPEED_ONLY = {"params", "lr", "foreach", "fused", "capturable", "differentiable"}


def check_settings(trainer: "Trainer") -> None:
    """Raises ValueError, one sentence with the offending value, for settings that make no sense."""
    for name, least in (("steps", 1), ("batch_size", 1), ("save_every", 1), ("workers", 0), ("seed", 0)):
        value = getattr(trainer, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number from {least}, got {value!r}.")
    if len(trainer.dataset) == 0:  # type: ignore[arg-type]
        raise ValueError("the data set is empty; there is nothing to train on.")
    if not callable(trainer.schedule):
        raise ValueError(f"schedule must be a function step -> factor, such as those that constant(), cosine(...), "
                         f"linear(...) and stepwise(...) of lessons.schedules make, got {trainer.schedule!r}.")
    if trainer.clip_norm is not None and not trainer.clip_norm > 0:
        raise ValueError(f"clip_norm must be positive or None, got {trainer.clip_norm!r}.")
    if trainer.ema_decay is not None and not 0 < trainer.ema_decay < 1:
        raise ValueError(f"ema_decay must lie between 0 and 1 or be None, got {trainer.ema_decay!r}.")
    _check_parameters(trainer)
    check_device(trainer.device, trainer.mixed_precision)


def _check_parameters(trainer: "Trainer") -> None:
    """An optimiser made for another model (or for this one before a copy) would train nothing, without a word."""
    own = {id(parameter) for parameter in trainer.model.parameters()}
    for group in trainer.optimizer.param_groups:
        if any(id(parameter) not in own for parameter in group["params"]):
            raise ValueError("the optimiser holds parameters of another model; make it from model.parameters().")


def check_device(device: str | torch.device | None, mixed_precision: str = "no") -> None:
    """Raises ValueError for a device that is not here, and for a precision that it does not have."""
    if mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"mixed_precision must be 'no', 'bf16' or 'fp16', got {mixed_precision!r}.")
    kind, here = None if device is None else str(device).removesuffix(":0"), _devices()
    if kind is not None and kind not in here:
        raise ValueError(f"device {str(device)!r} is not to be had; here are {', '.join(here)} "
                         "(CUDA_VISIBLE_DEVICES chooses among several GPUs).")
    if mixed_precision == "fp16" and (kind or here[-1]) == "cpu":
        raise ValueError("mixed_precision 'fp16' needs a GPU; on the CPU use 'bf16' or 'no'.")


def open_accelerator(device: str | torch.device | None, mixed_precision: str) -> "Accelerator":
    """Accelerate's view of the devices and processes. Each training may choose its own device and precision.

    Accelerate keeps the first choice for the life of a process, but a notebook makes many; hence the reset. Raises
    ValueError where several processes were started and do not find each other.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(cpu=(device is None and _devices() == ["cpu"]) or str(device) == "cpu",
                              mixed_precision=mixed_precision)
    started = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != started:
        raise ValueError(f"{started} processes were started, but accelerate joined {accelerator.num_processes}.")
    return accelerator


def _devices() -> list[str]:
    """The kinds of device that are here."""
    kinds = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [kind for kind, here in kinds.items() if here]


def training_settings(trainer: "Trainer") -> dict[str, Any]:
    """Everything that decides the result, as plain values: two trainings with equal settings are the same training.

    Raises ValueError where the schedule gives a factor that is no number, negative or not finite.
    """
    groups = [{name: value for name, value in group.items() if name not in _SPEED_ONLY}
              for group in trainer.optimizer.param_groups]
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    return {
        **{name: str(value) for name, value in trainer.notes.items()},  # first: none takes the place of a setting
        "steps": trainer.steps, "batch_size": trainer.batch_size, "seed": trainer.seed,
        "data set": " ".join(str(getattr(trainer.dataset, name, "")) for name in ("name", "split")).strip(),
        "number of samples": len(trainer.dataset),  # type: ignore[arg-type]
        "optimiser": f"{type(trainer.optimizer).__name__} {groups}", "learning rate": str(rates),
        "schedule": _schedule_digest(trainer),
        "clip_norm": trainer.clip_norm, "ema_decay": trainer.ema_decay, "mixed_precision": trainer.mixed_precision,
    }


def _schedule_digest(trainer: "Trainer") -> str:
    """A schedule is a function, which cannot be compared; the factors that it gives can."""
    factors = [trainer.schedule(step) for step in range(trainer.steps)]
    for step, factor in enumerate(factors):
        if not (isinstance(factor, int | float) and math.isfinite(factor) and factor >= 0):
            raise ValueError(f"the schedule gives {factor} at step {step}; a factor is a number, finite and not "
                             "negative.")
    return hashlib.sha256(struct.pack(f"{len(factors)}d", *factors)).hexdigest()[:16]


def check_same_settings(saved: dict[str, Any], now: dict[str, Any], where: object) -> None:
    """Raises CheckpointError naming each setting in which a saved training differs from this one."""
    differences = [f"{name} (saved: {saved.get(name)}, now: {now.get(name)})"
                   for name in {**now, **saved} if saved.get(name) != now.get(name)]
    if differences:
        raise CheckpointError(f"The training saved in {where} cannot be resumed with other settings: "
                              f"{'; '.join(differences)}.")
