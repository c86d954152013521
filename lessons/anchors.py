"""Anchors: reference boxes laid over an image like a grid, from which a detector regresses its boxes.

A feature map of H x W cells sees the image in steps of `stride` pixels. At every cell stand the same A boxes, one for
each pair of size and aspect ratio (Ren et al., NeurIPS 2015, section 3.1.1). Nothing of it is learned, and nothing
depends on the image but its size.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def anchor_grid(feature_size: tuple[int, int], stride: int | tuple[int, int], sizes: Sequence[float],
                aspect_ratios: Sequence[float], *, dtype: torch.dtype = torch.float32,
                device: torch.device | str | None = None) -> Tensor:
    """The anchors (H * W * A, 4) of one level, xyxy pixels, as torchvision's AnchorGenerator makes and orders them.

    feature_size: (H, W) cells. stride: pixels from cell to cell, one number or (down, across); torchvision's is image
    size // feature size. sizes: square roots of the areas, pixels. aspect_ratios: height / width. A is the number of
    sizes times that of ratios. Cells go row by row, and in a cell sizes change fastest, then ratios. Cell (i, j) has
    its anchors' centre at (j * stride, i * stride), the cell's corner and not its middle, and their corners relative
    to it are rounded to whole pixels. Anchors reach beyond the image; a grid without cells gives none.
    Several levels: `torch.cat` of one call each.
    Departs from the authors' code, which counts the last pixel in (x2 - x1 + 1) and centres anchors inside the cell.
    Raises ValueError for a negative or fractional feature size, a stride below 1 and sizes or ratios that are not > 0.
    """
    down, across = stride if isinstance(stride, Sequence) else (stride, stride)
    _check_grid((*feature_size,), (down, across))
    base = _base_anchors(sizes, aspect_ratios, device).to(dtype)  # (A, 4)
    y = torch.arange(feature_size[0], device=device) * down
    x = torch.arange(feature_size[1], device=device) * across
    centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")  # (H, W) each
    shifts = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)
    return (shifts[:, :, None] + base).reshape(-1, 4)


def pyramid_anchors(features: Sequence[Tensor], image_size: tuple[int, int], sizes: Sequence[Sequence[float]],
                    aspect_ratios: Sequence[float]) -> list[Tensor]:
    """The anchors (H_l * W_l * A, 4) xyxy pixels of each map of a pyramid (B, C, H_l, W_l), in its type, on its device.

    image_size: (height, width) of the batch, pixels; a map's stride is image size // map size, as in torchvision's
    AnchorGenerator. sizes: for each map those of its anchors, pixels; aspect_ratios: height / width, for all maps.
    Raises ValueError where there are not as many maps as lists of sizes, for a map without cells, and as `anchor_grid`.
    """
    if len(features) != len(sizes):
        raise ValueError(f"{len(features)} feature maps for anchors of {len(sizes)} levels.")
    grids = []
    for feature, own in zip(features, sizes, strict=True):
        height, width = feature.shape[-2:]
        if not height * width:
            raise ValueError(f"feature map of shape {tuple(feature.shape)}: want at least one cell.")
        stride = image_size[0] // height, image_size[1] // width
        grids.append(anchor_grid((height, width), stride, own, aspect_ratios, dtype=feature.dtype,
                                 device=feature.device))
    return grids


def by_anchor(prediction: Tensor, numbers: int) -> Tensor:
    """(B, A * numbers, H, W) of a convolution -> (B, H * W * A, numbers), in the order of `anchor_grid`.

    Raises ValueError for another shape and for channels that `numbers` does not divide.
    """
    if prediction.ndim != 4 or numbers < 1:
        raise ValueError(f"prediction of shape {tuple(prediction.shape)}, {numbers} numbers: want (B, C, H, W), >= 1.")
    images, channels, height, width = prediction.shape
    if channels % numbers:
        raise ValueError(f"{channels} channels are no multiple of {numbers} numbers for each anchor.")
    apart = prediction.view(images, channels // numbers, numbers, height, width)
    return apart.permute(0, 3, 4, 1, 2).reshape(images, -1, numbers)


def _base_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float], device: torch.device | str | None) -> Tensor:
    """The A anchors of one cell around (0, 0), ratio by ratio: (A, 4) xyxy, whole pixels.

    For ratio r and size s: height s * sqrt(r), width s / sqrt(r), so that the area stays s^2. Always in float32, as
    the reference rounds: near a half pixel another precision would round the other way.
    """
    for name, values in (("sizes", sizes), ("aspect_ratios", aspect_ratios)):
        if not len(values) or not all(0 < value < math.inf for value in values):  # NaN compares as False
            raise ValueError(f"{name} {tuple(values)}: want one or more finite numbers > 0.")
    size = torch.tensor(sizes, dtype=torch.float32, device=device)
    root = torch.tensor(aspect_ratios, dtype=torch.float32, device=device).sqrt()
    width = ((1 / root)[:, None] * size).flatten()
    height = (root[:, None] * size).flatten()
    return (torch.stack([-width, -height, width, height], dim=1) / 2).round()


def _check_grid(feature_size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    for name, pair, least in (("feature_size", feature_size, 0), ("stride", stride, 1)):
        if len(pair) != 2 or any(number < least or number % 1 for number in pair):
            raise ValueError(f"{name} {pair}: want two whole numbers >= {least}.")
