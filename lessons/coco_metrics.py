"""COCO's twelve numbers, computed here and equal to pycocotools' (Lin et al., ECCV 2014).

For every class, IoU threshold (0.50, 0.55 .. 0.95) and range of object areas:
1. In each image, detections by falling score each take the free object they overlap most, if that is at least the
   threshold. Objects that are crowds or outside the range of areas are *ignored*: a detection may take one only if
   nothing better is free, and then counts as neither right nor wrong. A crowd can be taken any number of times, and
   overlap with it is measured against the detection's own area.
2. Detections of all images are pooled by score; precision is read at 101 recalls (see lessons.metrics).
AP is the mean over classes, thresholds and readings; AR the mean over classes and thresholds of the recall reached with
at most 1, 10 or 100 detections per image. -1 means that there was nothing to measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lessons.data.sample import Target

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # all, small, medium, large; square pixels
MAX_DETECTIONS = (1, 10, 100)
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
         "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")


@dataclass
class _Image:
    """One image's objects and detections as float64 arrays; detections by falling score."""

    boxes: Array
    labels: NDArray[np.int64]
    scores: Array
    truth: Array
    truth_labels: NDArray[np.int64]
    truth_area: Array
    crowd: Flags


@dataclass
class _Matches:
    """What became of one class's detections in one image, for A areas, T thresholds, D detections and G objects."""

    scores: Array  # (D,)
    right: Flags  # (A, T, D) took an object that counts
    ignored: Flags  # (A, T, D) neither right nor wrong
    objects: NDArray[np.int64]  # (A,) how many objects count


class CocoMetrics:
    """Collects detections and targets image by image and computes COCO's twelve numbers for boxes.

        metrics = CocoMetrics()
        metrics.update(detections, targets)   # as often as you like
        metrics.compute()["AP"]
    """

    def __init__(self) -> None:
        self._images: dict[int, _Image] = {}
        self._precision: Array | None = None  # (K, A, T, 101) with at most 100 detections per image
        self._recall: Array | None = None  # (K, A, T, 3)
        self._labels: list[int] = []

    def update(self, detections: Sequence[dict[str, Tensor]], targets: Sequence[Target]) -> None:
        """Adds one batch: dict(boxes (N, 4) xyxy pixels, labels (N,), scores (N,)) and a target per image.

        Raises ValueError where the two lists differ in length, an image comes twice, or a detection is malformed.
        """
        if len(detections) != len(targets):
            raise ValueError(f"detections of {len(detections)} images for targets of {len(targets)}.")
        for detection, target in zip(detections, targets, strict=True):
            key = int(target["image_id"])
            if key in self._images:
                raise ValueError(f"image {key} was given before; each image is evaluated once.")
            self._images[key] = _as_arrays(detection, target)
        self._precision = None

    def compute(self) -> dict[str, float]:
        """The twelve numbers by name, in pycocotools' order: AP AP50 AP75 AP_small .. AR1 AR10 AR100 AR_small ..

        AP50 and AP75 are at one threshold, the others the mean of ten. -1 where there is nothing to measure.
        """
        precision, recall = self._accumulate()
        values = [precision[:, 0], precision[:, 0, :1], precision[:, 0, 5:6], *(precision[:, a] for a in (1, 2, 3)),
                  *(recall[:, 0, :, m] for m in (0, 1, 2)), *(recall[:, a, :, 2] for a in (1, 2, 3))]
        return dict(zip(NAMES, map(_mean, values), strict=True))

    def per_class(self) -> dict[int, dict[str, float]]:
        """AP, AP50, AP75 and AR100 of each label that occurs in a target."""
        precision, recall = self._accumulate()
        return {label: {"AP": _mean(p[0]), "AP50": _mean(p[0, 0]), "AP75": _mean(p[0, 5]), "AR100": _mean(r[0, :, 2])}
                for label, p, r in zip(self._labels, precision, recall, strict=True)}

    def precision_at_recalls(self, label: int, iou_threshold: float = 0.5) -> tuple[Array, Array]:
        """The curve that AP averages: 101 recalls and the precision at each, of one class at one IoU threshold.

        Raises ValueError for a label without objects or a threshold that is none of 0.50, 0.55 .. 0.95.
        """
        precision, _ = self._accumulate()
        threshold = np.flatnonzero(np.isclose(IOU_THRESHOLDS, iou_threshold))
        if label not in self._labels or len(threshold) == 0:
            raise ValueError(f"label {label} at IoU {iou_threshold}: labels are {self._labels}, thresholds .50 to .95.")
        return RECALLS, precision[self._labels.index(label), 0, threshold[0]]

    def _accumulate(self) -> tuple[Array, Array]:
        if self._precision is None or self._recall is None:
            # by image id: pycocotools breaks ties of scores in this order
            images = [self._images[key] for key in sorted(self._images)]
            self._labels = sorted({int(label) for image in images for label in image.truth_labels})
            curves = [_curves([m for image in images if (m := _match(image, label))]) for label in self._labels]
            shape = (len(AREAS), len(IOU_THRESHOLDS))
            self._precision = np.array([p for p, _ in curves]).reshape(-1, *shape, len(RECALLS))
            self._recall = np.array([r for _, r in curves]).reshape(-1, *shape, len(MAX_DETECTIONS))
        return self._precision, self._recall


def _match(image: _Image, label: int) -> _Matches | None:
    """Step 1 of the top of this file for one class in one image, all areas and thresholds at once."""
    mine, truth = image.labels == label, image.truth_labels == label
    if not mine.any() and not truth.any():
        return None
    boxes, scores = image.boxes[mine][: MAX_DETECTIONS[-1]], image.scores[mine][: MAX_DETECTIONS[-1]]
    crowd, area = image.crowd[truth], image.truth_area[truth]
    outside = (area < AREAS[:, :1]) | (area > AREAS[:, 1:])
    passed_over = outside | crowd  # (A, G)
    right, ignored = _take(_overlaps(boxes, image.truth[truth], crowd), passed_over, crowd)
    size = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    off_size = (size < AREAS[:, :1]) | (size > AREAS[:, 1:])
    ignored |= ~right & off_size[:, None]  # a wrong detection of another size is another range's business
    return _Matches(scores, right, ignored, (~passed_over).sum(1))


def _take(overlaps: Array, passed_over: Flags, crowd: Flags) -> tuple[Flags, Flags]:
    """Detections, best first, take objects. overlaps (D, G), passed_over (A, G), crowd (G,) -> two (A, T, D) flags."""
    shape = (len(AREAS), len(IOU_THRESHOLDS))
    right, ignored = np.zeros((2, *shape, len(overlaps)), dtype=bool)
    free = np.ones((*shape, overlaps.shape[1]), dtype=bool)
    if overlaps.shape[1] == 0:
        return right, ignored
    enough = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]
    areas, thresholds = np.indices(shape)
    for d, overlap in enumerate(overlaps):
        if overlap.max() < IOU_THRESHOLDS[0]:
            continue
        possible = free & (overlap >= enough)  # (A, T, G)
        counts = possible & ~passed_over[:, None]
        # nothing that counts is free: look among the ignored ones
        candidates = np.where(counts.any(-1, keepdims=True), counts, possible)
        # of equal overlaps the last is taken, as pycocotools does
        chosen = candidates.shape[-1] - 1 - np.where(candidates, overlap, -1)[..., ::-1].argmax(-1)
        found = candidates.any(-1)
        is_ignored = passed_over[areas, chosen]
        right[..., d], ignored[..., d] = found & ~is_ignored, found & is_ignored
        free[areas, thresholds, chosen] &= ~found | crowd[chosen]
    return right, ignored


def _curves(matches: list[_Matches]) -> tuple[Array, Array]:
    """Step 2 for one class: precision (A, T, 101) and recall (A, T, 3); -1 where no object counts."""
    precision = np.full((len(AREAS), len(IOU_THRESHOLDS), len(RECALLS)), -1.0)
    recall = np.full((len(AREAS), len(IOU_THRESHOLDS), len(MAX_DETECTIONS)), -1.0)
    objects = np.sum([m.objects for m in matches], axis=0)
    for slot, limit in enumerate(MAX_DETECTIONS):
        order = np.argsort(-np.concatenate([m.scores[:limit] for m in matches]), kind="stable")
        right = np.concatenate([m.right[..., :limit] for m in matches], axis=2)[..., order]
        ignored = np.concatenate([m.ignored[..., :limit] for m in matches], axis=2)[..., order]
        for a in np.flatnonzero(objects):
            found = right[a].cumsum(1, dtype=float)
            recall[a, :, slot] = found[:, -1] / objects[a] if len(order) else 0
            if limit == MAX_DETECTIONS[-1]:
                wrong = (~right[a] & ~ignored[a]).cumsum(1, dtype=float)
                precision[a] = [_read(f, w, objects[a]) for f, w in zip(found, wrong, strict=True)]
    return precision, recall


def _read(found: Array, wrong: Array, objects: int) -> Array:
    """Precision at the 101 recalls from running counts of right and wrong detections, both (D,)."""
    precision = found / (found + wrong + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(found / objects, RECALLS)
    return np.append(envelope, 0.0)[reached]


def _overlaps(boxes: Array, truth: Array, crowd: Flags) -> Array:
    """IoU (D, G), against a crowd intersection over the detection's own area; 0 where there is none."""
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    area, truth_area = ((b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, truth))
    whole = np.where(crowd[None], area[:, None], area[:, None] + truth_area[None] - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)


def _as_arrays(detection: dict[str, Tensor], target: Target) -> _Image:
    boxes, labels, scores = (detection[key].detach().cpu() for key in ("boxes", "labels", "scores"))
    if boxes.shape != (len(scores), 4) or labels.shape != scores.shape or scores.ndim != 1:
        raise ValueError(f"image {target['image_id']}: boxes {tuple(boxes.shape)}, labels {tuple(labels.shape)}, "
                         f"scores {tuple(scores.shape)}; want (N, 4), (N,) and (N,).")
    if not (scores.isfinite().all() and boxes.isfinite().all() and (boxes[:, 2:] >= boxes[:, :2]).all()):
        raise ValueError(f"image {target['image_id']}: a detection has a NaN, an infinity, x2 < x1 or y2 < y1.")
    score = scores.double().numpy()
    order = np.argsort(-score, kind="stable")
    truth_boxes, truth_labels, area, crowd = (target[k].cpu() for k in ("boxes", "labels", "area", "iscrowd"))
    return _Image(boxes.double().numpy()[order], labels.numpy()[order], score[order],
                  truth_boxes.double().numpy().reshape(-1, 4), truth_labels.numpy(), area.double().numpy(),
                  crowd.numpy().astype(bool))


def _mean(values: Array) -> float:
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
