"""Measuring a detector on a data set."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from lessons.data.sample import collate, to_device


def move(thing: Any, device: torch.device | str) -> Any:
    """A batch (tensors in lists, tuples and dicts, however nested) with its tensors on `device`."""
    if isinstance(thing, torch.Tensor):
        return thing.to(device, non_blocking=True)
    if isinstance(thing, dict):
        return {key: move(value, device) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return type(thing)(move(value, device) for value in thing)
    return thing


def model_device(model: nn.Module) -> torch.device:
    """Where a model's weights are; the CPU for a model without any."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Inside, the model is in evaluation mode; afterwards each of its modules is in the mode in which it was before.

    What is no module (a plain function) has no mode and is left alone.
    """
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _coco_metrics() -> Any:
    from lessons.metrics import CocoMetrics

    return CocoMetrics()


def evaluate(model: nn.Module, dataset: Dataset, metrics: Callable[[], Any] | None = None, batch_size: int = 8,
             progress: bool = True) -> dict[str, float]:
    """Runs a detector over a data set, on the device that it is on, and returns what `metrics` computes of it.

    metrics: makes an object with `update(detections, targets)` and `compute() -> dict`; by default CocoMetrics, whose
    "AP" is the headline. Every process of several evaluates the whole set. Raises ValueError for an empty set.
    """
    length = len(dataset)  # type: ignore[arg-type]
    if length == 0:
        raise ValueError("the data set is empty; there is nothing to evaluate on.")
    measure, device = (metrics or _coco_metrics)(), model_device(model)
    with evaluation_mode(model), torch.no_grad():
        for start in tqdm(range(0, length, batch_size), "evaluating", file=sys.stdout, ascii=True, ncols=100,
                          mininterval=1.0, disable=not progress):
            images, targets = collate([dataset[i] for i in range(start, min(start + batch_size, length))])
            detections = model(move(images, device))
            measure.update([to_device(found, "cpu") for found in detections], targets)
    return measure.compute()
