"""How well detections and objects agree, by COCO's rules: IoU of boxes, IoU of masks, similarity of keypoints.

Each function takes one image's detections and target in the sample form and returns two float64 arrays: the agreement
(D, G) of every detection with every object, in [0, 1], and the detections' sizes (D,) in square pixels, by which COCO
sorts them into small, medium and large. Against a crowd, intersection counts in relation to the detection's own size.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
# COCO's tolerances, nose to ankles: the standard deviation of two annotators' points, relative to the object's scale
SIGMAS = np.array([.26, .25, .25, .35, .35, .79, .79, .72, .72, .62, .62, 1.07, 1.07, .87, .87, .89, .89]) / 10


def of_boxes(detection: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> tuple[Array, Array]:
    """IoU of boxes (D, 4) and (G, 4), xyxy pixels; 0 where there is no intersection, also for boxes without area."""
    boxes, truth = _double(detection["boxes"]), _double(target["boxes"]).reshape(-1, 4)
    low = np.maximum(boxes[:, None, :2], truth[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truth[None, :, 2:])
    size, truth_size = _box_area(boxes), _box_area(truth)
    return _ratio(np.clip(high - low, 0, None).prod(2), size, truth_size, target), size


def of_masks(detection: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> tuple[Array, Array]:
    """IoU of masks (D, H, W) or (D, 1, H, W), bool or probabilities above 0.5, with the target's (G, H, W).

    Raises ValueError where the pictures differ in size.
    """
    masks, truth = detection["masks"].cpu(), target["masks"].cpu()
    if len(masks) and len(truth) and masks.shape[-2:] != truth.shape[-2:]:
        raise ValueError(f"image {target['image_id']}: masks of {tuple(masks.shape[-2:])} pixels for objects of "
                         f"{tuple(truth.shape[-2:])}.")
    filled = masks.flatten(1) > 0.5
    size, truth_size = (_double(m.flatten(1).sum(1)) for m in (filled, truth > 0.5))
    if not len(masks) or not len(truth):
        return np.zeros((len(masks), len(truth))), size
    shared = filled.float() @ (truth > 0.5).flatten(1).float().T  # whole numbers below 2^24: exact
    return _ratio(_double(shared), size, truth_size, target), size


def of_keypoints(detection: Mapping[str, Tensor], target: Mapping[str, Tensor], sigmas: Sequence[float] | Array = SIGMAS
                 ) -> tuple[Array, Array]:
    """Object keypoint similarity of points (D, P, 3) and (G, P, 3), each (x, y, visibility) in pixels.

    The mean over an object's labelled points of exp(-d^2 / (2 (2 sigma)^2 area)), d the distance to the detected point
    (cocodataset.org, "Keypoint evaluation"). An object without a labelled point is ignored; what lies in or around its
    box counts as found there. sigmas: the tolerance of each point; by default those of COCO's 17.
    Raises ValueError for another number of points than sigmas.
    """
    points, truth = _double(detection["keypoints"]), _double(target["keypoints"])
    if points.shape[1:] != (len(sigmas), 3) or truth.shape[1:] != (len(sigmas), 3):
        raise ValueError(f"image {target['image_id']}: keypoints {points.shape} and {truth.shape}; want "
                         f"(N, {len(sigmas)}, 3).")
    boxes, area = _double(target["boxes"]), _double(target["area"])
    labelled = (target["keypoints"][..., 2] > 0).cpu().numpy()  # (G, P)
    offset = points[:, None, :, :2] - truth[None, :, :, :2]  # (D, G, P, 2)
    nowhere = labelled.sum(1) == 0
    if nowhere.any():
        offset[:, nowhere] = _outside(points[..., :2], boxes[nowhere])
    exponent = (offset**2).sum(-1) / (2 * np.asarray(sigmas)) ** 2 / (area[:, None] + np.spacing(1)) / 2
    counted = labelled | nowhere[:, None]
    similarity = (np.exp(-exponent) * counted).sum(-1) / counted.sum(-1)
    extent = np.ptp(points[..., :2], axis=1)  # (D, 2)
    return similarity, extent.prod(1)


def _box_area(boxes: Array) -> Array:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _outside(points: Array, boxes: Array) -> Array:
    """How far points (D, P, 2) lie outside boxes (G, 4) of three times their size, in x and y: (D, G, P, 2)."""
    side = boxes[:, 2:] - boxes[:, :2]
    low, high = (boxes[:, :2] - side)[:, None], (boxes[:, 2:] + side)[:, None]
    return np.maximum(0, low - points[:, None]) + np.maximum(0, points[:, None] - high)


def _ratio(shared: Array, size: Array, truth_size: Array, target: Mapping[str, Tensor]) -> Array:
    """Intersection (D, G) over union, or over the detection alone for a crowd; 0 where nothing is shared."""
    crowd = target["iscrowd"].cpu().numpy().astype(bool)
    whole = np.where(crowd[None], size[:, None], size[:, None] + truth_size[None] - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)


def _double(tensor: Tensor) -> Array:
    return tensor.detach().cpu().to(torch.float64).numpy()
