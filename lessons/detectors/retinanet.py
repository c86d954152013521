"""RetinaNet (Lin et al., ICCV 2017): one stage, and a loss that lets easy background go.

    pictures -> backbone and pyramid (P3 to P7) -> at every cell, for each of A anchors: K class scores and 4 deltas

A one-stage detector looks at 100,000 anchors of which perhaps 20 are objects. With plain cross-entropy the many easy
ones drown the few that matter; the focal loss multiplies each term by (1 - p_t)^gamma and so keeps the hard ones. The
classifier starts out saying "object" with probability 0.01 everywhere, or the first steps would explode (section 4.1).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lessons.anchors import by_anchor, pyramid_anchors
from lessons.boxes import box_iou
from lessons.coding import decode_boxes, encode_boxes
from lessons.data.sample import Target
from lessons.detectors.one_stage import OneStageDetector
from lessons.images import ImageBatch, ImagePreparation, shape
from lessons.losses import sigmoid_focal_loss, smooth_l1_loss
from lessons.matching import BETWEEN, match_boxes

PRIOR = 0.01  # probability of an object at the start


class Tower(nn.Sequential):
    """`depth` 3 x 3 convolutions, each with a ReLU, that all levels share (section 4, figure 3c and d).

    groups: how many groups of channels group normalisation takes before each ReLU; None for no normalisation.
    """

    def __init__(self, channels: int, depth: int = 4, groups: int | None = None) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth):
            norm = [] if groups is None else [nn.GroupNorm(groups, channels)]
            layers += [begun(nn.Conv2d(channels, channels, 3, padding=1)), *norm, nn.ReLU(inplace=True)]
        super().__init__(*layers)


class RetinaHead(nn.Module):
    """Feature maps -> class logits (B, N, K) and deltas (B, N, 4) for the anchors of all levels together.

    num_classes counts the background, whose score is never a target: each class has a sigmoid of its own.
    """

    def __init__(self, channels: int, anchors: int, num_classes: int, depth: int = 4) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_tower, self.box_tower = Tower(channels, depth), Tower(channels, depth)
        self.cls_logits = begun(nn.Conv2d(channels, anchors * num_classes, 3, padding=1), prior=PRIOR)
        self.bbox_reg = begun(nn.Conv2d(channels, 4 * anchors, 3, padding=1))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits = [by_anchor(self.cls_logits(self.class_tower(f)), self.num_classes) for f in features]
        return logits, [by_anchor(self.bbox_reg(self.box_tower(f)), 4) for f in features]


class RetinaNet(OneStageDetector):
    """The detector (section 4). sizes: for each level the anchors' sizes; aspect_ratios: height / width."""

    high, low = 0.5, 0.4  # IoU from which an anchor is an object, below which background
    alpha, gamma = 0.25, 2.0  # of the focal loss (section 5.1, table 1b); alpha -1 and gamma 0 are cross-entropy

    def __init__(self, backbone: nn.Module, head: RetinaHead, prepare: ImagePreparation,
                 sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float] = (0.5, 1, 2)) -> None:
        super().__init__(backbone, head, prepare)
        self.sizes, self.aspect_ratios = tuple(map(tuple, sizes)), tuple(aspect_ratios)

    def anchors(self, features: Sequence[Tensor], batch: ImageBatch) -> list[Tensor]:
        return pyramid_anchors(features, shape(batch.pixels), self.sizes, self.aspect_ratios)

    def assign(self, anchors: list[Tensor], boxes: Tensor) -> Tensor:
        """The object (N,) that each anchor of all levels learns, -1 for background, -2 for those in between."""
        return match_boxes(box_iou(boxes, torch.cat(anchors)), self.high, self.low, allow_low_quality=True)

    def losses(self, outputs: tuple[Tensor, ...], anchors: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Focal loss of all anchors but those in between, L1 of the objects' boxes; each by a picture's objects."""
        reference, classification, regression = torch.cat(anchors), [], []
        for logits, deltas, target in zip(*outputs, targets, strict=True):
            matches = self.assign(anchors, target["boxes"])
            objects, counted = torch.where(matches >= 0)[0], matches != BETWEEN
            wanted = class_goals(matches, target["labels"], logits.shape[1]).to(logits.dtype)
            focal = sigmoid_focal_loss(logits[counted], wanted[counted], self.alpha, self.gamma, reduction="sum")
            goals = encode_boxes(target["boxes"][matches[objects]], reference[objects])
            classification.append(focal / max(1, len(objects)))
            regression.append(smooth_l1_loss(deltas[objects], goals, beta=0.0, reduction="sum") / max(1, len(objects)))
        return {"classification": torch.stack(classification).mean(), "bbox_regression": torch.stack(regression).mean()}

    def scored(self, outputs: Sequence[Tensor]) -> Tensor:
        return outputs[0].sigmoid()

    def decoded(self, regression: Tensor, anchors: Tensor) -> Tensor:
        return decode_boxes(regression, anchors)


def class_goals(matches: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """What each class's sigmoid shall say, (N, K) of 0 and 1: 1 for the class of the object that a place learns.

    matches: (N,) index of the object, below 0 for none. labels: (G,) of the objects.
    """
    objects = torch.where(matches >= 0)[0]
    wanted = matches.new_zeros((len(matches), num_classes))
    wanted[objects, labels[matches[objects]]] = 1
    return wanted


def begun(convolution: nn.Conv2d, prior: float | None = None) -> nn.Conv2d:
    """The layer with small random weights, and a bias of 0 or one that says "object" with probability `prior`."""
    nn.init.normal_(convolution.weight, std=0.01)
    nn.init.constant_(convolution.bias, 0.0 if prior is None else -math.log((1 - prior) / prior))  # type: ignore[arg-type]
    return convolution
