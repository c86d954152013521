"""Boxes: formats, areas, and how well two boxes agree (IoU and its family).

A box is four numbers, xyxy pixels unless a format says otherwise: x1, y1 the left and top edge, x2, y2 the right and
bottom edge. Edges are places on a plane, not numbers of pixels: the width is x2 - x1, never x2 - x1 + 1.
Every function takes torchvision.ops' arguments in its order and gives its result.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lessons.devices import check_device
from lessons.rotated import ROTATED, rotated_convert, rotated_iou

FORMATS = ("xyxy", "xywh", "cxcywh")  # of upright boxes


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Boxes (..., 4) from one format into another: xyxy, xywh (corner and size) or cxcywh (centre and size).

    Or rotated ones, (..., 5) xywhr and cxcywhr and (..., 8) xyxyxyxy, see lessons.rotated. Units stay what they are.
    Differentiable. Raises ValueError for another format, a last dimension that does not fit it, and from upright boxes
    to rotated ones or back.
    """
    for fmt in (in_fmt, out_fmt):
        if fmt not in (*FORMATS, *ROTATED):
            raise ValueError(f"box format {fmt!r} is none of {', '.join((*FORMATS, *ROTATED))}.")
    if in_fmt in ROTATED or out_fmt in ROTATED:
        return rotated_convert(boxes, in_fmt, out_fmt)
    _check_four(boxes)
    if in_fmt == out_fmt:
        return boxes.clone()
    a, b, c, d = boxes.unbind(-1)
    if in_fmt == "xywh":
        corners = a, b, a + c, b + d
    elif in_fmt == "cxcywh":
        corners = a - 0.5 * c, b - 0.5 * d, a + 0.5 * c, b + 0.5 * d
    else:
        corners = a, b, c, d
    x1, y1, x2, y2 = corners
    if out_fmt == "xywh":
        return torch.stack([x1, y1, x2 - x1, y2 - y1], dim=-1)
    if out_fmt == "cxcywh":
        return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=-1)
    return torch.stack([x1, y1, x2, y2], dim=-1)


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """Area (..., N) of boxes (..., N, 4), square pixels; fmt xyxy, xywh or cxcywh.

    Raises ValueError for x2 < x1, y2 < y1, NaN, infinity and for another format.
    """
    _corners(boxes, fmt)
    a, b, c, d = _upcast(boxes).unbind(-1)
    return (c - a) * (d - b) if fmt == "xyxy" else c * d


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union of every pair (Everingham et al., IJCV 2010, section 4.2), in [0, 1].

    boxes1 (..., N, 4), boxes2 (..., M, 4) -> (..., N, M). Empty N or M give an empty result; two boxes without area
    give 0 / 0 = NaN, as torchvision does. Differentiable, with gradient 0 for boxes that do not touch. fmt is one of
    `box_convert`'s formats, also of rotated boxes (see `rotated_iou`).
    Raises ValueError for another format, tensors on two devices, a box with x2 < x1, y2 < y1, NaN or infinity.
    """
    if fmt in ROTATED:
        return rotated_iou(rotated_convert(boxes1, fmt, "cxcywhr"), rotated_convert(boxes2, fmt, "cxcywhr"))
    intersection = _intersection(*_pair(boxes1, boxes2, fmt))
    area1, area2 = box_area(boxes1, fmt), box_area(boxes2, fmt)
    return intersection / (area1[..., :, None] + area2[..., None, :] - intersection)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """GIoU of every pair, IoU - |C without A and B| / |C| with C the smallest box around both, in (-1, 1].

    (..., N, 4), (..., M, 4) xyxy pixels -> (..., N, M). Rezatofighi et al., CVPR 2019, algorithm 1. Its gradient is
    not 0 for disjoint boxes. Raises ValueError as `box_iou`.
    """
    boxes1, boxes2 = _pair(boxes1, boxes2)
    intersection, union = _intersection_and_union(boxes1, boxes2)
    width, height = _enclosing_size(boxes1, boxes2)
    enclosing = width * height
    return intersection / union - (enclosing - union) / enclosing


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """DIoU of every pair: IoU minus (distance of the centres / diagonal of the enclosing box) squared.

    (..., N, 4), (..., M, 4) xyxy pixels -> (..., N, M). Zheng et al., AAAI 2020, equations 6 and 7. `eps` keeps the
    diagonal of two equal points from 0. Raises ValueError as `box_iou`.
    """
    boxes1, boxes2 = map(_upcast, _pair(boxes1, boxes2))
    intersection, union = _intersection_and_union(boxes1, boxes2)
    return intersection / union - _centre_penalty(boxes1, boxes2, eps)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7) -> Tensor:
    """CIoU of every pair: DIoU minus alpha * v, v the difference in shape (Zheng et al., AAAI 2020, equations 8 to 11).

    (..., N, 4), (..., M, 4) xyxy pixels -> (..., N, M). v = 4 / pi^2 (arctan(w1 / h1) - arctan(w2 / h2))^2 and
    alpha = v / (1 - IoU + v), held constant in the gradient as the paper does. Raises ValueError as `box_iou`.
    """
    boxes1, boxes2 = map(_upcast, _pair(boxes1, boxes2))
    intersection, union = _intersection_and_union(boxes1, boxes2)
    iou = intersection / union
    width1, height1 = (boxes1[..., :, None, 2:] - boxes1[..., :, None, :2]).unbind(-1)
    width2, height2 = (boxes2[..., None, :, 2:] - boxes2[..., None, :, :2]).unbind(-1)
    v = 4 / math.pi**2 * (torch.atan(width1 / height1) - torch.atan(width2 / height2)) ** 2
    with torch.no_grad():
        alpha = v / (1 - iou + v + eps)
    return iou - _centre_penalty(boxes1, boxes2, eps) - alpha * v


def clip_boxes_to_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) xyxy pixels moved into an image of size (height, width); one outside becomes a line or a point.

    Raises ValueError for a last dimension that is not 4 and a negative size.
    """
    _check_four(boxes)
    height, width = size
    if not (height >= 0 and width >= 0):
        raise ValueError(f"size {tuple(size)}: want a height and a width >= 0.")
    x, y = boxes[..., 0::2].clamp(min=0, max=width), boxes[..., 1::2].clamp(min=0, max=height)
    return torch.stack([x, y], dim=-1).reshape(boxes.shape)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Indices (K,) of the boxes (N, 4) xyxy whose width and height are both at least `min_size` pixels.

    Raises ValueError for a last dimension that is not 4 and a min_size that is NaN.
    """
    _check_four(boxes)
    if math.isnan(min_size):
        raise ValueError(f"min_size {min_size} is not a number.")
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.where((sides >= min_size).all(dim=-1))[0]


def masks_to_boxes(masks: Tensor) -> Tensor:
    """The box around each mask: masks (N, H, W), boxes (N, 4) float32 xyxy of the first and last pixel numbers.

    As torchvision's: x2 and y2 are the last pixel, so that a mask of one pixel gives a box without area; add 1 to them
    for a box that holds the pixels. A mask without pixels gives 0, 0, 0, 0. Raises ValueError for another shape.
    """
    if masks.ndim != 3:
        raise ValueError(f"masks of shape {tuple(masks.shape)}: want (N, H, W).")
    if masks.numel() == 0:
        return torch.zeros((len(masks), 4), device=masks.device)
    filled = masks != 0
    columns, rows = filled.any(dim=1), filled.any(dim=2)
    first = [side.int().argmax(dim=1) for side in (columns, rows)]
    last = [side.shape[1] - 1 - side.flip(1).int().argmax(dim=1) for side in (columns, rows)]
    boxes = torch.stack([*first, *last], dim=1).float()
    return boxes * columns.any(dim=1, keepdim=True)


def check_boxes(boxes: Tensor) -> Tensor:
    """The boxes (..., 4) xyxy themselves; ValueError names the first with x2 < x1, y2 < y1, NaN or infinity."""
    _check_four(boxes)
    right = (boxes[..., 2:] >= boxes[..., :2]).all(-1) & boxes.isfinite().all(-1)  # NaN compares as False
    if not right.all():
        raise ValueError(f"box {boxes[~right][0].tolist()}: want finite numbers with x1 <= x2 and y1 <= y2.")
    return boxes


def _check_four(boxes: Tensor) -> None:
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes of shape {tuple(boxes.shape)}: the last dimension must be 4.")


def _corners(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    return check_boxes(boxes if fmt == "xyxy" else box_convert(boxes, fmt, "xyxy"))


def _pair(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> tuple[Tensor, Tensor]:
    check_device(boxes1=boxes1, boxes2=boxes2)
    if min(boxes1.ndim, boxes2.ndim) < 2:
        raise ValueError(f"boxes of shapes {tuple(boxes1.shape)} and {tuple(boxes2.shape)}: want (..., N, 4) twice.")
    return _corners(boxes1, fmt), _corners(boxes2, fmt)


def _upcast(boxes: Tensor) -> Tensor:
    """Half precision becomes float32 and small integers int32: a product of two sides would not fit."""
    if boxes.is_floating_point():
        return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()
    return boxes if boxes.dtype in (torch.int32, torch.int64) else boxes.int()


def _intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Area (..., N, M) that boxes (..., N, 4) and (..., M, 4) share: 0 where they lie apart."""
    width, height = (_upcast(torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0)
                     for (low1, high1), (low2, high2) in _sides(boxes1, boxes2))
    return width * height


def _intersection_and_union(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Areas (..., N, M) that boxes (..., N, 4) and (..., M, 4) share and cover together."""
    intersection = _intersection(boxes1, boxes2)
    return intersection, box_area(boxes1)[..., :, None] + box_area(boxes2)[..., None, :] - intersection


def _enclosing_size(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, ...]:
    """Width and height (..., N, M) of the smallest box around each pair."""
    return tuple(_upcast(torch.maximum(high1, high2) - torch.minimum(low1, low2)).clamp(min=0)
                 for (low1, high1), (low2, high2) in _sides(boxes1, boxes2))


def _sides(boxes1: Tensor, boxes2: Tensor) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """For x, then y: where the boxes begin and end, (..., N, 1) and (..., 1, M), each contiguous, which is faster."""
    for low, high in ((0, 2), (1, 3)):
        yield ((boxes1[..., :, low, None].contiguous(), boxes1[..., :, high, None].contiguous()),
               (boxes2[..., None, :, low].contiguous(), boxes2[..., None, :, high].contiguous()))


def _centre_penalty(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """(distance of the centres / diagonal of the enclosing box) squared, (..., N, M)."""
    width, height = _enclosing_size(boxes1, boxes2)
    centre1, centre2 = (boxes1[..., :2] + boxes1[..., 2:]) / 2, (boxes2[..., :2] + boxes2[..., 2:]) / 2
    distance = centre1[..., :, None, :] - centre2[..., None, :, :]
    return (distance**2).sum(-1) / (width**2 + height**2 + eps)
