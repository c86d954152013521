"""FCOS (Tian et al., ICCV 2019): one stage without anchors, every point inside an object answers for it.

    pictures -> backbone and pyramid (P3 to P7) -> at every cell: K class scores, 4 distances, 1 centre-ness

A cell is a point in the picture. Points inside an object's box learn its class and how far the four sides are away; the
pyramid decides by that distance which level is responsible, which leaves few points with two objects. Points near the
rim see little of the object and draw poor boxes: a third output, the centre-ness, learns to say so, and lowers their
score before NMS (section 3.3).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.anchors import by_anchor, pyramid_anchors
from lessons.coding import decode_ltrb, encode_ltrb
from lessons.data.sample import Target
from lessons.detectors.one_stage import OneStageDetector
from lessons.detectors.retinanet import PRIOR, Tower, begun
from lessons.images import ImageBatch, ImagePreparation, shape
from lessons.losses import generalized_box_iou_loss, sigmoid_focal_loss
from lessons.matching import fcos_ranges, fcos_targets


class FCOSHead(nn.Module):
    """Feature maps -> for each level class logits (B, N, K), distances (B, N, 4) >= 0 and centre-ness logits (B, N, 1).

    num_classes counts the background, whose score is never a target. Distances are in units of the level's stride.
    """

    def __init__(self, channels: int, num_classes: int, groups: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_tower, self.box_tower = Tower(channels, depth, groups), Tower(channels, depth, groups)
        self.cls_logits = begun(nn.Conv2d(channels, num_classes, 3, padding=1), prior=PRIOR)
        self.bbox_reg = begun(nn.Conv2d(channels, 4, 3, padding=1))
        self.bbox_ctrness = begun(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        logits = [by_anchor(self.cls_logits(self.class_tower(f)), self.num_classes) for f in features]
        towers = [self.box_tower(f) for f in features]
        distances = [by_anchor(F.relu(self.bbox_reg(t)), 4) for t in towers]
        return logits, distances, [by_anchor(self.bbox_ctrness(t), 1) for t in towers]


class FCOS(OneStageDetector):
    """The detector (section 3). strides: of the pyramid's levels, pixels.

    Points stand where torchvision's do, at stride * i, as centres of squares of the stride's side; the paper's are half
    a stride further right and down (section 3.1).
    """

    score_threshold, nms_threshold, max_detections = 0.2, 0.6, 100
    reach = 8.0  # strides; how far a side may be from a level's points, half of it at least (section 3.2)
    radius = 1.5  # strides from an object's centre within which points learn it (the authors' later improvement)

    def __init__(self, backbone: nn.Module, head: FCOSHead, prepare: ImagePreparation, strides: Sequence[int]) -> None:
        super().__init__(backbone, head, prepare)
        self.strides = tuple(strides)

    def anchors(self, features: Sequence[Tensor], batch: ImageBatch) -> list[Tensor]:
        return pyramid_anchors(features, shape(batch.pixels), [(stride,) for stride in self.strides], (1.0,))

    def assign(self, anchors: list[Tensor], boxes: Tensor) -> Tensor:
        """The object (N,) that each point of all levels answers for, -1 for none."""
        squares = torch.cat(anchors)
        strides = squares[:, 2] - squares[:, 0]
        return fcos_targets(boxes, (squares[:, :2] + squares[:, 2:]) / 2, strides, fcos_ranges(strides, self.reach),
                            self.radius)

    def losses(self, outputs: tuple[Tensor, ...], anchors: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Focal loss everywhere, GIoU and centre-ness at points with an object; all by their number (equation 2)."""
        logits, distances, centreness = outputs
        matches = torch.stack([self.assign(anchors, target["boxes"]) for target in targets])  # (B, N)
        inside = matches >= 0
        labels, truth = (torch.cat([target[key][m[i]] for target, m, i in zip(targets, matches, inside, strict=True)])
                         for key in ("labels", "boxes"))
        wanted = torch.zeros_like(logits)
        wanted[(*torch.where(inside), labels)] = 1.0
        squares = torch.cat(anchors).expand(len(targets), -1, -1)[inside]
        goals = centreness_of(encode_ltrb(truth, squares))
        count = max(1, int(inside.sum()))
        near = F.binary_cross_entropy_with_logits(centreness[..., 0][inside], goals, reduction="sum")
        return {"classification": sigmoid_focal_loss(logits, wanted, reduction="sum") / count,
                "bbox_regression": self.box_loss(distances[inside], squares, truth) / count,
                "bbox_ctrness": near / count}

    def box_loss(self, distances: Tensor, squares: Tensor, truth: Tensor) -> Tensor:
        """The sum of 1 - GIoU of true boxes (P, 4) and those that distances (P, 4) make of points' squares (P, 4)."""
        return generalized_box_iou_loss(decode_ltrb(distances, squares), truth, reduction="sum")

    def scored(self, outputs: Sequence[Tensor]) -> Tensor:
        """The geometric mean of class and centre-ness (the authors' code; the paper multiplies them)."""
        return (outputs[0].sigmoid() * outputs[2].sigmoid()).sqrt()

    def decoded(self, regression: Tensor, anchors: Tensor) -> Tensor:
        return decode_ltrb(regression, anchors)


def centreness_of(distances: Tensor) -> Tensor:
    """How central a point is, (N,) in [0, 1], from its distances l, t, r, b (N, 4) to the sides (equation 3)."""
    left_right, top_bottom = distances[:, 0::2], distances[:, 1::2]
    ratio = left_right.amin(1) / left_right.amax(1) * (top_bottom.amin(1) / top_bottom.amax(1))
    return ratio.sqrt()
