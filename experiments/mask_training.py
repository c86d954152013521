"""What the experiments on masks share: maps of scenes, heads that learn to draw in true boxes, and their measurement.

All but the question is held still. The body is the lessons' pre-trained one and does not learn; boxes are the true
ones, shaken in training as proposals are; only a small mask head learns. A seed draws other scenes and batches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lessons.backbones.resnet import small_resnet
from lessons.coco_metrics import CocoMetrics
from lessons.data.scenes import CLASSES, Scenes
from lessons.detectors.mask_rcnn import MaskHead
from lessons.images import normalise
from lessons.masks import mask_loss, mask_probabilities, paste_masks, project_masks
from lessons.order import seeded
from lessons.recipes.small_resnet import LESSON as PRE_TRAINED
from lessons.recipes.small_resnet import start_from_pre_trained

SIDE, HIDDEN, DEPTH = 14, 48, 2  # of a region, in bins; of the head's convolutions
STRIDES = (4, 8, 16, 32)  # of the body's stages
Pooling = Callable[[Tensor, list[Tensor], float], Tensor]  # maps, boxes and 1 / stride -> (N, C, SIDE, SIDE)
Loss = Callable[[Tensor, "Scene"], Tensor]


@dataclass(frozen=True)
class Size:
    """Scenes to train and to measure on, and steps of 8 scenes."""

    images: int
    steps: int
    measured: int


FULL, SHORT = Size(160, 200, 60), Size(24, 30, 12)


class Scene(NamedTuple):
    """Scenes as a head sees them: maps (B, C, H, W) and for each scene its N boxes, masks and labels."""

    maps: Tensor
    boxes: list[Tensor]
    masks: list[Tensor]
    labels: list[Tensor]
    side: int = 160  # of the pictures, pixels


def size_of(short: bool) -> Size:
    """The amounts of a run in the notebook (short) or of the stored experiment."""
    return SHORT if short else FULL


@lru_cache(maxsize=2)
def prepared(split: str, count: int, seed: int) -> tuple[list[Tensor], Scene]:
    """The body's maps of all four strides, and the scenes without maps."""
    data = Scenes(split, count, seed=2000 + seed)  # seeds that the lessons' own trainings do not use
    samples = [data[i] for i in range(count)]
    maps = maps_of(torch.stack([image for image, _ in samples]))
    targets = [target for _, target in samples]
    return maps, Scene(maps[0], [t["boxes"] for t in targets], [t["masks"] for t in targets],
                       [t["labels"] for t in targets])


@torch.no_grad()
def maps_of(images: Tensor) -> list[Tensor]:
    """The pre-trained body's maps of all four strides for pictures (B, 3, H, W)."""
    body = small_resnet()
    start_from_pre_trained(body)
    return body.eval()(normalise(images))


def scenes(split: str, count: int, seed: int, stride: int) -> Scene:
    """Scenes of a split with the maps of one stride."""
    maps, rest = prepared(split, count, seed)
    return rest._replace(maps=maps[STRIDES.index(stride)])


def batches(data: Scene, steps: int, seed: int) -> Iterator[Scene]:
    """Batches of 8 scenes whose boxes are shaken: each side by up to a tenth of the box's size."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randperm(len(data.boxes), generator=generator)[:8].tolist()
        boxes = [shaken(data.boxes[i], generator, data.side) for i in chosen]
        yield Scene(data.maps[chosen], boxes, [data.masks[i] for i in chosen], [data.labels[i] for i in chosen],
                    data.side)


def shaken(boxes: Tensor, generator: torch.Generator, side: int) -> Tensor:
    """Boxes (N, 4) xyxy pixels with each side moved by up to a tenth of the width or height, inside the picture."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return (boxes + (torch.rand(boxes.shape, generator=generator) - 0.5) * 0.2 * size).clamp(0, side)


def new_head(channels: int, seed: int, num_classes: int = len(CLASSES), depth: int = DEPTH) -> MaskHead:
    """A small mask head, its first weights drawn from `seed`."""
    with seeded(seed):
        return MaskHead(channels, num_classes, HIDDEN, depth)


class MeanShapes(nn.Module):
    """A head without eyes: in every box it draws the mean mask of the box's class, whatever the picture shows there.

    What a head draws better than this it has read from the map.
    """

    logits: Tensor  # (num_classes, M, M)

    def __init__(self, data: Scene, num_classes: int = len(CLASSES), side: int = 2 * SIDE) -> None:
        super().__init__()
        drawn = [project_masks(masks, boxes, torch.arange(len(boxes)), side)
                 for masks, boxes in zip(data.masks, data.boxes, strict=True)]
        labels = torch.cat(data.labels)
        total = torch.zeros(num_classes, side, side).index_add(0, labels, torch.cat(drawn))
        count = labels.bincount(minlength=num_classes).clamp(min=1)
        self.register_buffer("logits", (total / count[:, None, None]).logit(eps=1e-6))

    def forward(self, regions: Tensor) -> Tensor:
        """Regions (N, C, SIDE, SIDE) -> logits (N, num_classes, M, M)."""
        return self.logits.expand(len(regions), -1, -1, -1)


def standard_loss(logits: Tensor, batch: Scene) -> Tensor:
    """Mask R-CNN's: a sigmoid for each pixel in the mask of the object's class."""
    matched = [torch.arange(len(boxes)) for boxes in batch.boxes]
    return mask_loss(logits, batch.boxes, batch.masks, batch.labels, matched)


def fit(head: nn.Module, pool: Pooling, data: Scene, stride: int, steps: int, seed: int, loss: Loss = standard_loss
        ) -> nn.Module:
    """Trains a head on shaken true boxes; returns it in evaluation mode."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batch in batches(data, steps, seed):
        optimizer.zero_grad()
        loss(head(pool(batch.maps, batch.boxes, 1 / stride)), batch).backward()
        optimizer.step()
        schedule.step()
    return head.eval()


@torch.no_grad()
def measure(head: nn.Module, pool: Pooling, data: Scene, stride: int,
            draw: Callable[[Tensor, list[Tensor]], list[Tensor]] = mask_probabilities) -> dict[str, float]:
    """The mean IoU of masks drawn in true boxes, and their AP, AP50 and AP75."""
    drawn = draw(head(pool(data.maps, data.boxes, 1 / stride)), data.labels)
    metrics, overlaps = CocoMetrics("masks"), []
    for i, (probabilities, boxes) in enumerate(zip(drawn, data.boxes, strict=True)):
        masks, truth = paste_masks(probabilities, boxes, (data.side, data.side)) >= 0.5, data.masks[i]
        overlaps.append(mask_iou(masks[:, 0], truth))
        labels = data.labels[i]
        metrics.update([{"boxes": boxes, "labels": labels, "scores": torch.ones(len(labels)), "masks": masks}],
                       [{"boxes": boxes, "labels": labels, "masks": truth, "area": truth.flatten(1).sum(1).float(),
                         "iscrowd": torch.zeros_like(labels), "image_id": i}])
    found = {"IoU": float(torch.cat(overlaps).mean())} | metrics.compute()
    return {key: round(found[key], 4) for key in ("IoU", "AP", "AP50", "AP75")}


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (N,) of masks (N, H, W) bool, pair by pair; 0 where both are empty."""
    shared, either = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    return shared / either.clamp(min=1)


__all__ = ["PRE_TRAINED", "STRIDES", "MeanShapes", "Scene", "fit", "measure", "new_head", "scenes", "size_of",
           "standard_loss"]
