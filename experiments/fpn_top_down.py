"""When do proposals need the top-down path? (FPN, section 5.1, table 1)

In `fpn_ablation` they are no worse without it, the reverse of the paper's table. Here each suspicion about the reason
changes one thing, for a pyramid with the path and for one without. The last but one gives anchors the size that they
have in the paper, eight cells of their level; the last also widens what a cell sees, without any path: the weights of
the smoothing convolution are spread over 7 x 7 cells.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from experiments.fpn_ablation import SIZES, pyramid, without_top_down_path
from experiments.proposal_training import KeptScenes, Size, average_recalls, train_briefly, train_proposals
from experiments.record import Numbers, wins
from lessons.detectors.faster_rcnn import FasterRCNN
from lessons.evaluation import evaluate, evaluation_mode
from lessons.recipes.small_resnet import LESSON, start_from_pre_trained

CLAIM = "Without the top-down path the proposals of a pyramid cover fewer objects."
PRE_TRAINED = LESSON
FULL, SHORT = Size(300, 250, 100), Size(16, 4, 8)
ANY_THREE = (1, 3, 5)  # of the six classes: birds, hoofed animals, produce


@dataclass(frozen=True)
class Change:
    """What differs from `fpn_ablation`; by default nothing."""

    sizes: tuple[int, ...] = SIZES  # of the anchors on each level, pixels
    longer: int = 1  # times as many steps
    pre_trained: bool = True  # the body
    classes: tuple[int, ...] = ()  # those that count as objects; none: all do
    dilation: int = 1  # of the smoothing convolution
    detector: bool = False  # whether the head is trained, too


def of_cells(count: int) -> tuple[int, ...]:
    """Sizes of anchors, pixels, that measure as many cells on each level; eight in the paper."""
    return tuple(count * stride for stride in (4, 8, 16, 32))


CHANGES = {"as before": Change(), "twice as long": Change(longer=2), "body from nothing": Change(pre_trained=False),
           "three classes of six": Change(classes=ANY_THREE), "whole detector": Change(detector=True),
           "anchors of 6 cells": Change(of_cells(6)), "anchors of 8 cells": Change(of_cells(8)),
           "8 cells, wider view": Change(of_cells(8), dilation=3)}
BUILD: dict[str, Callable[..., FasterRCNN]] = {"path": pyramid, "no path": without_top_down_path}


def run(seed: int, short: bool = False) -> Numbers:
    """Average recall of proposals (of the whole detector AP, too) after the same training; short: a few steps."""
    size = SHORT if short else FULL
    return {f"{name}, {path}": measured(changed(BUILD[path], change, seed), change, size, seed)
            for name, path, change in conditions()}


def conditions() -> Iterator[tuple[str, str, Change]]:
    """Each change with and without the path."""
    return ((name, path, change) for name, change in CHANGES.items() for path in BUILD)


def changed(build: Callable[..., FasterRCNN], change: Change, seed: int) -> FasterRCNN:
    """A pyramid before its training."""
    model = build(seed, change.sizes)
    if change.pre_trained:
        start_from_pre_trained(model.backbone.body)  # type: ignore[arg-type]
    for smooth in model.backbone.fpn.layer_blocks.modules():  # type: ignore[union-attr]
        if isinstance(smooth, nn.Conv2d):
            smooth.dilation = smooth.padding = (change.dilation, change.dilation)
    return model


def measured(model: FasterRCNN, change: Change, size: Size, seed: int) -> dict[str, float]:
    """Trains and measures on the scenes of a seed."""
    longer = Size(size.images, change.longer * size.steps, size.measured)
    if not change.detector:
        train_proposals(model, longer, seed, change.classes)
        return average_recalls(model, size, seed, change.classes)
    train_briefly(model, longer, seed)
    found = evaluate(model, KeptScenes("val", size.measured, 1000 + seed), progress=False)
    return {**{key: round(found[key], 4) for key in ("AP", "AP50")}, **average_recalls(model, size, seed)}


def view(model: FasterRCNN, level: int, side: int = 448) -> int:
    """How wide a square of the picture the objectness of one cell depends on, pixels, by gradients.

    level counts from the finest, 0; side: of the picture, pixels, a multiple of 32 and wider than the answer.
    """
    picture = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with evaluation_mode(model):
        feature = model.backbone(picture)[level]
        objectness = model.rpn.predict([feature])[0].view(*feature.shape[-2:], -1)
    middle = len(objectness) // 2
    gradient, = torch.autograd.grad(objectness[middle, middle].sum(), picture)
    columns = gradient.abs().sum(dim=(0, 1, 2)).nonzero()
    return int(columns.max() - columns.min()) + 1


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Under which changes the path helps."""
    def helps(name: str) -> bool:
        return wins(per_seed, f"{name}, path", f"{name}, no path", "AR100")

    return {**{f"{name}: the path helps proposals": helps(name) for name in CHANGES},
            "8 cells: a wider view alone helps, without a path":
                wins(per_seed, "8 cells, wider view, no path", "anchors of 8 cells, no path", "AR100")}
