"""Average precision: one number for a whole detector, in the protocols of PASCAL VOC and COCO.

Sort the detections of one class over ALL images by score. Going down that list, a detection is right if it overlaps an
object that no better one has taken; precision is the share of right ones so far, recall the share of objects found so
far. Average precision is the area under precision against recall, after precision has been raised to the best value at
this recall or higher. The protocols differ in where they read that curve, and in what they average over.

    voc07   mean of 11 readings at recall 0, 0.1 .. 1           Everingham et al., IJCV 2010, section 4.2
    voc     the exact area (VOC 2010 and later)                 VOC 2012 development kit, section 3.4.1
    coco    mean of 101 readings at recall 0, 0.01 .. 1         Lin et al., ECCV 2014, and pycocotools

`CocoMetrics` (in lessons.coco_metrics) computes COCO's twelve numbers.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lessons.boxes import box_iou
from lessons.coco_metrics import CocoMetrics
from lessons.data.sample import Detections, Target
from lessons.devices import check_device

__all__ = ["CocoMetrics", "average_precision", "match_detections", "precision_recall", "voc_average_precision"]

READINGS = {"voc07": torch.arange(11, dtype=torch.float64) / 10,
            "coco": torch.from_numpy(np.linspace(0.0, 1.0, 101))}  # pycocotools' own floats: 0.57 is 0.5700000000000001


def precision_recall(scores: Tensor, matched: Tensor, num_ground_truth: int) -> tuple[Tensor, Tensor]:
    """Precision and recall after each detection, going down the list by falling score (ties: in the given order).

    scores (N,), matched (N,) bool: whether the detection found an object; num_ground_truth: objects there are.
    Returns two (N,) float64 tensors. Recall is NaN where there are no objects.
    Raises ValueError for lengths that differ, a NaN score, num_ground_truth < 0 or more matches than objects.
    """
    _check(scores, matched, num_ground_truth)
    order = scores.argsort(descending=True, stable=True)
    right = matched[order].bool().double().cumsum(0)
    seen = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)
    return right / seen, right / num_ground_truth if num_ground_truth else torch.full_like(right, torch.nan)


def average_precision(scores: Tensor, matched: Tensor, num_ground_truth: int, protocol: str = "coco") -> Tensor:
    """Average precision of one class, a float64 scalar in [0, 1]; NaN where there are no objects.

    scores (N,), matched (N,) bool, of all images together (leave ignored detections out). protocol: "voc07", "voc" or
    "coco", see the top of this file. Raises ValueError as `precision_recall` and for another protocol.
    """
    if protocol not in ("voc07", "voc", "coco"):
        raise ValueError(f"protocol {protocol!r} is none of voc07, voc, coco.")
    precision, recall = precision_recall(scores, matched, num_ground_truth)
    if num_ground_truth == 0:
        return torch.tensor(torch.nan, dtype=torch.float64, device=scores.device)
    envelope = precision.flip(0).cummax(0).values.flip(0)  # the best precision at this recall or higher
    if protocol == "voc":
        steps = torch.diff(recall, prepend=recall.new_zeros(1))
        return (steps * envelope).sum()
    readings = READINGS[protocol].to(recall.device)
    reached = torch.searchsorted(recall, readings)  # the first place where recall is at least the reading
    return torch.cat([envelope, envelope.new_zeros(1)])[reached].mean()  # 0 where it never is


def match_detections(boxes: Tensor, scores: Tensor, ground_truth: Tensor, iou_threshold: float = 0.5,
                     ignore: Tensor | None = None, plus_one: bool = False) -> tuple[Tensor, Tensor]:
    """Which detections of one class in one image are right: each object can be found once (VOC development kit).

    boxes (N, 4), scores (N,), ground_truth (G, 4), xyxy pixels. By falling score, each detection looks at the object
    it overlaps most. IoU >= iou_threshold and nobody came before: right. Somebody came before: wrong, a duplicate.
    (COCO lets it take the best *free* object instead.) Objects marked in `ignore` (G,) (VOC's "difficult") make
    detections that fall on them neither right nor wrong. plus_one measures widths as x2 - x1 + 1 like the old VOC
    tools, for boxes that are numbers of pixels; published numbers of that time use it.
    Returns matched (N,) and ignored (N,), bool, in the order given.
    Raises ValueError for a bad box, a NaN score, a threshold that is not >= 0, lengths or devices that differ.
    """
    check_device(boxes=boxes, scores=scores, ground_truth=ground_truth, ignore=ignore)
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"{len(boxes)} boxes with scores of shape {tuple(scores.shape)}.")
    if ignore is not None and ignore.shape != ground_truth.shape[:1]:
        raise ValueError(f"ignore of shape {tuple(ignore.shape)} for {len(ground_truth)} objects.")
    if scores.isnan().any() or not iou_threshold >= 0:
        raise ValueError(f"scores {scores.tolist()} at iou_threshold {iou_threshold}: want no NaN, and a number >= 0.")
    matched = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    ignored = matched.clone()
    if len(boxes) == 0 or len(ground_truth) == 0:
        return matched, ignored
    overlap, nearest = _overlap(boxes, ground_truth, plus_one).max(dim=1)
    taken: set[int] = set()
    for i in scores.argsort(descending=True, stable=True).tolist():
        target = int(nearest[i])
        if not overlap[i] >= iou_threshold:
            continue
        if ignore is not None and ignore[target]:
            ignored[i] = True
        elif target not in taken:
            taken.add(target)
            matched[i] = True
    return matched, ignored


def voc_average_precision(detections: Sequence[Detections], targets: Sequence[Target], iou_threshold: float = 0.5,
                          protocol: str = "voc", plus_one: bool = False) -> dict[int, float]:
    """Average precision of each class over all images, by label, as the VOC development kit computes it.

    detections: one dict(boxes, labels, scores) per image; targets: in the sample form, `iscrowd` 1 marks objects that
    do not count ("difficult"). Classes without an object that counts are left out; mAP is the mean of the values.
    Raises ValueError where the lists differ in length, for tensors on two devices and as `average_precision`.
    """
    check_images(detections, targets)
    result = {}
    for label in sorted({int(label) for target in targets for label in target["labels"]}):
        scores, matched, count = _pool(detections, targets, label, iou_threshold, plus_one)
        if count:
            result[label] = average_precision(scores, matched, count, protocol).item()
    return result


def check_images(detections: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
    """ValueError unless there is a target for each image's detections, of matching lengths and all on one device."""
    if len(detections) != len(targets):
        raise ValueError(f"detections of {len(detections)} images for targets of {len(targets)}.")
    check_device(detections=[one[key] for one in detections for key in ("boxes", "labels", "scores")],
                 targets=[one[key] for one in targets for key in ("boxes", "labels", "iscrowd")])
    for image, last in [(one, "scores") for one in detections] + [(one, "iscrowd") for one in targets]:
        shapes = [tuple(image[key].shape) for key in ("boxes", "labels", last)]
        count = len(image["labels"].flatten())
        if shapes != [(count, 4), (count,), (count,)]:
            raise ValueError(f"boxes, labels and {last} of shapes {shapes}: want (N, 4), (N,) and (N,).")


def _pool(detections: Sequence[Detections], targets: Sequence[Target], label: int, iou_threshold: float, plus_one: bool
          ) -> tuple[Tensor, Tensor, int]:
    """Scores and matches of one class's detections in all images, without ignored ones, and how many objects count."""
    scores, matched, count = [], [], 0
    for detection, target in zip(detections, targets, strict=True):
        mine, truth = detection["labels"] == label, target["labels"] == label
        ignore = target["iscrowd"][truth].bool()
        score = detection["scores"][mine]
        hits, ignored = match_detections(detection["boxes"][mine], score, target["boxes"][truth], iou_threshold,
                                         ignore, plus_one)
        scores.append(score[~ignored])
        matched.append(hits[~ignored])
        count += int((~ignore).sum())
    return torch.cat(scores), torch.cat(matched), count


def _overlap(boxes: Tensor, ground_truth: Tensor, plus_one: bool) -> Tensor:
    """IoU (N, G); with plus_one a box reaches to the end of its last pixel."""
    if not plus_one:
        return box_iou(boxes, ground_truth)
    last_pixel = boxes.new_tensor([0, 0, 1, 1])
    return box_iou(boxes + last_pixel, ground_truth.to(boxes.dtype) + last_pixel)


def _check(scores: Tensor, matched: Tensor, num_ground_truth: int) -> None:
    check_device(scores=scores, matched=matched)
    if scores.ndim != 1 or scores.shape != matched.shape:
        raise ValueError(f"scores of shape {tuple(scores.shape)}, matched of {tuple(matched.shape)}: want (N,) twice.")
    if scores.isnan().any():
        raise ValueError(f"score {int(scores.isnan().nonzero()[0])} is NaN.")
    if num_ground_truth < 0 or int(matched.sum()) > num_ground_truth:
        raise ValueError(f"{int(matched.sum())} matches among {num_ground_truth} objects: each can be found only once.")
