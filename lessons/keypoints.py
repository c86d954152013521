"""Keypoints: Mask R-CNN finds a joint as the one cell of an M x M map of the RoI that holds it.

Each keypoint has a map of its own; a softmax over its M * M cells makes finding the joint a classification. Coordinates
are places on the plane, cells are numbered: cell i covers i to i + 1, so its middle is at i + 0.5.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lessons.boxes import check_boxes
from lessons.devices import check_device
from lessons.masks import check_matched


def keypoint_loss(keypoint_logits: Tensor, proposals: Sequence[Tensor], gt_keypoints: Sequence[Tensor],
                  keypoint_matched_idxs: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy over the cells, for the visible keypoints inside their RoI (He et al., ICCV 2017, section 5).

    keypoint_logits (N, K, M, M) for the N positive RoIs of all images; for each image: proposals (n, 4) xyxy pixels,
    gt_keypoints (G, K, 3) as x, y, visibility, keypoint_matched_idxs (n,), the ground truth of each proposal.
    Returns a scalar; 0 without such a keypoint.
    Raises ValueError for maps that are not square, lengths that do not fit, an index out of range, malformed boxes.
    """
    check_device(keypoint_logits=keypoint_logits, proposals=proposals)
    if keypoint_logits.ndim != 4 or keypoint_logits.shape[2] != keypoint_logits.shape[3]:
        raise ValueError(f"keypoint_logits of shape {tuple(keypoint_logits.shape)}: want (N, K, M, M).")
    check_matched(proposals, gt_keypoints, keypoint_matched_idxs, len(keypoint_logits))
    if any(truth.ndim != 3 or truth.shape[1] != keypoint_logits.shape[1] for truth in gt_keypoints):
        raise ValueError(f"gt_keypoints of shapes {[tuple(truth.shape) for truth in gt_keypoints]} for "
                         f"{keypoint_logits.shape[1]} maps of each RoI: want (G, {keypoint_logits.shape[1]}, 3).")
    targets = [keypoints_to_heatmap(truth[idx], boxes, keypoint_logits.shape[-1])
               for truth, boxes, idx in zip(gt_keypoints, proposals, keypoint_matched_idxs, strict=True)]
    valid = [inside.flatten().bool() for _, inside in targets]
    if not any(inside.any() for inside in valid):
        return keypoint_logits.sum() * 0  # a mean over nothing would be NaN
    cells = torch.cat([cell.flatten() for cell, _ in targets])
    return F.cross_entropy(keypoint_logits.flatten(2).flatten(0, 1)[torch.cat(valid)], cells[torch.cat(valid)])


def keypoints_to_heatmap(keypoints: Tensor, rois: Tensor, heatmap_size: int) -> tuple[Tensor, Tensor]:
    """The cell that holds each keypoint and whether there is one, both (N, K) int64.

    keypoints (N, K, 3) as x, y in pixels and visibility, rois (N, 4) xyxy pixels. Cells are numbered row by row over
    the heatmap_size^2 of the RoI. A keypoint on the right or lower edge belongs to the last cell; one outside the RoI
    or with visibility 0 is not valid, and its cell is 0.
    Raises ValueError for shapes that do not fit, a malformed box, a heatmap_size < 1.
    """
    check_device(keypoints=keypoints, rois=rois)
    if keypoints.ndim != 3 or keypoints.shape[2] != 3 or rois.shape != (len(keypoints), 4) or heatmap_size < 1:
        raise ValueError(f"keypoints of shape {tuple(keypoints.shape)}, rois of shape {tuple(rois.shape)}, "
                         f"heatmap_size {heatmap_size}: want (N, K, 3), (N, 4) and a size >= 1.")
    left_top, right_bottom = check_boxes(rois)[:, None].split(2, dim=-1)  # (N, 1, 2)
    places = keypoints[..., :2]
    cells = ((places - left_top) * (heatmap_size / (right_bottom - left_top))).floor()
    cells = cells.nan_to_num(nan=-1).clamp(-1, heatmap_size).long()  # a RoI without area has no cell but its edge
    cells = cells.masked_fill(places == right_bottom, heatmap_size - 1)
    inside = ((cells >= 0) & (cells < heatmap_size)).all(dim=-1) & (keypoints[..., 2] > 0)
    return (cells[..., 1] * heatmap_size + cells[..., 0]) * inside, inside.long()


def heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
    """Keypoints (N, K, 3) as x, y in pixels and 1, and their scores (N, K), from maps (N, K, H, W); float32.

    rois (N, 4) xyxy pixels. Each map is enlarged to its RoI, a pixel a cell, by bicubic interpolation; the keypoint is
    the middle of the highest pixel, of equal ones the first, and its score the value there.
    Raises ValueError for shapes that do not fit or a malformed box.
    """
    check_device(maps=maps, rois=rois)
    if maps.ndim != 4 or rois.shape != (len(maps), 4):
        raise ValueError(f"maps of shape {tuple(maps.shape)} for rois of shape {tuple(rois.shape)}: "
                         "want (N, K, H, W) and (N, 4).")
    left_top, right_bottom = check_boxes(rois).split(2, dim=1)
    size = (right_bottom - left_top).clamp(min=1)
    pixels = size.ceil()
    peaks = [_peaks(one, (height, width)) for one, (width, height) in zip(maps, pixels.long().tolist(), strict=True)]
    if not peaks:
        return maps.new_zeros(0, maps.shape[1], 3, dtype=torch.float32), maps.new_zeros(maps.shape[:2]).float()
    places = torch.stack([place for place, _ in peaks])  # (N, K, 2)
    places = (places.float() + 0.5) * (size / pixels)[:, None] + left_top[:, None]
    return F.pad(places.float(), (0, 1), value=1.0), torch.stack([score for _, score in peaks]).float()


def _peaks(maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """x and y (K, 2) of the highest pixel of maps (K, H, W) enlarged to size (height, width), and its value (K,).

    A RoI at a time: each has a size of its own, and enlarged maps of many RoIs would fill the memory.
    """
    large = F.interpolate(maps[:, None], size=size, mode="bicubic", align_corners=False).flatten(1)
    place = large.argmax(dim=1)
    score = large.gather(1, place[:, None])[:, 0]
    return torch.stack([place % size[1], place.div(size[1], rounding_mode="floor")], dim=1), score
