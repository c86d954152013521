"""Corners: CornerNet finds an object as the pair of its two corners, CenterNet asks its centre to confirm the pair.

A corner of a box mostly lies outside the object, where nothing is to be seen. Corner pooling brings there what lies on
the two edges that begin at it: the largest value of the row and of the column (Law & Deng, ECCV 2018). Decoding takes
the highest corners of a heat map, pairs those of one class with similar tags, and (Duan et al., "Keypoint Triplets",
ICCV 2019) keeps a pair only if a centre of its class lies in the middle of its box. Soft-NMS follows.
Coordinates are cells of the heat map, 4 pixels in both papers: cell i covers i to i + 1, an offset is a part of it.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.boxes import box_area, check_boxes
from lessons.devices import check_device

SCANS = {"top": (2, True), "bottom": (2, False), "left": (3, True), "right": (3, False)}  # dimension, from its end?
Detections = dict[str, Tensor]  # of one image: boxes (N, 4) xyxy in cells, labels (N,) and scores (N,) by falling score


class KeypointMaps(NamedTuple):
    """What a network says of one kind of keypoint, corners or centres, at each cell.

    heat: (B, K, H, W), the probability in [0, 1] of a keypoint of each class; offsets: (B, 2, H, W), where in the cell
    it lies, x and y; tags: (B, 1, H, W), the embedding that pairs corners of one object, None for centres.
    """

    heat: Tensor
    offsets: Tensor
    tags: Tensor | None = None


def corner_pool(x: Tensor, direction: str) -> Tensor:
    """Each cell's maximum of itself and all that follow in its row or column (Law & Deng, 2018, equations 6 and 7).

    x: (B, C, H, W) -> (B, C, H, W). direction names the edge that is looked for, as the authors' code does: "top" takes
    the maximum of the cells below, "bottom" of those above, "left" of those to the right, "right" of those to the left.
    A top-left corner is pooled by the sum of "top" and "left". The gradient goes to the maximum, of equal ones the
    nearest. Raises ValueError for another shape or direction, and for NaN.
    """
    if direction not in SCANS:
        raise ValueError(f"direction {direction!r} is none of {', '.join(SCANS)}.")
    return _running_max(_check_features(x), direction)[0]


def cascade_corner_pool(x: Tensor, corner: str) -> Tensor:
    """Corner pooling that also looks inside the object: (B, C, H, W) -> (B, C, H, W) (Duan et al., 2019, section 3.3).

    corner: "top_left" or "bottom_right". From each cell look along an edge for its maximum, and from where that lies
    (of equal ones the nearest) into the object, at right angles to the edge, for a second one; add both. The sum over
    the two edges that begin at the corner is returned.
    Departs from the authors' network, which adds the look inside to the features before it looks along the edge, with
    convolutions in between: there it is corner_pool(conv(x1 + corner_pool(x2, inwards)), along) for each edge.
    Raises ValueError for another shape or corner, and for NaN.
    """
    if corner not in ("top_left", "bottom_right"):
        raise ValueError(f"corner {corner!r} is none of top_left, bottom_right.")
    across, down = ("left", "top") if corner == "top_left" else ("right", "bottom")
    row_max, column = _running_max(_check_features(x), across)
    column_max, row = _running_max(x, down)
    horizontal_edge = row_max + column_max.gather(3, column)  # along the row, and from its maximum into the column
    vertical_edge = column_max + row_max.gather(2, row)
    return horizontal_edge + vertical_edge


def center_pool(x: Tensor) -> Tensor:
    """The maximum of each cell's whole row plus that of its whole column (Duan et al., 2019, section 3.3).

    x: (B, C, H, W) -> (B, C, H, W). The same as corner pooling "left" then "right" plus "top" then "bottom". It is of
    the whole map, not of an object's box. The gradient goes to one maximum of each row and column.
    Departs from the authors' network, which pools rows and columns of two different convolutions of x.
    Raises ValueError for another shape and for NaN.
    """
    if _check_features(x).numel() == 0:
        return x.clone()
    return x.max(dim=3, keepdim=True).values + x.max(dim=2, keepdim=True).values


def central_region(boxes: Tensor, large: float = 37.5) -> Tensor:
    """The middle part of each box in which a centre has to lie (Duan et al., 2019, equation 1): (..., 4) xyxy.

    boxes: (..., 4) xyxy; large in their unit (37.5 cells of 4 pixels are the paper's 150). A box is cut into n x n
    parts and the one in the middle taken: n = 3, or 5 where the area is above large^2, since a third of a large box
    would let false pairs pass, a fifth of a small one miss true ones.
    Raises ValueError for a box with x2 < x1, y2 < y1, NaN or infinity, and a `large` that is not >= 0.
    """
    if not large >= 0:
        raise ValueError(f"large {large} is not a number >= 0.")
    top_left, bottom_right = check_boxes(boxes).split(2, dim=-1)
    n = torch.where(box_area(boxes) > large**2, 5, 3)[..., None]
    return torch.cat([((n + 1) * top_left + (n - 1) * bottom_right) / (2 * n),
                      ((n - 1) * top_left + (n + 1) * bottom_right) / (2 * n)], dim=-1)


class Peaks(NamedTuple):
    """Keypoints of one image by falling score: scores, labels, tags (n,), 0 where there are none, places (n, 2)."""

    scores: Tensor
    labels: Tensor
    places: Tensor
    tags: Tensor


def find_peaks(maps: KeypointMaps, image: int, top_k: int) -> Peaks:
    """The keypoints of one image: its `top_k` best cells that are not below a neighbour, with their offsets.

    Of equal ones the first, by class, row and column. Heat of 0 is no keypoint. Places are in cells, x and y.
    """
    heat = maps.heat[image]
    is_peak = heat > 0
    if heat.numel():
        is_peak &= heat == F.max_pool2d(heat, 3, stride=1, padding=1)
    best = heat[is_peak].argsort(descending=True, stable=True)[:top_k]
    label, row, column = is_peak.nonzero()[best].T
    exact = torch.promote_types(maps.offsets.dtype, torch.float32)  # half precision has no place 100.3
    places = torch.stack([column, row], dim=1) + maps.offsets[image, :, row, column].T.to(exact)
    tags = torch.zeros_like(places[:, 0]) if maps.tags is None else maps.tags[image, 0, row, column].to(exact)
    return Peaks(heat[label, row, column].to(exact), label, places, tags)


def centre_scores(boxes: Tensor, labels: Tensor, centres: Peaks, large: float = 37.5) -> Tensor:
    """The score of the best centre of its class inside each box's `central_region`, 0 where there is none: (N,).

    boxes: (N, 4) xyxy; labels: (N,), as those of the centres; places of centres and `large` in the boxes' unit. A
    centre on the region's edge does not count.
    Raises ValueError as `central_region`, and for shapes or devices that do not fit.
    """
    scores, kinds, places, _ = centres
    check_device(boxes=boxes, labels=labels, centres=list(centres))
    shapes = [tuple(one.shape) for one in (boxes, labels, scores, kinds, places)]
    count, others = shapes[0][:1], shapes[2][:1]
    if shapes != [(*count, 4), count, others, others, (*others, 2)] or not count or not others:
        raise ValueError(f"boxes, labels and centres' scores, labels and places of shapes {shapes}: want (N, 4), (N,), "
                         "(n,), (n,), (n, 2).")
    low, high = central_region(boxes, large)[:, None].split(2, dim=-1)  # (N, 1, 2)
    inside = ((places > low) & (places < high)).all(dim=-1) & (labels[:, None] == kinds)  # (N, n)
    return F.pad(scores * inside, (0, 1)).amax(dim=1)  # a column of 0 for where there is no centre at all


@torch.no_grad()
def decode_corners(top_left: KeypointMaps, bottom_right: KeypointMaps, top_k: int = 100,
                   max_distance: float = 0.5) -> list[Detections]:
    """CornerNet's boxes of each image, all of them, before NMS (Law & Deng, 2018, section 4.2).

    A corner is a cell with no higher one among its 8 neighbours; of all classes together the `top_k` best are taken.
    Two of equal class, the second right of and below the first, whose tags differ by no more than `max_distance` make
    a box; its score is the mean of theirs. Returns for each image boxes (N, 4) xyxy in cells, labels (N,) int64, the
    class counted from 0 as in the heat maps, and scores (N,), by falling score, of equal ones in the corners' order.
    Departs from the authors' code, which fills up with cells that are no corners, at score 0, where there are not
    `top_k`, keeps only the 1,000 best pairs, and lets boxes without area pass.
    Raises ValueError for shapes or devices that do not fit, heat outside [0, 1], tags or offsets that are not finite, a
    top_k < 1 and a max_distance not >= 0.
    """
    _check(top_left, bottom_right, None, top_k, max_distance)
    return [_pair(find_peaks(top_left, image, top_k), find_peaks(bottom_right, image, top_k), max_distance)
            for image in range(len(top_left.heat))]


@torch.no_grad()
def decode_triplets(top_left: KeypointMaps, bottom_right: KeypointMaps, centre: KeypointMaps, top_k: int = 70,
                    max_distance: float = 0.5, large: float = 37.5) -> list[Detections]:
    """CenterNet's boxes of each image: those of `decode_corners` that a centre confirms (Duan et al., 2019, sec. 3.2).

    The centres are the `top_k` best cells of their heat map, found as corners are. A box stays if one of its class lies
    inside its `central_region`, not on the edge; the best of them makes its score the mean of the three keypoints'.
    Returns and raises what `decode_corners` does, and ValueError for a `large`, in cells, that is not >= 0.
    """
    _check(top_left, bottom_right, centre, top_k, max_distance)
    pairs, centre = decode_corners(top_left, bottom_right, top_k, max_distance), centre._replace(tags=None)
    return [_confirm(found, find_peaks(centre, image, top_k), large) for image, found in enumerate(pairs)]


def _pair(first: Peaks, second: Peaks, max_distance: float) -> Detections:
    """All boxes of a top-left and a bottom-right corner that fit."""
    fits = first.labels[:, None] == second.labels
    fits &= (first.tags[:, None] - second.tags).abs() <= max_distance
    fits &= (first.places[:, None] < second.places).all(dim=-1)
    i, j = fits.nonzero(as_tuple=True)
    boxes = torch.cat([first.places[i], second.places[j]], dim=1)
    return _by_score(boxes, first.labels[i], (first.scores[i] + second.scores[j]) / 2)


def _confirm(found: Detections, centres: Peaks, large: float) -> Detections:
    """The boxes with a centre of their class in their middle, and with the score of all three keypoints."""
    best = centre_scores(found["boxes"], found["labels"], centres, large)
    kept = best > 0
    return _by_score(found["boxes"][kept], found["labels"][kept], (2 * found["scores"] + best)[kept] / 3)


def _by_score(boxes: Tensor, labels: Tensor, scores: Tensor) -> Detections:
    order = scores.argsort(descending=True, stable=True)
    return {"boxes": boxes[order], "labels": labels[order], "scores": scores[order]}


def _running_max(x: Tensor, direction: str) -> tuple[Tensor, Tensor]:
    """`corner_pool` and in which row or column each maximum lies, both (B, C, H, W)."""
    dim, from_end = SCANS[direction]
    if not from_end:
        return x.cummax(dim)
    values, index = x.flip(dim).cummax(dim)
    return values.flip(dim), x.shape[dim] - 1 - index.flip(dim)


def _check_features(x: Tensor) -> Tensor:
    if x.ndim != 4:
        raise ValueError(f"features of shape {tuple(x.shape)}: want (B, C, H, W).")
    if x.isnan().any():
        raise ValueError(f"features at {x.isnan().nonzero()[0].tolist()} are NaN.")
    return x


def _check(top_left: KeypointMaps, bottom_right: KeypointMaps, centre: KeypointMaps | None, top_k: int,
           max_distance: float) -> None:
    if top_k < 1 or top_k % 1 or not max_distance >= 0:
        raise ValueError(f"top_k {top_k} with max_distance {max_distance}: want a whole number >= 1 and one >= 0.")
    given = {"top_left": top_left, "bottom_right": bottom_right} | ({} if centre is None else {"centre": centre})
    check_device(**{name: [part for part in maps if part is not None] for name, maps in given.items()})
    for name, maps in given.items():
        _check_maps(name, maps, tuple(top_left.heat.shape), tagged=name != "centre")


def _check_maps(name: str, maps: KeypointMaps, shape: tuple[int, ...], tagged: bool) -> None:
    if len(shape) != 4 or maps.heat.shape != shape:
        raise ValueError(f"{name}: heat of shape {tuple(maps.heat.shape)}: want (B, K, H, W), for all keypoints alike.")
    wrong = maps.heat[~((maps.heat >= 0) & (maps.heat <= 1))]  # NaN compares as False
    if len(wrong):
        raise ValueError(f"{name}: heat {wrong[0].item()} is no probability in [0, 1].")
    for what, values, channels in (("offsets", maps.offsets, 2), ("tags", maps.tags, 1))[: 1 + tagged]:
        if values is None or values.shape != (shape[0], channels, *shape[2:]):
            raise ValueError(f"{name}: {what} of shape {None if values is None else tuple(values.shape)} for heat of "
                             f"shape {shape}: want (B, {channels}, H, W).")
        if not values.isfinite().all():
            raise ValueError(f"{name}: {what} hold {values[~values.isfinite()][0].item()}: want finite numbers.")
