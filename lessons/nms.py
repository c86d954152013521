"""Non-maximum suppression: of many boxes on one object, keep one.

Greedy NMS keeps the best-scored box, deletes every box that overlaps it by more than a threshold, and goes on with the
best of the rest. Box by box that is N steps in Python. Here the sorted boxes are taken in blocks: first a block is
resolved inside itself, then what it keeps deletes from all later boxes at once. Memory is linear in N.
"""

import torch
from torch import Tensor

from lessons.boxes import box_area, box_iou, check_boxes

BLOCK = 256  # boxes resolved at a time: large enough to spare Python steps, small enough for a 256 x 256 table of IoUs


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that greedy NMS keeps, by falling score.

    boxes (N, 4) xyxy pixels, scores (N,). A box goes when its IoU with a kept, better-scored box is above
    `iou_threshold`; of equal scores the first counts as the better. Returns (K,) int64; no boxes give no indices.
    Raises ValueError for a box with x2 < x1, y2 < y1 or NaN, a NaN score, lengths that differ or a threshold < 0.
    """
    _check(boxes, scores, iou_threshold)
    order = scores.argsort(descending=True, stable=True)
    sorted_boxes = boxes[order] if boxes.dtype == torch.float64 else boxes[order].float()
    rest = torch.cat([sorted_boxes.T, box_area(sorted_boxes)[None]])  # (5, N): x1, y1, x2, y2, area, each contiguous
    kept = []
    while len(order):
        block, later = rest[:, :BLOCK], rest[:, BLOCK:]
        alone = _resolve(_overlaps(block, block, iou_threshold))
        kept.append(order[:BLOCK][alone])
        survives = ~_overlaps(block[:, alone], later, iou_threshold).any(dim=0)
        order, rest = order[BLOCK:][survives], later[:, survives]
    return torch.cat(kept) if kept else order


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """NMS inside each group only, for instance each class; indices (K,) by falling score.

    boxes (N, 4) xyxy pixels, scores (N,), idxs (N,) the group of each box. torchvision moves the groups apart in space,
    which mixes them where coordinates are negative; here each group is on its own, whatever the coordinates.
    Raises ValueError as `nms`, and for idxs of another length.
    """
    _check(boxes, scores, iou_threshold)
    if idxs.shape != scores.shape:
        raise ValueError(f"idxs of shape {tuple(idxs.shape)} for scores of shape {tuple(scores.shape)}.")
    kept = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for group in idxs.unique():
        members = torch.where(idxs == group)[0]
        kept[members[nms(boxes[members], scores[members], iou_threshold)]] = True
    order = scores.argsort(descending=True, stable=True)
    return order[kept[order]]


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
    if method not in ("linear", "gaussian", "hard") or sigma <= 0:
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


def _decay(overlap: Tensor, iou_threshold: float, sigma: float, method: str) -> Tensor:
    """What a box's score is multiplied by, given its overlap with the box just kept."""
    if method == "gaussian":
        return torch.exp(-(overlap**2) / sigma)
    factor = 1 - overlap if method == "linear" else torch.zeros_like(overlap)
    return torch.where(overlap > iou_threshold, factor, torch.ones_like(overlap))


def _overlaps(a: Tensor, b: Tensor, iou_threshold: float) -> Tensor:
    """Whether IoU is above the threshold, (n, m) bool, for boxes as columns (5, n) and (5, m) of sides and area.

    `box_iou`'s arithmetic, without its checks and on whole columns, which is what makes it fast.
    """
    x1, y1, x2, y2, area = a[:, :, None]
    width = torch.minimum(x2, b[2]).sub_(torch.maximum(x1, b[0])).clamp_(min=0)
    height = torch.minimum(y2, b[3]).sub_(torch.maximum(y1, b[1])).clamp_(min=0)
    intersection = width.mul_(height)
    union = (area + b[4]).sub_(intersection)
    return intersection.div_(union) > iou_threshold


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


def _check(boxes: Tensor, scores: Tensor, iou_threshold: float) -> None:
    check_boxes(boxes)
    if boxes.ndim != 2 or scores.shape != boxes.shape[:1]:
        raise ValueError(f"boxes of shape {tuple(boxes.shape)} and scores of shape {tuple(scores.shape)}: "
                         "want (N, 4) and (N,).")
    if scores.isnan().any():
        raise ValueError(f"score {int(scores.isnan().nonzero()[0])} is NaN.")
    if not iou_threshold >= 0:
        raise ValueError(f"iou_threshold {iou_threshold} is not a number >= 0.")
