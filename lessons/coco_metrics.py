"""COCO's numbers for boxes, masks and keypoints, computed here and equal to pycocotools' (Lin et al., ECCV 2014).

For every class, IoU threshold (0.50, 0.55 .. 0.95) and range of object areas:
1. In each image, detections by falling score each take the free object they agree with most (see lessons.agreement), if
   that is at least the threshold. Objects that are crowds or outside the range of areas are *ignored*: a detection may
   take one only if nothing better is free, and then counts as neither right nor wrong. A crowd can be taken any number
   of times.
2. Detections of all images are pooled by score; precision is read at 101 recalls (see lessons.metrics).
AP is the mean over classes, thresholds and readings; AR the mean over classes and thresholds of the recall reached with
at most 1, 10 or 100 detections per image (20 with keypoints). -1 means that there was nothing to measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lessons import agreement
from lessons.data.sample import Target

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
ALL, SMALL, MEDIUM, LARGE = (0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)  # areas, square pixels


@dataclass(frozen=True)
class _Protocol:
    """What COCO measures for one kind of detection."""

    areas: Array  # (A, 2) ranges; the first is "all"
    limits: tuple[int, ...]  # detections per image and class, rising; the last is the one for precision
    names: tuple[str, ...]


_REGIONS = _Protocol(np.array([ALL, SMALL, MEDIUM, LARGE]), (1, 10, 100),
                     ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
                      "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"))
_POINTS = _Protocol(np.array([ALL, MEDIUM, LARGE]), (20,),
                    ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large"))
_KINDS = {"boxes": (_REGIONS, agreement.of_boxes), "masks": (_REGIONS, agreement.of_masks),
          "keypoints": (_POINTS, agreement.of_keypoints)}


@dataclass
class _Image:
    """One image's objects and detections as arrays; detections by falling score."""

    labels: NDArray[np.int64]
    scores: Array
    sizes: Array
    agreements: Array  # (D, G)
    truth_labels: NDArray[np.int64]
    truth_area: Array
    crowd: Flags
    unmarked: Flags  # objects without a labelled keypoint, which do not count


@dataclass
class _Matches:
    """What became of one class's detections in one image, for A areas, T thresholds, D detections and G objects."""

    scores: Array  # (D,)
    right: Flags  # (A, T, D) took an object that counts
    ignored: Flags  # (A, T, D) neither right nor wrong
    objects: NDArray[np.int64]  # (A,) how many objects count


class CocoMetrics:
    """Collects detections and targets image by image and computes COCO's numbers for boxes, masks or keypoints.

        metrics = CocoMetrics()               # or CocoMetrics("masks"), CocoMetrics("keypoints")
        metrics.update(detections, targets)   # as often as you like
        metrics.compute()["AP"]

    sigmas: the tolerances of keypoints that are not COCO's seventeen.
    Raises ValueError for another kind, and for sigmas that are not positive or without keypoints.
    """

    def __init__(self, kind: str = "boxes", sigmas: Sequence[float] | None = None) -> None:
        if kind not in _KINDS:
            raise ValueError(f"kind {kind!r} is none of {', '.join(_KINDS)}.")
        if sigmas is not None and (kind != "keypoints" or not all(sigma > 0 for sigma in sigmas)):
            raise ValueError(f"sigmas {list(sigmas)} for {kind}: want numbers > 0, and keypoints.")
        self.kind = kind
        self._protocol, self._agreement = _KINDS[kind]
        if sigmas is not None:
            self._agreement = partial(agreement.of_keypoints, sigmas=sigmas)
        self._images: dict[int, _Image] = {}
        self._precision: Array | None = None  # (K, A, T, 101) with at most limits[-1] detections per image
        self._recall: Array | None = None  # (K, A, T, limits)
        self._labels: list[int] = []

    def update(self, detections: Sequence[dict[str, Tensor]], targets: Sequence[Target]) -> None:
        """Adds one batch: dict(boxes (N, 4) xyxy pixels, labels (N,), scores (N,)) and a target per image.

        Both with masks or keypoints where these are measured. Raises ValueError where the two lists differ in length,
        an image comes twice, or a detection is malformed.
        """
        if len(detections) != len(targets):
            raise ValueError(f"detections of {len(detections)} images for targets of {len(targets)}.")
        for detection, target in zip(detections, targets, strict=True):
            key = int(target["image_id"])
            if key in self._images:
                raise ValueError(f"image {key} was given before; each image is evaluated once.")
            self._images[key] = self._as_arrays(detection, target)
        self._precision = None

    def compute(self) -> dict[str, float]:
        """The numbers by name, in pycocotools' order: AP AP50 AP75 AP_small .. AR1 AR10 AR100 AR_small ..

        Twelve, for keypoints ten (AR50 and AR75 instead of AR1 and AR10, and nothing small). AP50 and AP75 are at one
        threshold, the others the mean of ten. -1 where there is nothing to measure.
        """
        precision, recall = self._accumulate()
        sizes = range(1, len(self._protocol.areas))
        if self.kind == "keypoints":
            recalls = [recall[:, 0], recall[:, 0, :1], recall[:, 0, 5:6]]
        else:
            recalls = [recall[:, 0, :, limit] for limit in range(len(self._protocol.limits))]
        values = [precision[:, 0], precision[:, 0, :1], precision[:, 0, 5:6], *(precision[:, a] for a in sizes),
                  *recalls, *(recall[:, a, :, -1] for a in sizes)]
        return dict(zip(self._protocol.names, map(_mean, values), strict=True))

    def per_class(self) -> dict[int, dict[str, float]]:
        """AP, AP50, AP75 and AR100 (with keypoints AR20) of each label that occurs in a target."""
        precision, recall = self._accumulate()
        most = f"AR{self._protocol.limits[-1]}"
        return {label: {"AP": _mean(p[0]), "AP50": _mean(p[0, 0]), "AP75": _mean(p[0, 5]), most: _mean(r[0, :, -1])}
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
            areas, limits = self._protocol.areas, self._protocol.limits
            curves = [_curves([m for image in images if (m := _match(image, label, areas, limits[-1]))], limits)
                      for label in self._labels]
            shape = (len(areas), len(IOU_THRESHOLDS))
            self._precision = np.array([p for p, _ in curves]).reshape(-1, *shape, len(RECALLS))
            self._recall = np.array([r for _, r in curves]).reshape(-1, *shape, len(limits))
        return self._precision, self._recall

    def _as_arrays(self, detection: dict[str, Tensor], target: Target) -> _Image:
        _check(detection, target)
        scores = detection["scores"].detach().cpu().double()
        order = scores.argsort(descending=True, stable=True)
        agreements, sizes = self._agreement(detection, target)
        labels, area, crowd = (target[key].cpu().numpy() for key in ("labels", "area", "iscrowd"))
        unmarked = np.zeros(len(labels), dtype=bool)
        if self.kind == "keypoints":
            unmarked = ~(target["keypoints"][..., 2] > 0).any(1).cpu().numpy()
        return _Image(detection["labels"].cpu()[order].numpy(), scores[order].numpy(), sizes[order.numpy()],
                      agreements[order.numpy()], labels, area.astype(float), crowd.astype(bool), unmarked)


def _match(image: _Image, label: int, areas: Array, limit: int) -> _Matches | None:
    """Step 1 of the top of this file for one class in one image, all areas and thresholds at once."""
    mine, truth = np.flatnonzero(image.labels == label)[:limit], np.flatnonzero(image.truth_labels == label)
    if not len(mine) and not len(truth):
        return None
    crowd, area, size = image.crowd[truth], image.truth_area[truth], image.sizes[mine]
    outside = (area < areas[:, :1]) | (area > areas[:, 1:])
    passed_over = outside | crowd | image.unmarked[truth]  # (A, G)
    right, ignored = _take(image.agreements[np.ix_(mine, truth)], passed_over, crowd)
    off_size = (size < areas[:, :1]) | (size > areas[:, 1:])
    ignored |= ~right & off_size[:, None]  # a wrong detection of another size is another range's business
    return _Matches(image.scores[mine], right, ignored, (~passed_over).sum(1))


def _take(overlaps: Array, passed_over: Flags, crowd: Flags) -> tuple[Flags, Flags]:
    """Detections, best first, take objects. overlaps (D, G), passed_over (A, G), crowd (G,) -> two (A, T, D) flags."""
    shape = (len(passed_over), len(IOU_THRESHOLDS))
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


def _curves(matches: list[_Matches], limits: Sequence[int]) -> tuple[Array, Array]:
    """Step 2 for one class: precision (A, T, 101) and recall (A, T, limits); -1 where no object counts."""
    objects = np.sum([m.objects for m in matches], axis=0)
    precision = np.full((len(objects), len(IOU_THRESHOLDS), len(RECALLS)), -1.0)
    recall = np.full((len(objects), len(IOU_THRESHOLDS), len(limits)), -1.0)
    for slot, limit in enumerate(limits):
        order = np.argsort(-np.concatenate([m.scores[:limit] for m in matches]), kind="stable")
        right = np.concatenate([m.right[..., :limit] for m in matches], axis=2)[..., order]
        ignored = np.concatenate([m.ignored[..., :limit] for m in matches], axis=2)[..., order]
        for a in np.flatnonzero(objects):
            found = right[a].cumsum(1, dtype=float)
            recall[a, :, slot] = found[:, -1] / objects[a] if len(order) else 0
            if limit == limits[-1]:
                wrong = (~right[a] & ~ignored[a]).cumsum(1, dtype=float)
                precision[a] = [_read(f, w, objects[a]) for f, w in zip(found, wrong, strict=True)]
    return precision, recall


def _read(found: Array, wrong: Array, objects: int) -> Array:
    """Precision at the 101 recalls from running counts of right and wrong detections, both (D,)."""
    precision = found / (found + wrong + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(found / objects, RECALLS)
    return np.append(envelope, 0.0)[reached]


def _check(detection: dict[str, Tensor], target: Target) -> None:
    boxes, labels, scores = (detection[key] for key in ("boxes", "labels", "scores"))
    if boxes.shape != (len(scores), 4) or labels.shape != scores.shape or scores.ndim != 1:
        raise ValueError(f"image {target['image_id']}: boxes {tuple(boxes.shape)}, labels {tuple(labels.shape)}, "
                         f"scores {tuple(scores.shape)}; want (N, 4), (N,) and (N,).")
    if not (scores.isfinite().all() and boxes.isfinite().all() and (boxes[:, 2:] >= boxes[:, :2]).all()):
        raise ValueError(f"image {target['image_id']}: a detection has a NaN, an infinity, x2 < x1 or y2 < y1.")


def _mean(values: Array) -> float:
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
