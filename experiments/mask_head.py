"""Which mask head? Its depth, what it predicts and what its loss weighs (Mask R-CNN, section 3 and tables 2b and 2e).

The paper: a sigmoid per class 30.3 AP of masks, one softmax over the classes 24.8 (table 2b); one mask for all classes
29.7 (section 4.2); convolutions 33.6, fully connected layers 31.5 (table 2e). It sweeps neither depth nor loss weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.mask_roi import align
from experiments.mask_training import (
    HIDDEN,
    PRE_TRAINED,
    SIDE,
    Scene,
    fit,
    measure,
    new_head,
    scenes,
    size_of,
    standard_loss,
)
from experiments.record import Numbers, wins
from lessons.data.scenes import CLASSES
from lessons.masks import project_masks
from lessons.order import seeded

CLAIM = "Masks are best drawn by convolutions, with a sigmoid of its own for each class."
STRIDE, CHANNELS = 8, 96
DEPTHS, WEIGHTS = (1, 2, 4), (0.1, 1.0, 10.0)


class FullyConnected(nn.Module):
    """Regions (R, C, 14, 14) -> mask logits (R, K, 28, 28) by two layers that know no places (table 2e: "MLP")."""

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(channels * SIDE**2, hidden), nn.ReLU(),
                                    nn.Linear(hidden, len(CLASSES) * (2 * SIDE) ** 2))

    def forward(self, regions: Tensor) -> Tensor:
        return self.layers(regions).view(len(regions), len(CLASSES), 2 * SIDE, 2 * SIDE)


class TwoTasks(nn.Module):
    """One convolution that both a classifier and a mask head build on, so that their losses compete."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with seeded(seed):
            self.trunk = nn.Sequential(nn.Conv2d(CHANNELS, HIDDEN, 3, padding=1), nn.ReLU())
            self.names = nn.Linear(HIDDEN * (SIDE // 2) ** 2, len(CLASSES))
        self.masks = new_head(HIDDEN, seed, depth=1)

    def forward(self, regions: Tensor) -> Tensor:
        """Mask logits; the class scores (R, K) of the same regions are left in `scores`."""
        shared = self.trunk(regions)
        self.scores = self.names(F.max_pool2d(shared, 2).flatten(1))
        return self.masks(shared)


def targets_of(batch: Scene) -> Tensor:
    """The true masks in their boxes, (R, 28, 28)."""
    return torch.cat([project_masks(masks, boxes, torch.arange(len(boxes)), 2 * SIDE)
                      for masks, boxes in zip(batch.masks, batch.boxes, strict=True)])


def softmax_loss(logits: Tensor, batch: Scene) -> Tensor:
    """Each pixel belongs to one class, or to the background: classes compete."""
    inside, labels = targets_of(batch) >= 0.5, torch.cat(batch.labels)
    return F.cross_entropy(logits, inside * labels[:, None, None])


def softmax_masks(logits: Tensor, labels: list[Tensor]) -> list[Tensor]:
    """The probability of the object's class at each pixel, (n, 1, M, M) for each scene."""
    p = logits.softmax(1)[torch.arange(len(logits)), torch.cat(labels)]
    return list(p[:, None].split([len(label) for label in labels]))


def agnostic_loss(logits: Tensor, batch: Scene) -> Tensor:
    """One mask, whatever the class."""
    return F.binary_cross_entropy_with_logits(logits[:, 0], targets_of(batch))


def agnostic_masks(logits: Tensor, labels: list[Tensor]) -> list[Tensor]:
    """The only mask, (n, 1, M, M) for each scene."""
    return list(logits.sigmoid().split([len(label) for label in labels]))


def run(seed: int, short: bool = False) -> Numbers:
    """Heads of every kind on the same regions of a map of stride 8, cut out by RoIAlign."""
    size, results = size_of(short), {}
    train, val = scenes("train", size.images, seed, STRIDE), scenes("val", size.measured, seed, STRIDE)
    for depth in DEPTHS:
        head = fit(new_head(CHANNELS, seed, depth=depth), align, train, STRIDE, size.steps, seed)
        results[f"{depth} convolutions"] = measure(head, align, val, STRIDE)
    with seeded(seed):
        connected = FullyConnected(CHANNELS)
    results["fully connected"] = measure(fit(connected, align, train, STRIDE, size.steps, seed), align, val, STRIDE)
    head = fit(new_head(CHANNELS, seed), align, train, STRIDE, size.steps, seed, softmax_loss)
    results["softmax over classes"] = measure(head, align, val, STRIDE, softmax_masks)
    head = fit(new_head(CHANNELS, seed, num_classes=1), align, train, STRIDE, size.steps, seed, agnostic_loss)
    results["one mask for all classes"] = measure(head, align, val, STRIDE, agnostic_masks)
    for weight in WEIGHTS:
        results[f"mask loss x {weight:g}"] = two_tasks(weight, train, val, size.steps, seed)
    return results


def two_tasks(weight: float, train: Scene, val: Scene, steps: int, seed: int) -> dict[str, float]:
    """A shared convolution that learns classes and masks: numbers of the masks, and the share of right classes."""
    model = TwoTasks(seed)

    def loss(logits: Tensor, batch: Scene) -> Tensor:
        return F.cross_entropy(model.scores, torch.cat(batch.labels)) + weight * standard_loss(logits, batch)

    numbers = measure(fit(model, align, train, STRIDE, steps, seed, loss), align, val, STRIDE)
    right = model.scores.argmax(1) == torch.cat(val.labels)
    return numbers | {"classes": round(float(right.float().mean()), 4)}


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The paper's comparisons, and two that it does not make."""
    standard = "2 convolutions"
    return {"a sigmoid per class beats a softmax over classes": wins(per_seed, standard, "softmax over classes", "IoU"),
            "a mask per class beats one for all": wins(per_seed, standard, "one mask for all classes", "IoU"),
            "convolutions beat fully connected layers": wins(per_seed, standard, "fully connected", "IoU"),
            "2 convolutions beat 1": wins(per_seed, standard, "1 convolutions", "IoU"),
            "4 convolutions beat 2": wins(per_seed, "4 convolutions", standard, "IoU"),
            "ten times the mask loss costs classes": wins(per_seed, "mask loss x 1", "mask loss x 10", "classes"),
            "a tenth of the mask loss costs masks": wins(per_seed, "mask loss x 1", "mask loss x 0.1", "IoU")}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
