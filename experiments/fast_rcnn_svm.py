"""Softmax or SVMs? (Fast R-CNN, section 5.4 and table 8: softmax is ahead by 0.1 to 0.8 points of mAP)"""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments import fast_rcnn_training as training
from experiments.rcnn_training import scenes
from experiments.record import Numbers
from lessons.coding import decode_boxes
from lessons.data.sample import Detections
from lessons.detectors.fast_rcnn import FastRCNN
from lessons.detectors.svm_detector import FEATURE_NORM, class_overlaps, suppress
from lessons.detectors.svm_fitting import DescribedRegions, fit_svms

__all__ = ["PRE_TRAINED"]
PRE_TRAINED = training.PRE_TRAINED
CLAIM = "Softmax scores are as good as those of SVMs that were trained afterwards with hard negatives."
SCENES = 80  # that the SVMs learn from


def run(seed: int, short: bool = False) -> Numbers:
    """One detector, its regions scored by its own softmax or by SVMs on its fc7."""
    size = training.size_of(short)
    model, data = training.multi_task(seed, size), training.validation(seed, size)
    some = scenes("train", size.images, seed)
    regions = [describe(model, *some[index]) for index in range(min(SCENES, len(some)))]
    scale = FEATURE_NORM / torch.cat([region.fc7 for region in regions]).norm(dim=1).mean()
    svms = fit_svms([region.fc7 * scale for region in regions], regions)
    by_svm = [detect_by_svm(model, data[i][0], data[i][1]["proposals"][:200], scale, svms) for i in range(len(data))]
    return {"softmax": training.measured(model, data), "SVM": training.measure(by_svm, data)}


@torch.no_grad()
def fc7(model: FastRCNN, image: Tensor, boxes: Tensor) -> Tensor:
    """The features (N, F) of boxes that the last layers see."""
    head, batch = model.box_head, model.prepare([image])[0]
    return head.describe(model.backbone(batch.pixels), [boxes])


def describe(model: FastRCNN, image: Tensor, target: dict) -> DescribedRegions:
    """What SVMs learn of one scene: the true boxes first, then its proposals."""
    boxes, none = torch.cat([target["boxes"], target["proposals"]]), torch.zeros(0, 4)
    overlaps = class_overlaps(boxes, target["boxes"], target["labels"], model.box_head.num_classes - 1)
    labels = target["labels"]
    return DescribedRegions(fc7(model, image, boxes), overlaps, labels, none, none, none, labels[:0])


@torch.no_grad()
def detect_by_svm(model: FastRCNN, image: Tensor, boxes: Tensor, scale: Tensor, svms: tuple[Tensor, Tensor]
                  ) -> Detections:
    """Detections with the SVMs' scores and the detector's own boxes; NMS after the regression, as Fast R-CNN does."""
    features, head = fc7(model, image, boxes), model.box_head
    scores = features * scale @ svms[0].T + svms[1]
    deltas = head.bbox_pred(features)
    regressed = decode_boxes(deltas, boxes, head.weights).view(-1, head.num_classes, 4)[:, 1:]
    parts = [suppress(regressed[:, k], scores[:, k, None], regressed[:, k, None], (160, 160), head.nms_threshold)
             for k in range(scores.shape[1])]
    labels = torch.cat([part["labels"] + k for k, part in enumerate(parts)])
    order = torch.cat([part["scores"] for part in parts]).argsort(descending=True)
    return {"boxes": torch.cat([part["boxes"] for part in parts])[order], "labels": labels[order],
            "scores": torch.cat([part["scores"] for part in parts])[order]}


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Nearly a tie."""
    gap = sum(one["softmax"]["AP"] - one["SVM"]["AP"] for one in per_seed) / len(per_seed)
    return {"softmax is ahead on the mean": gap > 0, "they differ by less than five hundredths of AP": abs(gap) < 0.05}
