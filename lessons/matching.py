"""Matching: which prediction answers for which object.

A detector predicts at many places, an image holds few objects. Training needs to know for each place (an anchor, a
proposal, a point, a query) the object that it shall find, or that it shall find none. Four answers, in the order in
which they were given: by overlap (R-CNN to RetinaNet), by lying inside an object's box (FCOS), and one to one at the
least total cost (DETR); of the first, a sample with enough objects in it is then drawn.
"""

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lessons.boxes import box_area, check_boxes
from lessons.devices import check_device

BELOW, BETWEEN = -1, -2  # not an index of a ground truth: background, and neither object nor background


def match_boxes(iou: Tensor, high: float, low: float, allow_low_quality: bool = False) -> Tensor:
    """For each of N boxes the ground truth with which it overlaps most: (N,) int64, torchvision's Matcher.

    iou: (G, N), row by ground truth (any quality will do). A best IoU >= high gives the index of the ground truth (of
    equal ones the first), below low -1 (background), in between -2 (to be ignored). With allow_low_quality every
    ground truth's best boxes, all that tie, get back what they overlap most with, be it ever so little: where a ground
    truth touches no box at all, all boxes tie at 0 and so all are matched (Ren et al., NeurIPS 2015, section 3.1.2).
    No boxes give (0,). Departs from torchvision where G = 0: all boxes are background, where torchvision raises.
    Raises ValueError for an iou that is not (G, N) or not finite, and for thresholds that are not low <= high.
    """
    if iou.ndim != 2:
        raise ValueError(f"iou of shape {tuple(iou.shape)}: want (G, N).")
    if not low <= high:
        raise ValueError(f"low {low} and high {high}: want numbers with low <= high.")
    if not iou.isfinite().all():
        raise ValueError(f"iou {iou[~iou.isfinite()][0].item()} is not finite.")
    if iou.numel() == 0:
        return torch.full(iou.shape[1:], BELOW, device=iou.device)
    best, nearest = iou.max(dim=0)
    matches = nearest.masked_fill(best < high, BETWEEN).masked_fill(best < low, BELOW)
    if allow_low_quality:
        is_best = (iou == iou.amax(dim=1, keepdim=True)).any(dim=0)  # best box of some ground truth
        matches = torch.where(is_best, nearest, matches)
    return matches


def sample_balanced(labels: Tensor, batch_size: int, positive_fraction: float,
                    generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """A random sample of one image's boxes with enough objects in it: indices (P,) and (M,) int64, each ascending.

    labels: (N,), >= 1 an object, 0 background, anything else ignored. At most int(batch_size * positive_fraction)
    objects are drawn without replacement, and background fills up to batch_size as far as there is any (Girshick, ICCV
    2015, section 2.3). torchvision's BalancedPositiveNegativeSampler: it draws the same sets from the same global seed,
    and returns them as masks. `generator`, on the device of the labels, takes the place of the global seed.
    Raises ValueError for labels that are not (N,) or NaN, a batch_size that is no whole number >= 0 and a fraction
    outside [0, 1].
    """
    if labels.ndim != 1 or labels.isnan().any():
        raise ValueError(f"labels of shape {tuple(labels.shape)}, {int(labels.isnan().sum())} NaN: want (N,), no NaN.")
    if batch_size < 0 or batch_size % 1 or not 0 <= positive_fraction <= 1:
        raise ValueError(f"batch_size {batch_size} with positive_fraction {positive_fraction}: want a whole number "
                         ">= 0 and a number in [0, 1].")
    positive, negative = torch.where(labels >= 1)[0], torch.where(labels == 0)[0]
    count = min(len(positive), int(batch_size * positive_fraction))
    return _draw(positive, count, generator), _draw(negative, batch_size - count, generator)


def hungarian_match(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one matching of least total cost (Kuhn 1955): rows (R,) ascending and their columns (R,), int64.

    cost: (Q, G), for instance queries by ground truths; R = min(Q, G). Solved by scipy on the CPU in float64; the
    indices come back on the device of the cost. It has no gradient: a matching is a decision.
    Raises ValueError for a cost that is not (Q, G) or not finite.
    """
    if cost.ndim != 2:
        raise ValueError(f"cost of shape {tuple(cost.shape)}: want (Q, G).")
    if not cost.isfinite().all():
        raise ValueError(f"cost {cost[~cost.isfinite()][0].item()} is not finite.")
    rows, columns = linear_sum_assignment(cost.detach().double().cpu().numpy())
    return torch.as_tensor(rows, device=cost.device), torch.as_tensor(columns, device=cost.device)


def fcos_ranges(strides: Tensor, reach: float = 8) -> Tensor:
    """The sizes each point answers for, (N, 2) pixels from and to: reach / 2 to reach strides (FCOS, section 3.2).

    strides: (N,) of the level of each point. The finest level starts at 0 and the coarsest has no end: for strides 8
    to 128 and a reach of 8 the paper's 0, 64, 128, 256, 512, infinity. Raises ValueError for strides that are not (N,)
    or not > 0, and for a reach that is not > 0.
    """
    _check_strides(strides)
    if not reach > 0:
        raise ValueError(f"reach {reach}: want a number of strides > 0.")
    if not len(strides):
        return strides.new_zeros((0, 2))
    lower = torch.where(strides == strides.min(), 0, strides * (reach / 2))
    upper = torch.where(strides == strides.max(), math.inf, strides * reach)
    return torch.stack([lower.to(upper.dtype), upper], dim=1)


def fcos_targets(boxes: Tensor, points: Tensor, strides: Tensor, ranges: Tensor, radius: float = 1.5) -> Tensor:
    """For each of N points the ground truth that it answers for: (N,) int64, -1 for background.

    FCOS (Tian et al., ICCV 2019, sections 3.1 and 3.2); the arguments are those of `fcos_fits`. Of several boxes that a
    point fits the smallest wins, of equal areas the first. No boxes: all background.
    This is torchvision's FCOS, whose anchors have the points as centres and the strides as sides; like it, areas are
    compared as 1e8 - area, so that in float32 areas less than 8 square pixels apart can tie (in float64 they do not).
    Departs from torchvision for a box of 1e8 square pixels and more, which it leaves unmatched.
    Raises ValueError as `fcos_fits`.
    """
    fits = fcos_fits(boxes, points, strides, ranges, radius)
    if not len(boxes):
        return torch.full_like(strides, -1, dtype=torch.int64)
    smallness = torch.where(fits, 1e8 - box_area(boxes), -math.inf)
    return torch.where(fits.any(dim=1), smallness.max(dim=1).indices, -1)


def fcos_fits(boxes: Tensor, points: Tensor, strides: Tensor, ranges: Tensor, radius: float = 1.5) -> Tensor:
    """Which of G ground truths each of N points could answer for: (N, G) bool; more than one makes it ambiguous.

    boxes: (G, 4) xyxy pixels. points: (N, 2) x and y, pixels. strides: (N,) pixels, of each point's level. ranges:
    (N, 2) pixels, see `fcos_ranges`. A point fits a box when it lies inside, less than radius * stride from the box's
    centre in x and in y, and when the farthest of the four sides is farther than its range's lower end and nearer than
    the upper (FCOS, sections 3.1 and 3.2).
    Departs from the paper, whose ranges have their ends in them and where any point inside a box fits, as with radius
    math.inf: the centre sampling is the authors' later improvement (Tian et al., TPAMI 2020).
    Raises ValueError for shapes or devices that differ, a bad box, stride or radius, and points or ranges with NaN.
    """
    _check_points(boxes, points, strides, ranges, radius)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    from_centre = (points[:, None] - centre).abs().amax(dim=2)  # (N, G)
    sides = torch.cat([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], dim=2)  # l, t, r, b
    farthest = sides.amax(dim=2)
    fits = (sides.amin(dim=2) > 0) & (from_centre < radius * strides[:, None])
    return fits & (farthest > ranges[:, :1]) & (farthest < ranges[:, 1:])


def _draw(indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` of the indices at random, or all where there are fewer, ascending."""
    shuffled = torch.randperm(len(indices), generator=generator, device=indices.device)
    return indices[shuffled[:count]].sort().values


def _check_strides(strides: Tensor) -> None:
    if strides.ndim != 1:
        raise ValueError(f"strides of shape {tuple(strides.shape)}: want (N,).")
    right = (strides > 0) & strides.isfinite()
    if not right.all():
        raise ValueError(f"stride {strides[~right][0].item()}: want a finite number > 0.")


def _check_points(boxes: Tensor, points: Tensor, strides: Tensor, ranges: Tensor, radius: float) -> None:
    check_device(boxes=boxes, points=points, strides=strides, ranges=ranges)
    _check_strides(strides)
    shapes = tuple(boxes.shape[1:]), tuple(points.shape), tuple(ranges.shape)
    if shapes != ((4,), (len(strides), 2), (len(strides), 2)):
        raise ValueError(f"boxes {tuple(boxes.shape)}, points {shapes[1]} and ranges {shapes[2]} for {len(strides)} "
                         "strides: want (G, 4), (N, 2) and (N, 2).")
    check_boxes(boxes)
    if not points.isfinite().all():
        raise ValueError(f"point {points[~points.isfinite().all(dim=1)][0].tolist()} is not finite.")
    if ranges.isnan().any():
        raise ValueError(f"range {ranges[ranges.isnan().any(dim=1)][0].tolist()} holds NaN.")
    if not radius > 0:
        raise ValueError(f"radius {radius} is not a number > 0.")
