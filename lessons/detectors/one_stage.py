"""What one-stage detectors have in common: every cell of every level predicts, and the best predictions are kept.

RetinaNet and FCOS differ in what a cell predicts, what it learns and how its numbers become a box; the rest is here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lessons.boxes import clip_boxes_to_image
from lessons.data.sample import Detections, Target
from lessons.images import ImageBatch, ImagePreparation, resize_boxes
from lessons.nms import batched_nms


class OneStageDetector(nn.Module):
    """What RetinaNet and FCOS share: torchvision's calling convention, and choosing detections level by level.

    model(images, targets) -> dict of losses in training; model(images) -> list of dict(boxes, labels, scores) in
    evaluation, boxes xyxy in the pixels of the given pictures. A subclass says what is predicted, learnt and decoded.
    """

    score_threshold, nms_threshold, max_detections, max_candidates = 0.05, 0.5, 300, 1000

    def __init__(self, backbone: nn.Module, head: nn.Module, prepare: ImagePreparation) -> None:
        super().__init__()
        self.backbone, self.head, self.prepare = backbone, head, prepare

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
                ) -> dict[str, Tensor] | list[Detections]:
        batch, adapted = self.prepare(images, targets, self.training)
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
               original: tuple[int, int]) -> Detections:
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
