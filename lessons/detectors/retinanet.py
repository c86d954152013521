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

from lessons.anchors import anchor_grid
from lessons.boxes import box_iou, clip_boxes_to_image
from lessons.coding import decode_boxes, encode_boxes
from lessons.data.sample import Target
from lessons.detectors.faster_rcnn import Detections, by_anchor
from lessons.images import ImageBatch, ImagePreparation, resize_boxes, shape
from lessons.losses import sigmoid_focal_loss, smooth_l1_loss
from lessons.matching import match_boxes
from lessons.nms import batched_nms

PRIOR = 0.01  # probability of an object at the start


class Tower(nn.Sequential):
    """Four 3 x 3 convolutions, each with a ReLU, that all levels share (section 4, figure 3c and d).

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

    def __init__(self, channels: int, anchors: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_tower, self.box_tower = Tower(channels), Tower(channels)
        self.cls_logits = begun(nn.Conv2d(channels, anchors * num_classes, 3, padding=1), prior=PRIOR)
        self.bbox_reg = begun(nn.Conv2d(channels, 4 * anchors, 3, padding=1))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits = [by_anchor(self.cls_logits(self.class_tower(f)), self.num_classes) for f in features]
        return logits, [by_anchor(self.bbox_reg(self.box_tower(f)), 4) for f in features]


class OneStageDetector(nn.Module):
    """What RetinaNet and FCOS share: torchvision's calling convention, and choosing detections level by level.

    model(images, targets) -> dict of losses in training; model(images) -> list of dict(boxes, labels, scores) in
    evaluation, boxes xyxy in the pixels of the given pictures. A subclass says what is predicted, learnt and decoded.
    """

    score_threshold, nms_threshold, max_detections, max_candidates = 0.05, 0.5, 300, 1000

    def __init__(self, backbone: nn.Module, head: nn.Module, prepare: ImagePreparation) -> None:
        super().__init__()
        self.backbone, self.head, self.prepare = backbone, head, prepare

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> dict | Detections:
        if self.training and targets is None:
            raise ValueError("training needs targets: model(images, targets).")
        batch, adapted = self.prepare(images, targets if self.training else None, self.training)
        features = self.backbone(batch.pixels)
        outputs, anchors = self.head(features), self.anchors(features, batch)
        if self.training:
            return self.losses(tuple(torch.cat(levels, dim=1) for levels in outputs), anchors, adapted)
        return [self.detect([[level[i] for level in levels] for levels in outputs], anchors, size, original)
                for i, (size, original) in enumerate(zip(batch.sizes, batch.originals, strict=True))]

    def anchors(self, features: Sequence[Tensor], batch: ImageBatch) -> list[Tensor]:
        """The reference boxes (N, 4) of each level, in the order of the predictions."""
        raise NotImplementedError

    def losses(self, outputs: tuple[Tensor, ...], anchors: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """The losses of a batch, outputs (B, N, ...) of all levels together."""
        raise NotImplementedError

    def scored(self, outputs: Sequence[Tensor]) -> Tensor:
        """Scores (N, K) of one picture's level, from what the head says of it."""
        raise NotImplementedError

    def decoded(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (N, 4) from regressed numbers."""
        raise NotImplementedError

    def detect(self, outputs: list[list[Tensor]], anchors: list[Tensor], size: tuple[int, int],
               original: tuple[int, int]) -> dict[str, Tensor]:
        """One picture's detections, best first: the best candidates of each level, then NMS in each class."""
        boxes, scores, labels = [], [], []
        for *level, reference in zip(*outputs, anchors, strict=True):
            score = self.scored(level).flatten()
            likely = torch.where(score > self.score_threshold)[0]
            best = score[likely].topk(min(self.max_candidates, len(likely)))
            place, classes = likely[best.indices], level[0].shape[-1]
            anchor = place.div(classes, rounding_mode="floor")
            boxes.append(clip_boxes_to_image(self.decoded(level[1][anchor], reference[anchor]), size))
            scores.append(best.values)
            labels.append(place % classes)
        box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        keep = batched_nms(box, score, label, self.nms_threshold)[: self.max_detections]
        return {"boxes": resize_boxes(box[keep], size, original), "scores": score[keep], "labels": label[keep]}


class RetinaNet(OneStageDetector):
    """The detector (section 4). sizes: for each level the anchors' sizes; aspect_ratios: height / width."""

    high, low = 0.5, 0.4  # IoU from which an anchor is an object, below which background

    def __init__(self, backbone: nn.Module, head: RetinaHead, prepare: ImagePreparation,
                 sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float] = (0.5, 1, 2)) -> None:
        super().__init__(backbone, head, prepare)
        self.sizes, self.aspect_ratios = tuple(map(tuple, sizes)), tuple(aspect_ratios)

    def anchors(self, features: Sequence[Tensor], batch: ImageBatch) -> list[Tensor]:
        height, width = shape(batch.pixels)
        return [anchor_grid(shape(f), (height // f.shape[-2], width // f.shape[-1]), sizes, self.aspect_ratios,
                            dtype=f.dtype, device=f.device)
                for f, sizes in zip(features, self.sizes, strict=True)]

    def losses(self, outputs: tuple[Tensor, ...], anchors: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Focal loss of all anchors but those in between, L1 of the objects' boxes; each by a picture's objects."""
        reference, classification, regression = torch.cat(anchors), [], []
        for logits, deltas, target in zip(*outputs, targets, strict=True):
            matches = match_boxes(box_iou(target["boxes"], reference), self.high, self.low, allow_low_quality=True)
            objects, counted = torch.where(matches >= 0)[0], matches != -2
            wanted = torch.zeros_like(logits)
            wanted[objects, target["labels"][matches[objects]]] = 1.0
            focal = sigmoid_focal_loss(logits[counted], wanted[counted], reduction="sum")
            goals = encode_boxes(target["boxes"][matches[objects]], reference[objects])
            classification.append(focal / max(1, len(objects)))
            regression.append(smooth_l1_loss(deltas[objects], goals, beta=0.0, reduction="sum") / max(1, len(objects)))
        return {"classification": torch.stack(classification).mean(), "bbox_regression": torch.stack(regression).mean()}

    def scored(self, outputs: Sequence[Tensor]) -> Tensor:
        return outputs[0].sigmoid()

    def decoded(self, regression: Tensor, anchors: Tensor) -> Tensor:
        return decode_boxes(regression, anchors)


def begun(convolution: nn.Conv2d, prior: float | None = None) -> nn.Conv2d:
    """The layer with small random weights, and a bias of 0 or one that says "object" with probability `prior`."""
    nn.init.normal_(convolution.weight, std=0.01)
    nn.init.constant_(convolution.bias, 0.0 if prior is None else -math.log((1 - prior) / prior))  # type: ignore[arg-type]
    return convolution
