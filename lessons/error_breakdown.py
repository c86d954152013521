"""What kinds of mistakes a detector makes (after Hoiem et al., ECCV 2012, and TIDE: Bolya et al., ECCV 2020).

Every detection gets one kind; every object that nothing explains is missed:

    correct           right class, IoU at least 0.5, the best of its object
    duplicate         as correct, but a better detection has the object already
    class             another class than the object it overlaps by 0.5 or more
    localisation      right class, IoU from 0.1 to 0.5
    both              another class, IoU from 0.1 to 0.5
    background        overlaps no object by 0.1
    missed            an object without a correct detection that no class or localisation error is nearly right about
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lessons.boxes import box_iou
from lessons.metrics import check_images, match_detections

KINDS = ("correct", "localisation", "class", "both", "duplicate", "background")


def error_breakdown(detections: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]],
                    foreground: float = 0.5, background: float = 0.1) -> dict[str, int]:
    """How many detections are of each kind, and how many objects are missed, over all images.

    detections: dict(boxes (N, 4) xyxy pixels, labels (N,), scores (N,)) per image, those that one would show (apply a
    score threshold first); targets in the sample form. Detections that fall on an ignored object (iscrowd 1) are left
    out. Raises ValueError where the lists differ in length, for two devices, a bad box and for thresholds that are not
    0 <= background <= foreground <= 1.
    """
    check_images(detections, targets)
    if not 0 <= background <= foreground <= 1:
        raise ValueError(f"foreground {foreground}, background {background}: want 0 <= background <= foreground <= 1.")
    counts = dict.fromkeys((*KINDS, "missed"), 0)
    for detection, target in zip(detections, targets, strict=True):
        kinds, missed = kinds_of(detection, target, foreground, background)
        for kind in filter(None, kinds):
            counts[kind] += 1
        counts["missed"] += int(missed.sum())
    return counts


def kinds_of(detection: Mapping[str, Tensor], target: Mapping[str, Tensor], foreground: float = 0.5,
             background: float = 0.1) -> tuple[list[str], Tensor]:
    """The kind of every detection in one image ("" where it fell on an ignored object), and which objects are missed.

    Shapes and errors as `error_breakdown`; missed is (G,) bool, False for ignored objects.
    """
    check_images([detection], [target])
    counts = ~target["iscrowd"].bool()
    matched, ignored = _found(detection, target, foreground)
    overlap = box_iou(detection["boxes"], target["boxes"][counts])  # (N, objects that count)
    same = detection["labels"][:, None] == target["labels"][counts]
    right, right_at = _nearest(torch.where(same, overlap, -1))
    wrong, wrong_at = _nearest(torch.where(same, -1, overlap))
    rows = zip(matched.tolist(), ignored.tolist(), right.tolist(), wrong.tolist(), strict=True)
    kinds = [_kind(*row, foreground, background) for row in rows]
    explained = {int((wrong_at if kind == "class" else right_at)[i]) for i, kind in enumerate(kinds)
                 if kind in ("correct", "class", "localisation")}
    missed = counts.clone()
    missed[counts] = counts.new_tensor([i not in explained for i in range(int(counts.sum()))])
    return kinds, missed


def _found(detection: Mapping[str, Tensor], target: Mapping[str, Tensor], threshold: float) -> tuple[Tensor, Tensor]:
    """Which detections (N,) are right and which fell on an ignored object, class by class."""
    matched, ignored = detection["labels"].new_zeros((2, len(detection["labels"])), dtype=torch.bool)
    for label in detection["labels"].unique():
        mine, truth = detection["labels"] == label, target["labels"] == label
        matched[mine], ignored[mine] = match_detections(
            detection["boxes"][mine], detection["scores"][mine], target["boxes"][truth], threshold,
            target["iscrowd"][truth].bool())
    return matched, ignored


def _nearest(overlap: Tensor) -> tuple[Tensor, Tensor]:
    """The largest overlap (N,) of each row and where it is; -1 in a row of nothing."""
    best = torch.cat([overlap, overlap.new_full((len(overlap), 1), -1)], dim=1).max(dim=1)
    return best.values, best.indices


def _kind(matched: bool, ignored: bool, right: float, wrong: float, foreground: float, background: float) -> str:
    """The kind of one detection from its best IoU with objects of its own class and of others."""
    if ignored:
        return ""
    if matched:
        return "correct"
    if right >= foreground:
        return "duplicate"
    if wrong >= foreground:
        return "class"
    if right >= background:
        return "localisation"
    return "both" if wrong >= background else "background"
