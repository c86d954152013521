"""Box coding: what a network regresses is not a box but its difference from a reference box.

R-CNN's four numbers (Girshick et al., CVPR 2014, appendix C) are differences of the centre in units of the reference's
size, and logarithms of the ratio of the sizes: the same for an object at any place and scale, and any number decodes to
a box of positive size.
"""

import math

import torch
from torch import Tensor

from lessons.boxes import box_convert

MAX_LOG_RATIO = math.log(1000 / 16)  # a box grows at most 62.5-fold: exp of an untrained output must not overflow
Weights = tuple[float, float, float, float]


def encode_boxes(ground_truth: Tensor, reference: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Deltas (N, 4) that turn each reference box into its ground truth (R-CNN, appendix C, equations 6 to 9).

    ground_truth, reference: (N, 4) xyxy pixels. tx = wx (Gx - Px) / Pw, ty likewise, tw = ww log(Gw / Pw), th likewise,
    with x, y the centres: torchvision's BoxCoder. Differentiable. Raises ValueError where the shapes differ.
    """
    _check(ground_truth, reference)
    gx, gy, gw, gh = box_convert(ground_truth, "xyxy", "cxcywh").unbind(-1)
    px, py, pw, ph = box_convert(reference, "xyxy", "cxcywh").unbind(-1)
    wx, wy, ww, wh = weights
    return torch.stack([wx * (gx - px) / pw, wy * (gy - py) / ph, ww * (gw / pw).log(), wh * (gh / ph).log()], dim=-1)


def decode_boxes(deltas: Tensor, reference: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The boxes (N, 4) or (N, K * 4) xyxy pixels that deltas of that shape make of reference boxes (N, 4).

    R-CNN, appendix C, equations 1 to 4: Gx = Pw dx + Px, Gw = Pw exp(dw). dw and dh are clamped at log(1000 / 16).
    K * 4 columns are K classes' deltas, decoded from the same reference. Differentiable. Raises ValueError for shapes
    that do not fit.
    """
    if deltas.ndim != 2 or deltas.shape[1] % 4 or deltas.shape[0] != reference.shape[0]:
        raise ValueError(f"deltas of shape {tuple(deltas.shape)} for {len(reference)} boxes: want (N, 4) or (N, 4K).")
    per_class = deltas.reshape(len(deltas), -1, 4)  # (N, K, 4)
    dx, dy, dw, dh = (per_class / per_class.new_tensor(weights)).unbind(-1)
    px, py, pw, ph = box_convert(reference.to(deltas.dtype), "xyxy", "cxcywh")[:, None].unbind(-1)
    width, height = pw * dw.clamp(max=MAX_LOG_RATIO).exp(), ph * dh.clamp(max=MAX_LOG_RATIO).exp()
    decoded = torch.stack([pw * dx + px, ph * dy + py, width, height], dim=-1)
    return box_convert(decoded, "cxcywh", "xyxy").reshape(deltas.shape)


def _check(boxes: Tensor, reference: Tensor) -> None:
    if boxes.shape != reference.shape or boxes.shape[-1] != 4:
        raise ValueError(f"{tuple(boxes.shape)} boxes against {tuple(reference.shape)} references: want (N, 4) twice.")
