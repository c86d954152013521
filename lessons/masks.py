"""Masks: what Mask R-CNN's mask branch is compared with in training, and where its output goes in the image.

The branch sees each RoI as a square of M x M cells, whatever the RoI's shape. So the true mask is cut to the RoI and
squeezed into that square to train; a predicted square is stretched over its box again to be shown.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lessons.boxes import check_boxes
from lessons.devices import check_device
from lessons.roi import roi_align


def mask_loss(mask_logits: Tensor, proposals: Sequence[Tensor], gt_masks: Sequence[Tensor], gt_labels: Sequence[Tensor],
              matched_idxs: Sequence[Tensor]) -> Tensor:
    """Mean binary cross-entropy of the true class's mask against the true mask (He et al., ICCV 2017, section 3).

    mask_logits (N, K, M, M) for the N positive RoIs of all images; for each image: proposals (n, 4) xyxy pixels,
    gt_masks (G, H, W), gt_labels (G,) in 0 ... K - 1, matched_idxs (n,), the ground truth of each proposal. Only the
    map of the true class counts, so classes do not compete. Returns a scalar; 0 with no RoI.
    Raises ValueError for lengths that do not fit, and an index or label out of range.
    """
    check_device(mask_logits=mask_logits, gt_labels=gt_labels, proposals=proposals)
    check_matched(proposals, gt_masks, matched_idxs, len(mask_logits))
    if not len(mask_logits):
        return mask_logits.sum() * 0  # a mean over nothing would be NaN
    if [label.shape for label in gt_labels] != [masks.shape[:1] for masks in gt_masks]:
        raise ValueError(f"labels of shapes {[tuple(label.shape) for label in gt_labels]} for masks of shapes "
                         f"{[tuple(masks.shape) for masks in gt_masks]}.")
    labels = torch.cat([label[idx] for label, idx in zip(gt_labels, matched_idxs, strict=True)])
    side = mask_logits.shape[-1]
    targets = [project_masks(masks, boxes, idx, side)
               for masks, boxes, idx in zip(gt_masks, proposals, matched_idxs, strict=True)]
    return F.binary_cross_entropy_with_logits(_of_class(mask_logits, labels), torch.cat(targets))


def project_masks(gt_masks: Tensor, boxes: Tensor, matched_idxs: Tensor, side: int) -> Tensor:
    """The part of each box's ground truth inside the box, as (n, side, side) numbers in [0, 1]: RoIAlign of the mask.

    gt_masks (G, H, W), boxes (n, 4) xyxy pixels, matched_idxs (n,).
    Raises ValueError for shapes that do not fit, and as `roi_align`.
    """
    check_device(gt_masks=gt_masks, boxes=boxes, matched_idxs=matched_idxs)
    if gt_masks.ndim != 3 or boxes.shape != (len(boxes), 4) or matched_idxs.shape != boxes.shape[:1]:
        raise ValueError(f"masks of shape {tuple(gt_masks.shape)}, boxes of {tuple(boxes.shape)}, matched_idxs of "
                         f"{tuple(matched_idxs.shape)}: want (G, H, W), (n, 4) and (n,).")
    if not len(boxes):
        return boxes.new_zeros(0, side, side)
    rois = torch.cat([matched_idxs[:, None].to(boxes), boxes], dim=1)  # the ground truth's number in the image's place
    return roi_align(gt_masks[:, None].to(boxes.dtype), rois, side)[:, 0]


def mask_probabilities(mask_logits: Tensor, labels: Sequence[Tensor]) -> list[Tensor]:
    """The mask of each detection's class: (n, 1, M, M) in [0, 1] for each image.

    mask_logits (N, K, M, M) for the detections of all images, labels (n,) for each image: the box branch decides the
    class, the mask branch only draws. Raises ValueError where the numbers differ or a label is out of range.
    """
    check_device(mask_logits=mask_logits, labels=labels)
    if any(label.ndim != 1 for label in labels):
        raise ValueError(f"labels of shapes {[tuple(label.shape) for label in labels]}: want (n,) for each image.")
    counts = [len(label) for label in labels]
    if sum(counts) != len(mask_logits):
        raise ValueError(f"{sum(counts)} labels for {len(mask_logits)} masks.")
    if not counts:
        return []
    return list(_of_class(mask_logits, torch.cat(list(labels))).sigmoid()[:, None].split(counts))


def paste_masks(masks: Tensor, boxes: Tensor, image_size: tuple[int, int], padding: int = 1) -> Tensor:
    """Masks (N, 1, M, M) stretched over their boxes (N, 4) xyxy pixels: (N, 1, H, W) in an image of size (H, W).

    As in Mask R-CNN's code a border of `padding` zeros is put around the mask and the box grown with it, so that the
    mask can fade out at the box's edge; then the box is cut to whole pixels and the mask interpolated linearly.
    Linear interpolation is a product with a matrix on each side, which is how all masks are pasted at once.
    Raises ValueError for shapes that do not fit, padding < 0 and a box with x2 < x1, y2 < y1, NaN or infinity.
    """
    check_device(masks=masks, boxes=boxes)
    if masks.ndim != 4 or masks.shape[1] != 1 or masks.shape[2] != masks.shape[3] or boxes.shape != (len(masks), 4):
        raise ValueError(f"masks of shape {tuple(masks.shape)} for boxes of shape {tuple(boxes.shape)}: "
                         "want (N, 1, M, M) and (N, 4).")
    if padding < 0:
        raise ValueError(f"padding {padding} is below 0.")
    padded = F.pad(masks[:, 0], [padding] * 4)
    padded = padded if padded.dtype == torch.float64 else padded.float()
    grown = _grow(check_boxes(boxes), padded.shape[-1] / masks.shape[-1]).long()  # cut towards 0
    rows = _stretch(grown[:, 1], grown[:, 3], image_size[0], padded)
    columns = _stretch(grown[:, 0], grown[:, 2], image_size[1], padded)
    with torch.autocast(masks.device.type, enabled=False):  # which would take the products in half precision
        return (rows @ padded @ columns.mT)[:, None].to(masks.dtype)


def check_matched(proposals: Sequence[Tensor], ground_truth: Sequence[Tensor], matched_idxs: Sequence[Tensor],
                  count: int) -> None:
    """ValueError unless each proposal has one index of a ground truth of its image, on its device, and `count` in all.

    For each image: proposals (n, 4), ground_truth (G, ...), matched_idxs (n,).
    """
    check_device(proposals=proposals, ground_truth=ground_truth, matched_idxs=matched_idxs)
    for boxes, idx in zip(proposals, matched_idxs, strict=False):
        if boxes.shape[1:] != (4,) or idx.ndim != 1:
            raise ValueError(f"proposals of shape {tuple(boxes.shape)} with matched indices of shape "
                             f"{tuple(idx.shape)}: want (n, 4) and (n,).")
    lengths = [len(boxes) for boxes in proposals], [len(idx) for idx in matched_idxs]
    if lengths[0] != lengths[1] or len(ground_truth) != len(proposals) or sum(lengths[0]) != count:
        raise ValueError(f"{lengths[0]} proposals, {lengths[1]} matched indices and {len(ground_truth)} images with "
                         f"ground truth for {count} predictions.")
    for truth, idx in zip(ground_truth, matched_idxs, strict=True):
        outside = (idx < 0) | (idx >= len(truth))
        if outside.any():
            raise ValueError(f"matched index {idx[outside][0].item()} is not in 0 ... {len(truth) - 1}.")


def _of_class(mask_logits: Tensor, labels: Tensor) -> Tensor:
    """One map (N, M, M) of each RoI's K."""
    outside = (labels < 0) | (labels >= mask_logits.shape[1])
    if outside.any():
        raise ValueError(f"label {labels[outside][0].item()} is not in 0 ... {mask_logits.shape[1] - 1}.")
    return mask_logits[torch.arange(len(labels), device=labels.device), labels]


def _grow(boxes: Tensor, factor: float) -> Tensor:
    """Boxes (N, 4) xyxy with the same centres, `factor` times as wide and high."""
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * factor
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    return torch.cat([centre - half, centre + half], dim=1)


def _stretch(first: Tensor, last: Tensor, size: int, masks: Tensor) -> Tensor:
    """Matrices (N, size, M): how much of each of the mask's M cells each of `size` pixels takes, along one axis.

    first and last (N,) are the pixels at the box's ends; pixels outside take nothing. masks (N, M, M) in their type.
    """
    pixels = torch.arange(size, device=masks.device)
    cells = torch.arange(masks.shape[-1], device=masks.device)
    scale = masks.shape[-1] / (last - first + 1).clamp(min=1).to(masks.dtype)
    place = (pixels - first[:, None] + 0.5) * scale[:, None] - 0.5  # where the pixel's middle lies among the cells
    near = 1 - (place.clamp(0, len(cells) - 1)[..., None] - cells).abs()
    inside = (pixels >= first[:, None]) & (pixels <= last[:, None])
    return near.clamp(min=0) * inside[..., None]
