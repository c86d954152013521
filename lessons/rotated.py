"""Rotated boxes: three ways to write one down, and how well two of them agree.

A rotated box is a rectangle turned by r degrees around its centre, counter-clockwise as one sees it, though y points
down. From its first corner, which is at the top left while r is 0, one side leads `across` and one `down`.

    cxcywhr    centre, width, height, r
    xywhr      first corner, width, height, r
    xyxyxyxy   the corners: first, across, across and down, down

Aerial pictures and printed text need them. `lessons.boxes` passes them on to here.
"""

import torch
from torch import Tensor

from lessons.devices import check_device

ROTATED = {"xywhr": 5, "cxcywhr": 5, "xyxyxyxy": 8}  # how many numbers a box has


def rotated_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Rotated boxes (..., 5 or 8) from one format into another, pixels and degrees, as torchvision's `box_convert`.

    Whole numbers are rounded, at each step. xyxyxyxy is read by its first three corners. Differentiable.
    Raises ValueError for a format that is not of a rotated box and for another last dimension.
    """
    if in_fmt not in ROTATED or out_fmt not in ROTATED:
        raise ValueError(f"no way from {in_fmt!r} to {out_fmt!r}: want both of {', '.join(ROTATED)}, or none.")
    _check_shape(boxes, in_fmt)
    if in_fmt == out_fmt:
        return boxes.clone()
    if in_fmt != "xywhr":
        boxes = _rounded(_from_centre(boxes) if in_fmt == "cxcywhr" else _from_corners(boxes), boxes.dtype)
    if out_fmt != "xywhr":
        boxes = _rounded(_to_centre(boxes) if out_fmt == "cxcywhr" else _to_corners(boxes), boxes.dtype)
    return boxes


def rotated_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of every pair of rotated boxes, in [0, 1], as torchvision's `box_iou`.

    boxes1 (..., N, 5), boxes2 (..., M, 5) cxcywhr, pixels and degrees -> (..., N, M). A box without area has IoU 0.
    Each box of the first set is seen from the second box's own axes, where that one is upright; `_area_inside` then
    cuts it to size. Departs from torchvision: float64 stays float64, batches and whole numbers are welcome, and it is
    differentiable; areas below 1e-14 are not taken as 0.
    Raises ValueError for another last dimension, NaN, infinity, a negative side and for two devices.
    """
    check_device(boxes1=boxes1, boxes2=boxes2)
    boxes1, boxes2 = (_checked(boxes) for boxes in (boxes1, boxes2))
    corners = _to_corners(torch.cat([torch.zeros_like(boxes1[..., :2]), boxes1[..., 2:]], dim=-1))
    from_centre = corners.unflatten(-1, (4, 2)) - corners[..., None, 4:6] / 2  # (..., N, 4, 2)
    place = boxes1[..., :, None, :2] - boxes2[..., None, :, :2]  # (..., N, M, 2), exact where boxes are near
    apart = place[..., None, :] + from_centre[..., :, None, :, :]  # (..., N, M, 4, 2)
    axes = torch.stack(_unit_sides(boxes2[..., 4]), dim=-1)[..., None, :, :, :]  # (..., 1, M, 2, 2)
    size = boxes2[..., None, :, 2:4]  # (..., 1, M, 2)
    shared = _area_inside(apart @ axes + size[..., None, :] / 2, size)
    area1, area2 = boxes1[..., :, None, 2:4].prod(dim=-1), size.prod(dim=-1)
    shared = torch.minimum(shared, torch.minimum(area1, area2))  # rounding must not give an IoU above 1
    union = area1 + area2 - shared
    return shared / union.masked_fill(union == 0, 1)


def _area_inside(corners: Tensor, size: Tensor) -> Tensor:
    """How much of polygons (..., V, 2) lies in upright rectangles from 0, 0 to size (..., 2): areas (...).

    The area under an edge, from where the edge begins to where it ends, counts positive one way and negative back; what
    is left in the sum is the polygon. So only the area under one edge is to be cut to the rectangle, which means to cut
    x and then the edge's height above 0 and above the rectangle's other end.
    """
    (x, y), (width, height) = corners.unbind(-1), size[..., None].unbind(-2)
    run, rise = x.roll(-1, -1) - x, y.roll(-1, -1) - y
    begin, end = x.clamp(min=0).minimum(width), (x + run).clamp(min=0).minimum(width)
    steps = run.masked_fill(run == 0, 1)
    y_begin, y_end = (y + rise * ((place - x) / steps).clamp(0, 1) for place in (begin, end))
    cut = _mean_above(y_begin, y_end) - _mean_above(y_begin - height, y_end - height)
    return ((end - begin) * cut).sum(dim=-1).abs()


def _mean_above(first: Tensor, last: Tensor) -> Tensor:
    """The mean of max(0, y) while y goes steadily from first to last."""
    low, high = first.clamp(min=0), last.clamp(min=0)
    way = (last - first).abs()
    share = torch.where(way > 0, (high - low).abs() / way.masked_fill(way == 0, 1), 1)  # of the way that is above 0
    return (low + high) / 2 * share


def _unit_sides(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Where `across` and `down` point, (..., 2) each, of length 1."""
    angle = degrees * torch.pi / 180
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin], dim=-1), torch.stack([sin, cos], dim=-1)


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """`across` and `down` (..., 2), pixels, of boxes (..., 5) that end in width, height, r."""
    across, down = _unit_sides(boxes[..., 4])
    return across * boxes[..., 2:3], down * boxes[..., 3:4]


def _to_centre(boxes: Tensor) -> Tensor:
    across, down = _sides(boxes)
    return torch.cat([boxes[..., :2] + across / 2 + down / 2, boxes[..., 2:]], dim=-1)


def _from_centre(boxes: Tensor) -> Tensor:
    across, down = _sides(boxes)
    return torch.cat([boxes[..., :2] - across / 2 - down / 2, boxes[..., 2:]], dim=-1)


def _to_corners(boxes: Tensor) -> Tensor:
    first, (across, down) = boxes[..., :2], _sides(boxes)
    return torch.cat([first, first + across, first + across + down, first + down], dim=-1)


def _from_corners(boxes: Tensor) -> Tensor:
    first, second, third, _ = boxes.unflatten(-1, (4, 2)).unbind(-2)
    across, down = second - first, third - second
    degrees = torch.atan2(-across[..., 1], across[..., 0]) * 180 / torch.pi
    width, height = ((side**2).sum(dim=-1).sqrt() for side in (across, down))
    return torch.cat([first, torch.stack([width, height, degrees], dim=-1)], dim=-1)


def _rounded(boxes: Tensor, dtype: torch.dtype) -> Tensor:
    return boxes if dtype.is_floating_point else boxes.round().to(dtype)


def _check_shape(boxes: Tensor, fmt: str) -> None:
    if boxes.ndim == 0 or boxes.shape[-1] != ROTATED[fmt]:
        raise ValueError(f"boxes of shape {tuple(boxes.shape)}: the last dimension of {fmt} must be {ROTATED[fmt]}.")


def _checked(boxes: Tensor) -> Tensor:
    """Boxes cxcywhr in the precision to reckon in, if they are well-formed."""
    _check_shape(boxes, "cxcywhr")
    if boxes.ndim < 2:
        raise ValueError(f"boxes of shape {tuple(boxes.shape)}: want (..., N, 5).")
    right = boxes.isfinite().all(dim=-1) & (boxes[..., 2:4] >= 0).all(dim=-1)
    if not right.all():
        raise ValueError(f"box {boxes[~right][0].tolist()}: want finite numbers, width and height >= 0.")
    return boxes if boxes.dtype == torch.float64 else boxes.float()
