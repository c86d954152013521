"""Panoptic quality: one number for labelling every pixel and telling objects apart (Kirillov et al., CVPR 2019).

A picture is cut into segments, each with a class; no pixel belongs to two. A predicted and a true segment of one class
match where their IoU is above one half, which at most one pair can be: no search is needed. Then, for each class,

    PQ = sum of the matches' IoU / (TP + FP / 2 + FN / 2)  =  SQ (mean IoU of the matches)  x  RQ (F1 of finding them)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lessons.devices import check_device

VOID = 0  # the id of pixels that belong to no segment


@dataclass
class _Counts:
    iou: float = 0.0
    matched: int = 0
    wrong: int = 0
    missed: int = 0

    def qualities(self) -> dict[str, float]:
        quality = self.iou / self.matched if self.matched else 0.0
        recognition = self.matched / (self.matched + 0.5 * self.wrong + 0.5 * self.missed)
        return {"PQ": quality * recognition, "SQ": quality, "RQ": recognition}


@dataclass
class PanopticQuality:
    """Collects pictures and computes PQ, SQ and RQ, for each class and as means over the classes that occur.

        quality = PanopticQuality()
        quality.update(predictions, targets)
        quality.compute()["PQ"]
    """

    counts: dict[int, _Counts] = field(default_factory=dict)

    def update(self, predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Adds pictures: "panoptic" (H, W) segment ids and "segments" (S, 2 or 3) rows of id, label (, iscrowd).

        Id 0 is void. As COCO does it: a prediction's pixels that are void in the target do not count in an IoU, and one
        that matches nothing is not wrong where more than half of it is void or crowd of its class; crowds are never
        missed. Raises ValueError where lists or pictures differ in size, pictures are on two devices, and for an id
        that stands in only one of the picture and its table.
        """
        if len(predictions) != len(targets):
            raise ValueError(f"predictions of {len(predictions)} pictures for targets of {len(targets)}.")
        for prediction, target in zip(predictions, targets, strict=True):
            self._add(prediction, target)

    def compute(self, classes: Sequence[int] | None = None) -> dict[str, float]:
        """Means of PQ, SQ and RQ over the classes that occur, or over those of `classes` that do; -1 for none."""
        values = [q for label, q in self.per_class().items() if classes is None or label in classes]
        return {name: sum(v[name] for v in values) / len(values) if values else -1.0 for name in ("PQ", "SQ", "RQ")}

    def per_class(self) -> dict[int, dict[str, float]]:
        """PQ, SQ and RQ of each label that was there or was predicted."""
        return {label: c.qualities() for label, c in sorted(self.counts.items()) if c.matched + c.wrong + c.missed}

    def _add(self, prediction: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        check_device(prediction=prediction["panoptic"], target=target["panoptic"])
        found, truth = _table(prediction), _table(target)
        shared = _shared_pixels(prediction["panoptic"], target["panoptic"])
        area = {one: int((prediction["panoptic"] == one).sum()) for one in found}
        true_area = {one: int((target["panoptic"] == one).sum()) for one in truth}
        matched, taken = set(), set()
        for (one, other), pixels in shared.items():
            if VOID in (one, other) or found[one][0] != truth[other][0] or truth[other][1]:
                continue  # void, of different classes or a crowd
            iou = pixels / (area[one] + true_area[other] - pixels - shared.get((one, VOID), 0))
            if iou > 0.5:
                counts = self._of(found[one][0])
                counts.iou, counts.matched = counts.iou + iou, counts.matched + 1
                matched.add(one)
                taken.add(other)
        for other, (label, crowd) in truth.items():
            self._of(label).missed += other not in taken and not crowd
        for one, (label, _) in found.items():
            crowds = [other for other, row in truth.items() if row == (label, 1)]
            excused = sum(shared.get((one, other), 0) for other in (VOID, *crowds))
            self._of(label).wrong += one not in matched and excused <= 0.5 * area[one]

    def _of(self, label: int) -> _Counts:
        return self.counts.setdefault(label, _Counts())


def _table(picture: Mapping[str, Tensor]) -> dict[int, tuple[int, int]]:
    """Label and iscrowd by segment id, checked against the picture."""
    shape = tuple(picture["segments"].shape)
    if len(shape) != 2 or shape[1] not in (2, 3):
        raise ValueError(f"segments of shape {shape}: want (S, 2) or (S, 3).")
    rows = picture["segments"].tolist()
    table = {int(row[0]): (int(row[1]), int(row[2]) if len(row) > 2 else 0) for row in rows}
    drawn = set(picture["panoptic"].unique().tolist()) - {VOID}
    if drawn != set(table) or len(table) < len(rows):
        raise ValueError(f"segments {sorted(drawn)[:20]} in the picture, {sorted(table)[:20]} in the table of "
                         f"{len(rows)} rows: want each once, in both.")
    return table


def _shared_pixels(prediction: Tensor, target: Tensor) -> dict[tuple[int, int], int]:
    """How many pixels each pair of a predicted and a true id has in common, void included."""
    if prediction.shape != target.shape or prediction.ndim != 2:
        raise ValueError(f"a prediction of {tuple(prediction.shape)} pixels for a target of {tuple(target.shape)}.")
    pairs, counts = torch.stack([prediction.flatten(), target.flatten()]).unique(dim=1, return_counts=True)
    return {(one, other): count for one, other, count in zip(*pairs.tolist(), counts.tolist(), strict=True)}
