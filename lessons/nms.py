"""Non-maximum suppression: of many boxes on one object, keep one.

Greedy NMS keeps the best-scored box, deletes every box that overlaps it by more than a threshold, and goes on with the
best of the rest. Box by box that is N steps in Python. Here the sorted boxes are taken in blocks: first a block is
resolved inside itself, then what it keeps deletes from all later boxes at once. Memory is linear in N.
"""

import math

import torch
from torch import Tensor

from lessons.boxes import box_iou, check_boxes
from lessons.devices import check_device

FIRST_BLOCK, BLOCK = 64, 256  # boxes resolved at a time: few at first, since the best boxes delete most of the others
PAIRS = 2**16  # that are compared at a time: their tables stay in the processor's cache
FEW = 1000  # up to so many boxes, one pass over all groups is faster than one per group
SMALL = 100  # boxes of a group that is not worth a pass of its own


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that greedy NMS keeps, by falling score.

    boxes (N, 4) xyxy pixels, scores (N,). A box goes when its IoU with a kept, better-scored box is above
    `iou_threshold`; of equal scores the first counts as the better. Returns (K,) int64; no boxes give no indices.
    Raises ValueError for a box with x2 < x1, y2 < y1 or NaN, a NaN score, lengths or devices that differ or a
    threshold < 0.
    """
    _check(boxes, scores, iou_threshold)
    return _greedy(boxes, scores, None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """NMS inside each group only, for instance each class; indices (K,) by falling score.

    boxes (N, 4) xyxy pixels, scores (N,), idxs (N,) the group of each box. Equal scores follow one another by index, or
    for more than 1,000 boxes as torch.sort leaves them, both as in torchvision. That moves the groups apart in space,
    which mixes them where coordinates are negative; here only boxes of one group are compared, wherever they are.
    Empty boxes of any shape give no indices, as in torchvision, whatever the other arguments are.
    Raises ValueError as `nms`, and for idxs of another length or on another device.
    """
    if not boxes.numel():
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    check_device(boxes=boxes, idxs=idxs)
    _check(boxes, scores, iou_threshold)
    if idxs.shape != scores.shape:
        raise ValueError(f"idxs of shape {tuple(idxs.shape)} for scores of shape {tuple(scores.shape)}.")
    if len(boxes) <= FEW:
        return _greedy(boxes, scores, idxs, iou_threshold)
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for members in _passes(idxs):
        kept[members[_greedy(boxes[members], scores[members], idxs[members], iou_threshold)]] = True
    indices = torch.where(kept)[0]
    return indices[scores[indices].sort(descending=True).indices]


def soft_nms(boxes: Tensor, scores: Tensor, iou_threshold: float = 0.3, sigma: float = 0.5,
             score_threshold: float = 0.001, method: str = "linear") -> tuple[Tensor, Tensor]:
    """Soft-NMS: overlapping boxes lose score instead of life (Bodla et al., ICCV 2017, section 3).

    boxes (N, 4) xyxy pixels, scores (N,) >= 0. The best box is kept and multiplies the score of every other, whose IoU
    with it is o, by: linear, 1 - o where o > iou_threshold (equation 2); gaussian, exp(-o^2 / sigma) (equation 3);
    hard, 0 where o > iou_threshold. Boxes whose score falls below `score_threshold` go.
    Returns the kept indices (K,) and their new scores (K,), both by falling new score.
    Raises ValueError as `nms`, for another method and for sigma <= 0.
    """
    _check(boxes, scores, iou_threshold)
    if method not in ("linear", "gaussian", "hard") or not sigma > 0:
        raise ValueError(f"method {method!r} with sigma {sigma}: want linear, gaussian or hard, and sigma > 0.")
    remaining, now = torch.arange(len(boxes), device=boxes.device), scores.clone()
    kept, decayed = [], []
    while len(remaining):
        best = now.argmax()
        if now[best] < score_threshold:
            break
        kept.append(remaining[best])
        decayed.append(now[best])
        overlap = box_iou(boxes[remaining[best]][None], boxes[remaining])[0].to(now.dtype)
        now = now * _decay(overlap, iou_threshold, sigma, method)
        others = torch.arange(len(remaining), device=boxes.device) != best
        remaining, now = remaining[others], now[others]
    if not kept:
        return remaining[:0], now[:0]
    return torch.stack(kept), torch.stack(decayed)


def matrix_nms(boxes: Tensor, scores: Tensor, sigma: float = 0.5, score_threshold: float = 0.001,
               method: str = "gaussian") -> tuple[Tensor, Tensor]:
    """Matrix-NMS: soft-NMS without its loop, all decays at once (Wang et al., SOLOv2, NeurIPS 2020, section 3.3).

    boxes (N, 4) xyxy pixels, scores (N,) >= 0. A better box i would multiply j's score by f(iou_ij), but has perhaps
    been suppressed itself, by f of its own largest IoU with a better box; so j's factor is the smallest
    f(iou_ij) / f(max_k iou_ki) over its better boxes i, at most 1. f is gaussian, exp(-o^2 / sigma), or linear, 1 - o.
    Needs N^2 memory. Boxes whose new score is below `score_threshold` go.
    Returns the kept indices (K,) and their new scores (K,), both by falling new score.
    Raises ValueError as `nms`, for another method and for sigma <= 0.
    """
    _check(boxes, scores, 0.0)
    if method not in ("linear", "gaussian") or not sigma > 0:
        raise ValueError(f"method {method!r} with sigma {sigma}: want linear or gaussian, and sigma > 0.")
    if len(boxes) == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device), scores.clone()
    order = scores.argsort(descending=True, stable=True)
    overlap = box_iou(boxes[order], boxes[order]).nan_to_num(0).triu(diagonal=1)  # [i, j]: i is better than j
    own = overlap.amax(dim=0)[:, None]  # of each i, with its better boxes
    if method == "gaussian":
        factor = torch.exp((own**2 - overlap**2) / sigma)
    else:  # a copy of a better box is fully suppressed: it may suppress nobody
        factor = torch.where(own < 1, (1 - overlap) / (1 - own), torch.ones_like(overlap))
    decayed = scores[order] * factor.amin(dim=0).clamp(max=1).to(scores.dtype)
    ranking = decayed.argsort(descending=True, stable=True)
    ranking = ranking[decayed[ranking] >= score_threshold]
    return order[ranking], decayed[ranking]


def _passes(idxs: Tensor) -> list[Tensor]:
    """Indices of the boxes to be thinned out together: small groups until they are FEW boxes, large ones each alone."""
    _, group, sizes = idxs.unique(return_inverse=True, return_counts=True)
    alone = -1 - torch.arange(len(sizes), device=idxs.device)
    small = sizes <= SMALL
    number = torch.where(small, (sizes * small).cumsum(0) // FEW, alone)
    return [torch.where(number[group] == one)[0] for one in number.unique()]


def _greedy(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float) -> Tensor:
    """`nms` without its checks; boxes of different groups do not suppress one another."""
    order = scores.argsort(descending=True, stable=True)
    sorted_boxes = boxes.detach()[order]  # a choice has no gradient, and what follows writes in place
    sorted_boxes = sorted_boxes if boxes.dtype == torch.float64 else sorted_boxes.float()
    x1, y1, x2, y2 = sorted_boxes.T
    columns = [x1, y1, x2, y2, (x2 - x1) * (y2 - y1)]
    if groups is not None:  # numbers that every floating-point type holds exactly
        columns.append(groups[order].unique(return_inverse=True)[1].to(sorted_boxes.dtype))
    rest = torch.stack(columns)  # (5 or 6, N): x1, y1, x2, y2, area, group, each contiguous
    threshold, size, kept = _not_above(iou_threshold, rest.dtype), FIRST_BLOCK, [order[:0]]
    while len(order):
        block, later = rest[:, :size], rest[:, size:]
        alone = _resolve(_overlaps(block, block, threshold))
        kept.append(order[:size][alone])
        survives = ~_suppressed(block[:, alone], later, threshold)
        order, rest = order[size:][survives], later[:, survives]
        size = min(2 * size, BLOCK)
    return torch.cat(kept)


def _not_above(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of `dtype` up to the threshold.

    0.3 is no float32, and the nearest one lies above it: an IoU of exactly 3 / 10 would not count as above 0.3. For
    torchvision, which compares in double precision, it does.
    """
    nearest = torch.tensor(threshold, dtype=dtype)
    return (nearest if float(nearest) <= threshold else nearest.nextafter(torch.tensor(-math.inf, dtype=dtype))).item()


def _suppressed(kept: Tensor, later: Tensor, threshold: float) -> Tensor:
    """Which of the later boxes (C, m) overlap one of the kept (C, n) too much: (m,) bool, some columns at a time."""
    step = PAIRS // kept.shape[1]
    return torch.cat([_overlaps(kept, some, threshold).any(dim=0) for some in later.split(step, dim=1)])


def _overlaps(a: Tensor, b: Tensor, threshold: float) -> Tensor:
    """Whether IoU is above the threshold, (n, m) bool, for boxes as columns (C, n) and (C, m) of sides, area, group.

    `box_iou`'s arithmetic, without its checks and on whole columns, which is what makes it fast. One side need not be
    clamped: a negative height makes a negative IoU.
    """
    x1, y1, x2, y2, area = a[:5, :, None]
    width = torch.minimum(x2, b[2]).sub_(torch.maximum(x1, b[0])).clamp_(min=0)
    height = torch.minimum(y2, b[3]).sub_(torch.maximum(y1, b[1]))
    intersection = width.mul_(height)
    union = torch.add(area, b[4], out=height).sub_(intersection)
    above = intersection.div_(union) > threshold
    return above if len(a) == 5 else above & (a[5, :, None] == b[5])


def _resolve(overlaps: Tensor) -> Tensor:
    """Which of a few boxes, best first, greedy NMS keeps: (n,) bool, given which pairs overlap too much (n, n).

    A box stays unless a *staying* better box suppresses it. Repeating that sentence from "all stay" settles the first
    undecided box in every round, so it ends with the greedy answer after at most n rounds, mostly after a handful.
    """
    suppresses = overlaps.triu(diagonal=1).float()  # [i, j]: i is better and overlaps j
    stays = torch.ones(len(overlaps), device=overlaps.device)
    while True:
        after = ((stays @ suppresses) == 0).float()
        if torch.equal(after, stays):
            return stays.bool()
        stays = after


def _decay(overlap: Tensor, iou_threshold: float, sigma: float, method: str) -> Tensor:
    """What a box's score is multiplied by, given its overlap with the box just kept."""
    if method == "gaussian":
        return torch.exp(-(overlap**2) / sigma)
    factor = 1 - overlap if method == "linear" else torch.zeros_like(overlap)
    return torch.where(overlap > iou_threshold, factor, torch.ones_like(overlap))


def _check(boxes: Tensor, scores: Tensor, iou_threshold: float) -> None:
    check_device(boxes=boxes, scores=scores)
    check_boxes(boxes)
    if boxes.ndim != 2 or scores.shape != boxes.shape[:1]:
        raise ValueError(f"boxes of shape {tuple(boxes.shape)} and scores of shape {tuple(scores.shape)}: "
                         "want (N, 4) and (N,).")
    if scores.isnan().any():
        raise ValueError(f"score {int(scores.isnan().nonzero()[0])} is NaN.")
    if not iou_threshold >= 0:
        raise ValueError(f"iou_threshold {iou_threshold} is not a number >= 0.")
