"""Position-sensitive RoI pooling, R-FCN's: each bin of the grid reads feature maps of its own.

The network gives k * k maps for each output: one that is high on the left top of an object, one for its right top and
so on. Bin (i, j) of a RoI pools only map (i, j), so pooling itself asks "is each part in its place?", and no layer is
left to compute for each RoI. Channel (c * k + i) * k + j of the input belongs to output c and bin (i, j).
"""

import torch
from torch import Tensor

from lessons.roi import Boxes, Size, as_table, average_samples, by_kind, pair, rois_of, round_half_away, sum_bags


def ps_roi_align(input: Tensor, boxes: Boxes, output_size: Size, spatial_scale: float = 1.0,
                 sampling_ratio: int = -1) -> Tensor:
    """Position-sensitive RoIAlign (Li et al., Light-Head R-CNN, 2017): the mean of bilinear samples in each bin.

    input (B, C * h * w, H, W); boxes a list of B tensors (N, 4) xyxy pixels, or (N, 5) with the image's number in
    front; output_size h or (h, w); spatial_scale is cells per pixel. Pixel centres lie at .5, and samples are chosen as
    by `roi_align`. Returns (N, C, h, w) in input's dtype; a RoI without area and so without a sample gives 0 (NaN in
    torchvision). Differentiable in the input. Raises ValueError as `roi_align`, and for channels that h * w does not
    divide.
    """
    bins = _bins_of(input, output_size)
    image, corners = rois_of(input, boxes, spatial_scale)
    left_top, right_bottom = (corners * spatial_scale - 0.5).split(2, dim=1)
    table, origin = as_table(input, bins[0] * bins[1]), _origins(input, image, bins)
    region = left_top, right_bottom - left_top
    return average_samples(table, origin, region, (bins, input.shape[2:]), sampling_ratio).to(input.dtype)


def ps_roi_pool(input: Tensor, boxes: Boxes, output_size: Size, spatial_scale: float = 1.0) -> Tensor:
    """Position-sensitive RoIPool: the mean of the cells in each bin (R-FCN, Dai et al., NIPS 2016, equation 1).

    Arguments, shapes and errors as `ps_roi_align`. The RoI's corners are rounded to cells, it is at least one cell
    large, and bin i of n holds the cells from floor(i * size / n) to ceil((i + 1) * size / n) after its start. Bins
    outside the map are 0. Differentiable in the input.
    Departs from torchvision, whose bins never reach the map's last row and column (only its gradient does).
    """
    bins = _bins_of(input, output_size)
    image, corners = rois_of(input, boxes, spatial_scale)
    start, end = round_half_away(corners * spatial_scale).split(2, dim=1)
    rows, columns = (_edges(start[:, 1 - axis], end[:, 1 - axis], bins[axis], input.shape[2 + axis]) for axis in (0, 1))
    longest = torch.stack([(edges[..., 1] - edges[..., 0]).amax(dim=1) for edges in (rows, columns)], dim=1)
    table, origin = as_table(input, bins[0] * bins[1]), _origins(input, image, bins)

    def pool(chosen: Tensor, cells: tuple[int, int]) -> Tensor:
        down, across = (_evenly(x[chosen], most, table.dtype) for x, most in zip((rows, columns), cells, strict=True))
        return sum_bags(table, origin[chosen], down, across, input.shape[3])

    return by_kind(longest.clamp(min=1), bins[0] * bins[1], pool).to(input.dtype)


def _bins_of(input: Tensor, output_size: Size) -> tuple[int, int]:
    height, width = pair(output_size)
    if input.ndim == 4 and input.shape[1] % (height * width):
        raise ValueError(f"{input.shape[1]} channels are no multiple of {height} x {width} bins.")
    return height, width


def _origins(input: Tensor, image: Tensor, bins: tuple[int, int]) -> Tensor:
    """The table row (N, h, w) where the map of each bin of each RoI starts."""
    maps = bins[0] * bins[1]
    number = image[:, None] * maps + torch.arange(maps, device=image.device)
    return number.unflatten(1, bins) * (input.shape[2] * input.shape[3])


def _edges(start: Tensor, end: Tensor, count: int, limit: int) -> Tensor:
    """First cell and cell after the last (N, count, 2) of each bin from start to end (N,), cut to the map."""
    length = (end - start).clamp(min=1)[:, None] / count
    number = torch.arange(count, device=start.device)
    span = [(number * length).floor() + start[:, None], ((number + 1) * length).ceil() + start[:, None]]
    return torch.stack(span, dim=-1).clamp(0, limit).long()


def _evenly(edges: Tensor, most: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """At most `most` cells of each bin (N, n, 2) and their equal weights, (N, n, most) both; 0 past the bin's end."""
    first, end = edges[..., :1], edges[..., 1:]
    cells = first + torch.arange(most, device=edges.device)
    inside = cells < end
    return torch.where(inside, cells, 0), inside.to(dtype) / (end - first).clamp(min=1)
