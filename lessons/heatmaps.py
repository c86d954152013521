"""Heat maps: what a network has to draw that finds objects as keypoints (Law & Deng, ECCV 2018, section 3.2).

A keypoint is a 1 in the map of its class. Around it lies a bump of smaller targets, since a corner a little beside the
true one still gives a good box: how far beside is decided by the IoU of that box. Coordinates are cells of the map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lessons.devices import check_device


def gaussian_radius(sizes: Tensor, min_iou: float = 0.3) -> Tensor:
    """How far both corners of a box may be off, in x and in y, for an IoU of min_iou with the box: (N,) (section 3.2).

    sizes: (N, 2) widths and heights, any unit, and the radius in the same. The smallest of three: both corners moved
    alike, (w - r)(h - r) shared of 2 w h less that; both inwards, (w - 2r)(h - 2r) of w h; both outwards, w h of
    (w + 2r)(h + 2r). Each is a quadratic equation in r.
    Departs from the authors' code, which takes the larger root of the first and divides none by its leading factor; its
    0.7 then gives a square the radius 0.27 of its side, this one 0.23 at the paper's 0.3 and 0.08 at 0.7.
    Raises ValueError for another shape, a size not >= 0 and a min_iou outside (0, 1].
    """
    if sizes.ndim != 2 or sizes.shape[1] != 2 or not (sizes >= 0).all() or not 0 < min_iou <= 1:
        raise ValueError(f"sizes {tuple(sizes.shape)}, {sizes.tolist()[:3]}, min_iou {min_iou}: want (N, 2), >= 0, and "
                         "a min_iou in (0, 1].")
    half, area = sizes.sum(dim=1) / 2, sizes.prod(dim=1)  # of the perimeter: w + h is twice `half`
    alike = half - _root(half**2 - area * (1 - min_iou) / (1 + min_iou))
    inwards = (half - _root(half**2 - area * (1 - min_iou))) / 2
    outwards = (_root(half**2 + area * (1 - min_iou) / min_iou) - half) / 2
    return torch.stack([alike, inwards, outwards]).amin(dim=0)


@torch.no_grad()
def keypoint_heat(cells: Tensor, labels: Tensor, radii: Tensor, shape: Sequence[int]) -> Tensor:
    """Target heat maps with a bump at each keypoint: (K, H, W) in [0, 1], exactly 1 in the keypoints' cells.

    cells: (N, 2) int64, column and row; labels: (N,) int64, 0 to K - 1; radii: (N,), in cells, rounded down to r;
    shape: K, H, W. A cell within r of the keypoint in x and in y is exp(-(dx^2 + dy^2) / 2 sigma^2), others are 0, and
    where bumps of a class overlap the larger value counts. sigma is (2r + 1) / 6 as in the authors' code (the paper
    says r / 3, which r = 0 does not allow).
    Raises ValueError for shapes that do not fit, cells or labels outside the maps and a radius not >= 0.
    """
    check_device(cells=cells, labels=labels, radii=radii)
    if labels.ndim != 1 or cells.shape != (len(labels), 2) or labels.shape != radii.shape:
        raise ValueError(f"cells {tuple(cells.shape)}, labels {tuple(labels.shape)}, radii {tuple(radii.shape)}: want "
                         "(N, 2), (N,) and (N,).")
    _check_values(torch.cat([labels[:, None], cells.flip(1)], dim=1), radii, shape)
    r = radii.floor()[:, None] + 0.0  # whole numbers become floats
    heat = r.new_zeros(tuple(shape))
    columns, rows = (_bumps(at[:, None], r, size) for at, size in zip(cells.T, heat.shape[:0:-1], strict=True))
    for label, row, column in zip(labels.tolist(), rows, columns, strict=True):
        heat[label] = torch.maximum(heat[label], row[:, None] * column)  # e^(-x - y) = e^-x e^-y
    return heat


def _bumps(at: Tensor, radius: Tensor, size: int) -> Tensor:
    """One line through each bump: at, radius (N, 1) -> (N, size)."""
    distance = (torch.arange(size, device=at.device) - at).abs()
    return torch.exp(-distance**2 / (2 * ((2 * radius + 1) / 6) ** 2)) * (distance <= radius)


def _check_values(places: Tensor, radii: Tensor, shape: Sequence[int]) -> None:
    """places: (N, 3), class, row and column."""
    wrong = ~((radii >= 0) & radii.isfinite())  # NaN compares as False
    if wrong.any():
        raise ValueError(f"radius {radii[wrong][0].item()}: want finite numbers >= 0.")
    outside = ((places < 0) | (places >= places.new_tensor(shape))).any(dim=1)
    if places.is_floating_point() or outside.any():
        raise ValueError(f"class, row and column {places[outside].tolist()[:1]} of {places.dtype}: want whole numbers "
                         f"inside maps of {tuple(shape)}.")


def _root(x: Tensor) -> Tensor:
    return x.clamp(min=0).sqrt()  # rounding can make a difference of equal squares negative
