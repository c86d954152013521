"""Box coding: what a network regresses is not a box but its difference from a reference box.

R-CNN's four numbers (Girshick et al., CVPR 2014, appendix C) are differences of the centre in units of the reference's
size, and logarithms of the ratio of the sizes: the same for an object at any place and scale, and any number decodes to
a box of positive size. FCOS's four (Tian et al., ICCV 2019, section 3.1) are distances from a point to the box's sides.
"""

import math

import torch
from torch import Tensor

from lessons.boxes import box_convert, check_boxes
from lessons.devices import check_device

MAX_LOG_RATIO = math.log(1000 / 16)  # a box grows at most 62.5-fold: exp of an untrained output must not overflow
Weights = tuple[float, float, float, float]


def encode_boxes(ground_truth: Tensor, reference: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Deltas (N, 4) that turn each reference box into its ground truth (R-CNN, appendix C, equations 6 to 9).

    ground_truth, reference: (N, 4) xyxy pixels. tx = wx (Gx - Px) / Pw, ty likewise, tw = ww log(Gw / Pw), th likewise,
    with x, y the centres: torchvision's BoxCoder. A reference or a ground truth without area gives infinities or NaN.
    Differentiable. Raises ValueError where shapes or devices differ and for a box with x2 < x1, y2 < y1, NaN or
    infinity.
    """
    check_device(ground_truth=ground_truth, reference=reference)
    if ground_truth.shape != reference.shape:
        raise ValueError(f"{tuple(ground_truth.shape)} boxes against {tuple(reference.shape)} references: want (N, 4) "
                         "twice.")
    check_boxes(ground_truth)
    check_boxes(reference)
    gx, gy, gw, gh = box_convert(ground_truth, "xyxy", "cxcywh").unbind(-1)
    px, py, pw, ph = box_convert(reference, "xyxy", "cxcywh").unbind(-1)
    wx, wy, ww, wh = weights
    return torch.stack([wx * (gx - px) / pw, wy * (gy - py) / ph, ww * (gw / pw).log(), wh * (gh / ph).log()], dim=-1)


def decode_boxes(deltas: Tensor, reference: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The boxes (N, 4) or (N, K * 4) xyxy pixels that deltas of that shape make of reference boxes (N, 4).

    R-CNN, appendix C, equations 1 to 4: Gx = Pw dx + Px, Gw = Pw exp(dw). dw and dh are clamped at log(1000 / 16).
    K * 4 columns are K classes' deltas, decoded from the same reference. No boxes give (0, K * 4). Differentiable; the
    deltas, a network's output, may be any number. Raises ValueError for shapes or devices that do not fit and for a
    reference with x2 < x1, y2 < y1, NaN or infinity.
    """
    check_device(deltas=deltas, reference=reference)
    if deltas.ndim != 2 or deltas.shape[1] % 4 or reference.shape != (len(deltas), 4):
        raise ValueError(f"deltas of shape {tuple(deltas.shape)} for boxes of shape {tuple(reference.shape)}: want "
                         "(N, 4) or (N, 4K), and (N, 4).")
    check_boxes(reference)
    per_class = deltas.reshape(len(deltas), deltas.shape[1] // 4, 4)  # (N, K, 4); -1 for K would not know 0 boxes
    dx, dy, dw, dh = (per_class / per_class.new_tensor(weights)).unbind(-1)
    px, py, pw, ph = box_convert(reference.to(deltas.dtype), "xyxy", "cxcywh")[:, None].unbind(-1)
    width, height = pw * dw.clamp(max=MAX_LOG_RATIO).exp(), ph * dh.clamp(max=MAX_LOG_RATIO).exp()
    decoded = torch.stack([pw * dx + px, ph * dy + py, width, height], dim=-1)
    return box_convert(decoded, "cxcywh", "xyxy").reshape(deltas.shape)


def encode_ltrb(ground_truth: Tensor, reference: Tensor, normalize_by_size: bool = True) -> Tensor:
    """Distances (..., N, 4) left, top, right, bottom from each reference's centre to its ground truth's sides (FCOS).

    ground_truth: (..., N, 4), reference: (..., N, 4) or (N, 4) for a whole batch, xyxy pixels. The result is in pixels,
    or, with normalize_by_size, in widths (left, right) and heights (top, bottom) of the reference. A centre outside the
    ground truth has negative distances. torchvision's BoxLinearCoder takes its arguments the other way round than its
    BoxCoder, `encode(references, ground truths)`; here the ground truth is first in both codings. Differentiable.
    Departs from FCOS, whose reference is a point: here it is the square of a stride's side around that point.
    Raises ValueError for shapes or devices that do not fit and for a box with x2 < x1, y2 < y1, NaN or infinity.
    """
    check_device(ground_truth=ground_truth, reference=reference)
    _check_shapes(ground_truth, reference)
    check_boxes(ground_truth)
    check_boxes(reference)
    centre = (reference[..., :2] + reference[..., 2:]) / 2
    distances = torch.cat([centre - ground_truth[..., :2], ground_truth[..., 2:] - centre], dim=-1)
    return distances / _sizes(reference) if normalize_by_size else distances


def decode_ltrb(deltas: Tensor, reference: Tensor, normalize_by_size: bool = True) -> Tensor:
    """The boxes (..., N, 4) xyxy pixels that distances of that shape make of references: the inverse of `encode_ltrb`.

    reference: (..., N, 4) or (N, 4) for a whole batch, xyxy pixels; taken in the precision of the deltas.
    torchvision's BoxLinearCoder, with its order: deltas first. Negative distances can give boxes with
    x2 < x1; FCOS's are made positive before. Differentiable; the deltas, a network's output, may be any number.
    Raises ValueError for shapes or devices that do not fit and for a reference with x2 < x1, y2 < y1, NaN or infinity.
    """
    check_device(deltas=deltas, reference=reference)
    _check_shapes(deltas, reference)
    reference = check_boxes(reference).to(deltas.dtype)
    distances = deltas * _sizes(reference) if normalize_by_size else deltas
    centre = (reference[..., :2] + reference[..., 2:]) / 2
    return torch.cat([centre - distances[..., :2], centre + distances[..., 2:]], dim=-1)


def _sizes(boxes: Tensor) -> Tensor:
    """Width, height, width, height (..., 4): what distances to the left, top, right and bottom are measured in."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([sides, sides], dim=-1)


def _check_shapes(values: Tensor, reference: Tensor) -> None:
    """The reference may lack leading dimensions, which then share it; nothing else is broadcast."""
    shape = tuple(reference.shape)
    if not shape or shape[-1] != 4 or tuple(values.shape[-len(shape):]) != shape:
        raise ValueError(f"{tuple(values.shape)} against {shape} references: want (..., N, 4), and that or (N, 4).")
