"""Regions of interest: cut the features of any box out of a feature map as a grid of fixed size, here h x w bins.

Seen with its channels last, a feature map is a table: a row for each cell, C features in it. A bin is a bag of rows.
RoIPool rounds the box to whole cells and keeps each feature's largest value in the bag; RoIAlign rounds nothing, it
reads the map between cells, which makes a bin a weighted sum of the rows around its sampling points.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from lessons.boxes import box_area, check_boxes
from lessons.devices import check_device

Boxes = Tensor | Sequence[Tensor]
Size = int | Sequence[int]
CHUNK = 4096  # bins looked up at a time, so that their features stay in the processor's cache
READS = 2**21  # rows of the table read at a time: the lists of what to read take about 30 bytes for each


def roi_pool(input: Tensor, boxes: Boxes, output_size: Size, spatial_scale: float = 1.0) -> Tensor:
    """RoIPool: the largest value of each feature in each bin (Girshick, ICCV 2015, section 2.1).

    input (B, C, H, W); boxes a list of B tensors (N, 4) xyxy pixels, or (N, 5) with the image's number in front;
    output_size h or (h, w); spatial_scale is cells per pixel, 1 / stride. Returns (N, C, h, w) in input's dtype.
    Corners are rounded to cells, both belong to the RoI; bins overlap where sizes do not divide. Bins outside the map
    are 0, NaN is passed over. The gradient goes to the largest cell, of equal ones to the first; boxes get none.
    Raises ValueError for shapes, lengths or devices that do not fit, an image number out of range, a box with x2 < x1,
    y2 < y1, NaN or infinity, an output size < 1 or a scale that is not > 0.
    """
    image, corners = rois_of(input, boxes, spatial_scale)
    left_top, right_bottom = round_half_away(corners * spatial_scale).split(2, dim=1)
    size = (right_bottom - left_top + 1).clamp(min=1)
    rows, columns = bin_edges(left_top, size, pair(output_size), input.shape[2:])
    return max_in_bins(input, image, rows, columns)


def roi_align(input: Tensor, boxes: Boxes, output_size: Size, spatial_scale: float = 1.0, sampling_ratio: int = -1,
              aligned: bool = False) -> Tensor:
    """RoIAlign: the mean of bilinear samples in each bin, nothing rounded (He et al., ICCV 2017, section 3).

    Arguments and errors as `roi_pool`. sampling_ratio samples a side in each bin, or ceil(RoI size / output size) if
    it is not > 0. aligned=True puts pixel centres at .5, as it should be; False is the paper's code, half a cell off
    and with RoIs of at least one cell. Samples more than a cell outside the map count as 0.
    Returns (N, C, h, w) in input's dtype. Differentiable in the input, not in the boxes.
    """
    image, corners = rois_of(input, boxes, spatial_scale)
    left_top, right_bottom = (corners * spatial_scale - (0.5 if aligned else 0)).split(2, dim=1)
    size = right_bottom - left_top if aligned else (right_bottom - left_top).clamp(min=1)
    origin = (image * math.prod(input.shape[2:]))[:, None, None]
    table = as_table(input)
    pooled = average_samples(table, origin, (left_top, size), (pair(output_size), input.shape[2:]), sampling_ratio)
    return pooled.to(input.dtype)


def multiscale_roi_align(features: Sequence[Tensor], boxes: Sequence[Tensor], output_size: Size, strides: Sequence[int],
                         sampling_ratio: int = 2, canonical_size: int = 224, canonical_level: int = 4) -> Tensor:
    """RoIAlign of each box on the pyramid level that fits its size (Lin et al., CVPR 2017, equation 1).

    features: L tensors (B, C, H, W), finest first, `strides` pixels a cell; boxes a list of B tensors (N, 4) xyxy
    pixels. A box of `canonical_size` pixels a side belongs to level `canonical_level`, whose stride is
    2^canonical_level; twice the side, one level up. Returns (N, C, h, w), images one after the other.
    Two maps can have the same stride, as MobileNet's last two; levels are counted on from the first map to the last
    stride, so that for strides 32, 32 the second gets no box. torchvision does the same.
    Raises ValueError as `roi_align`, and for strides, one a feature map, that are not powers of two, each the same as
    or twice the one before.
    """
    def pool(feature: Tensor, rois: Tensor, scale: float) -> Tensor:
        return roi_align(feature, rois, output_size, scale, sampling_ratio)

    return pool_by_level(features, boxes, strides, (canonical_size, canonical_level), pool)


def multiscale_roi_pool(features: Sequence[Tensor], boxes: Sequence[Tensor], output_size: Size, strides: Sequence[int],
                        canonical_size: int = 224, canonical_level: int = 4) -> Tensor:
    """RoIPool of each box on the pyramid level that fits its size; arguments and errors as `multiscale_roi_align`.

    With one map, as in Fast R-CNN, this is `roi_pool`. It stands in for RoIAlign to see what rounding costs.
    """
    def pool(feature: Tensor, rois: Tensor, scale: float) -> Tensor:
        return roi_pool(feature, rois, output_size, scale)

    return pool_by_level(features, boxes, strides, (canonical_size, canonical_level), pool)


def pool_by_level(features: Sequence[Tensor], boxes: Sequence[Tensor], strides: Sequence[int],
                  canonical: tuple[int, int], pool: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
    """pool(feature, RoIs (N, 5), scale) of the boxes of each level, (N, C, h, w), put back in the boxes' order.

    canonical: a box's side in pixels and the level that such a box belongs to; the rest as `multiscale_roi_align`.
    """
    check_device(features=features, boxes=boxes)
    _check_pyramid(strides, len(features))
    image, corners = _numbered(boxes, len(features[0]))
    numbered = torch.cat([image[:, None].to(corners.dtype), corners], dim=1)
    level = pyramid_levels(corners, strides, *canonical)
    parts = [pool(feature, numbered[level == number], 1 / stride)
             for number, (feature, stride) in enumerate(zip(features, strides, strict=True))]
    return torch.cat(parts)[level.argsort(stable=True).argsort()]


def pyramid_levels(boxes: Tensor, strides: Sequence[int], canonical_size: int = 224, canonical_level: int = 4
                   ) -> Tensor:
    """The feature map on which each box is looked at, (N,) int64, 0 the finest (Lin et al., CVPR 2017, equation 1).

    boxes (N, 4) xyxy pixels; the rest as `multiscale_roi_align`. Boxes beyond the finest or the coarsest map belong to
    that map. Raises ValueError for bad boxes or strides, as `multiscale_roi_align`.
    """
    _check_pyramid(strides, len(strides))
    ideal = canonical_level + torch.log2(box_area(boxes).sqrt() / canonical_size) + 1e-6  # rounding must not cost one
    return (ideal.floor() - math.log2(strides[0])).clamp(0, math.log2(strides[-1] / strides[0])).long()


def _check_pyramid(strides: Sequence[int], maps: int) -> None:
    steady = all(later in (earlier, 2 * earlier) for earlier, later in pairwise(strides))
    if not strides or maps != len(strides) or not steady or strides[0] < 1 or math.log2(strides[0]) % 1:
        raise ValueError(f"strides {list(strides)} for {maps} feature maps: want powers of two, finest first, "
                         "each the same as or twice the one before.")


def spatial_pyramid_pool(features: Tensor, levels: Sequence[int]) -> Tensor:
    """A vector of the same length for a map of any size (SPPnet, He et al., ECCV 2014, section 2.3).

    features (B, C, H, W). Each level n of the pyramid pools n x n windows, of ceil(H / n) rows every floor(H / n) rows
    and columns likewise, and keeps each feature's maximum; where floor leaves a rest, the last cells may lie in no
    window. A map smaller than n repeats cells, so that each window has one. Returns (B, C * sum of n^2), levels one
    after the other, in each the features and in these the windows row by row.
    Raises ValueError for another shape, a map without cells, no level or a level < 1.
    """
    if features.ndim != 4 or 0 in features.shape[2:]:
        raise ValueError(f"features of shape {tuple(features.shape)}: want (B, C, H, W) with at least one cell.")
    pooled = []
    for n in _checked_levels(levels):
        rows, columns = (_windows(size, n, features.device) for size in features.shape[2:])
        leftmost = features[..., columns].max(dim=-1).values  # (B, C, H, n)
        pooled.append(leftmost[:, :, rows].max(dim=3).values.flatten(1))  # (B, C, n, window, n) before the maximum
    return torch.cat(pooled, dim=1)


def roi_spatial_pyramid_pool(features: Tensor, boxes: Boxes, levels: Sequence[int], spatial_scale: float) -> Tensor:
    """Spatial pyramid pooling of each box: (N, C * sum of n^2), ordered as `spatial_pyramid_pool`.

    Arguments and errors as `roi_pool`, levels as `spatial_pyramid_pool`. The RoI's cells are those between its edges,
    floor(x1 * scale) + 1 to ceil(x2 * scale) - 1, or the one nearest to its centre if there is none (`cells_between`);
    window i of n spans floor(i * size / n) to ceil((i + 1) * size / n) of them (He et al., TPAMI 2015, appendix A).
    """
    image, corners = rois_of(features, boxes, spatial_scale)
    first, size = cells_between(corners * spatial_scale)
    edges = [bin_edges(first, size, (n, n), features.shape[2:]) for n in _checked_levels(levels)]
    return torch.cat([max_in_bins(features, image, *edge).flatten(1) for edge in edges], dim=1)


def cells_between(edges: Tensor) -> tuple[Tensor, Tensor]:
    """The whole cells between the edges (N, 4) of RoIs, in cells: the first, and how many, (N, 2) each, x and y.

    There is at least one each way, the nearest to the centre (He et al., TPAMI 2015, appendix A, adds no such guard).
    """
    left_top, right_bottom = edges.split(2, dim=1)
    size = right_bottom.ceil() - left_top.floor() - 1
    centre = round_half_away((left_top + right_bottom) / 2)
    return torch.where(size < 1, centre, left_top.floor() + 1), size.clamp(min=1)


def _checked_levels(levels: Sequence[int]) -> Sequence[int]:
    if not levels or min(levels) < 1:
        raise ValueError(f"levels {list(levels)}: want at least one, each >= 1.")
    return levels


def _windows(size: int, n: int, device: torch.device) -> Tensor:
    """The cells (n, ceil(size / n)) of each of n windows along an axis of `size` cells."""
    number = torch.arange(n, device=device)
    start = number * (size // n) if size >= n else number * size // n
    return start[:, None] + torch.arange(-(-size // n), device=device)


def rois_of(input: Tensor, boxes: Boxes, spatial_scale: float) -> tuple[Tensor, Tensor]:
    """The image number (N,) int64 and the corners (N, 4) of each RoI, xyxy pixels, in the precision to reckon in.

    Half precision is reckoned in float32. Raises ValueError for what `roi_pool` names, but for the output size.
    """
    check_device(input=input, boxes=boxes)
    if input.ndim != 4 or 0 in input.shape[2:] or not input.is_floating_point():
        raise ValueError(f"input of shape {tuple(input.shape)}, {input.dtype}: want floating-point (B, C, H, W) with "
                         "at least one cell.")
    if not spatial_scale > 0 or math.isinf(spatial_scale):
        raise ValueError(f"spatial_scale {spatial_scale} is not a number > 0.")
    image, corners = _numbered(boxes, len(input))
    outside = ~((image >= 0) & (image < len(input)))  # NaN compares as False
    if outside.any():
        raise ValueError(f"image number {image[outside][0].item()} is not in 0 ... {len(input) - 1}.")
    return image.long(), check_boxes(corners.detach()).to(_precision(input))


def _numbered(boxes: Boxes, images: int) -> tuple[Tensor, Tensor]:
    """Image numbers (N,) and corners (N, 4) from either form of boxes."""
    if isinstance(boxes, Tensor):
        if boxes.ndim != 2 or boxes.shape[1] != 5:
            raise ValueError(f"boxes of shape {tuple(boxes.shape)}: want (N, 5), image number and corners, or a list.")
        return boxes[:, 0].detach(), boxes[:, 1:]
    if not images or len(boxes) != images:
        raise ValueError(f"{len(boxes)} box tensors for {images} images.")
    for one in boxes:
        if one.ndim != 2 or one.shape[1] != 4:
            raise ValueError(f"boxes of shape {tuple(one.shape)}: want (N, 4) for each image.")
    corners = torch.cat(list(boxes))
    counts = torch.tensor([len(one) for one in boxes], device=corners.device)
    return torch.arange(images, device=corners.device).repeat_interleave(counts), corners


def pair(size: Size) -> tuple[int, int]:
    """(height, width) from one number or two. Raises ValueError for a number < 1."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"output_size {size}: want at least one bin each way.")
    return height, width


def round_half_away(x: Tensor) -> Tensor:
    """Nearest whole number, halves away from 0 as C's round does; torch.round takes halves to the even number."""
    whole = x.trunc()
    return whole + ((x - whole) * 2).trunc()


def _precision(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def as_table(input: Tensor, maps: int = 1) -> Tensor:
    """Features (B, C * maps, H, W) as a table (B * maps * H * W, C): a row for each cell of each map, row by row.

    The row must lie in one piece: reading thousands of rows is then as fast as memory allows.
    """
    batch, channels, height, width = input.shape
    apart = input.reshape(batch, channels // maps, maps, height, width).permute(0, 2, 3, 4, 1)
    return apart.contiguous().flatten(0, 3).to(_precision(input))


def bin_edges(left_top: Tensor, size: Tensor, bins: tuple[int, int], limits: Sequence[int]) -> tuple[Tensor, Tensor]:
    """First cell and cell after the last of each bin: rows (N, h, 2) and columns (N, w, 2), int64, cut to the map.

    left_top and size (N, 2), x and y, whole cells; bins (h, w); limits (H, W). Bin i of n spans floor(i * size / n) to
    ceil((i + 1) * size / n), so no cell is left out and no bin is empty but by the map's edge.
    """
    edges = []
    for axis, (count, limit) in enumerate(zip(bins, limits, strict=True)):
        start, length = left_top[:, 1 - axis, None], size[:, 1 - axis, None] / count
        number = torch.arange(count, device=start.device)
        span = torch.stack([(number * length).floor(), ((number + 1) * length).ceil()], dim=-1)
        edges.append((span + start[..., None]).clamp(0, limit).long())
    return edges[0], edges[1]


def max_in_bins(input: Tensor, image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The largest value in each bin, (N, C, h, w); 0 in bins without a cell. The gradient goes to that one cell.

    input (B, C, H, W), image (N,) its number for each RoI, rows (N, h, 2) and columns (N, w, 2) as `bin_edges`.
    """
    count, h, w = len(rows), rows.shape[1], columns.shape[1]
    bins = torch.cat([rows[:, :, None].expand(-1, -1, w, -1), columns[:, None].expand(-1, h, -1, -1)], dim=-1)
    bins = bins.reshape(-1, 4)  # y1, y2, x1, x2
    image, table = image.repeat_interleave(h * w), as_table(input)
    cells = table.detach().view(len(input), *input.shape[2:], input.shape[1])
    if table.requires_grad or table.isnan().any():
        keys = _largest(_keys(cells), image, bins)
        pooled = table.gather(0, keys.neg_().bitwise_and_(2**32 - 1))  # the low half of -key: the cell
    else:
        pooled = _largest(cells, image, bins)
    pooled = pooled.masked_fill((bins[:, 1::2] <= bins[:, ::2]).any(dim=1, keepdim=True), 0)
    return pooled.view(count, h, w, input.shape[1]).permute(0, 3, 1, 2).contiguous().to(input.dtype)


def _largest(values: Tensor, image: Tensor, bins: Tensor) -> Tensor:
    """The largest value (N, C) in each bin, 0 in bins without a cell; values (B, H, W, C), image (N,), bins (N, 4).

    The maxima of blocks of 1, 2, 4, ... cells a side are found for all places at once, each from two blocks of half the
    size. Four blocks of the largest size that fits, one in each corner, then cover a bin, however many cells it has.
    """
    found = values.new_zeros(len(bins), values.shape[3])
    level = torch.frexp((bins[:, 1::2] - bins[:, ::2]).float())[1] - 1  # (N, 2): the side of the block is 2^level
    tallest, widest = level.amax(dim=0).tolist() if len(bins) else (-1, -1)
    for b in range(widest + 1):
        values = torch.maximum(values[:, :, :-(2 ** (b - 1))], values[:, :, 2 ** (b - 1) :]) if b else values
        block = values
        for a in range(tallest + 1):
            block = torch.maximum(block[:, : -(2 ** (a - 1))], block[:, 2 ** (a - 1) :]) if a else block
            here = torch.where((level[:, 0] == a) & (level[:, 1] == b))[0]
            _write_largest(found, here, block, image[here], bins[here], (2**a, 2**b))
    return found


def _keys(values: Tensor) -> Tensor:
    """Whole numbers (B, H, W, C) in the values' order, of equal values the earlier cell above: maxima know their place.

    The high 32 bits are the value's rank, the low 32 bits minus the number of the cell.
    """
    values = values.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf) + 0.0  # + 0 makes -0 the same as 0
    if values.dtype == torch.float64:
        rank = values.unique(return_inverse=True)[1]
    else:  # the bits of a float32, read as a whole number, rise with it; below 0 they fall
        bits = values.view(torch.int32)
        rank = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    return (rank << 32) - torch.arange(math.prod(values.shape[:3]), device=values.device).view(*values.shape[:3], 1)


def _write_largest(found: Tensor, here: Tensor, block: Tensor, image: Tensor, bins: Tensor,
                   side: tuple[int, int]) -> None:
    """found[here] = the largest of the four blocks, `side` cells high and wide, in each bin's corners."""
    y1, y2, x1, x2 = bins.T
    table, (height, width) = block.flatten(0, 2), block.shape[1:3]
    corners = [(image * height + y) * width + x for y in (y1, y2 - side[0]) for x in (x1, x2 - side[1])]
    for part, rows in zip(here.split(CHUNK), torch.stack(corners).split(CHUNK, dim=1), strict=True):
        largest = table.index_select(0, rows[0])
        for row in rows[1:]:
            torch.maximum(largest, table.index_select(0, row), out=largest)
        found[part] = largest


def average_samples(table: Tensor, origin: Tensor, region: tuple[Tensor, Tensor],
                    sizes: tuple[tuple[int, int], Sequence[int]], sampling_ratio: int) -> Tensor:
    """The mean of bilinear samples in each bin, (N, C, h, w).

    table (rows, C) as `as_table`; origin (N, 1 or h, 1 or w): the row where the map of each bin starts; region: left
    top and size (N, 2), x and y in cells; sizes: bins (h, w) and the map's (H, W).
    """
    (left_top, size), (bins, limits) = region, sizes
    per_bin = size.flip(1) / size.new_tensor(bins)  # (N, 2), y and x
    samples = torch.full_like(per_bin, sampling_ratio) if sampling_ratio > 0 else per_bin.ceil().clamp(min=0)
    grid = torch.stack([left_top.flip(1), per_bin, samples], dim=1)  # (N, 3, 2)

    def pool(chosen: Tensor, most: tuple[int, int]) -> Tensor:
        taps = [bilinear_taps(grid[chosen, :, axis], (bins[axis], most[axis]), limits[axis], sampling_ratio > 0)
                for axis in (0, 1)]
        return sum_bags(table, origin[chosen], taps[0], taps[1], limits[1])

    return by_kind(samples.long(), bins[0] * bins[1], pool)


def by_kind(counts: Tensor, bins: int, pool: Callable[[Tensor, tuple[int, int]], Tensor]) -> Tensor:
    """pool(indices, most) for RoIs of like counts (N, 2) together, the results (N, ...) put back in order.

    counts: how many samples or cells each of a RoI's `bins` bins has, down and across. One tensor holds as many of
    them for all its RoIs, `most`; so RoIs go together whose counts round up to the same powers of two, and no more at
    a time than fit in READS reads of the table.
    """
    if not len(counts):
        return pool(counts[:, 0], (1, 1))
    powers = 2 ** counts.clamp(min=1).float().log2().ceil().long()
    kinds, kind = torch.minimum(powers, counts.amax(dim=0).clamp(min=1)).unique(dim=0, return_inverse=True)
    order = kind.argsort(stable=True)
    parts = []
    for (y, x), same in zip(kinds.tolist(), order.split(kind.bincount().tolist()), strict=True):
        parts += [pool(part, (y, x)) for part in same.split(max(1, READS // (bins * 4 * y * x)))]
    pooled = torch.cat(parts) if len(parts) > 1 else parts[0]
    return pooled[order.argsort()] if len(kinds) > 1 else pooled


def bilinear_taps(grid: Tensor, bins: tuple[int, int], limit: int, apart: bool) -> tuple[Tensor, Tensor]:
    """Along one axis, the cells that each bin reads, (N, n, T) int64, and their weights (N, n, T).

    grid (N, 3): where the first bin starts, how long a bin is, in cells, and how many samples it has; bins (n, most
    samples of a bin); limit the number of cells. Linear interpolation at y gives cell i the weight
    max(0, 1 - |y - i|). Samples `apart` read two cells each; if not apart, they are at most a cell from each other,
    and read one run of cells together.
    """
    start, length, samples = grid[:, :, None, None].unbind(dim=1)  # (N, 1, 1)
    number, sample = (torch.arange(count, device=grid.device, dtype=grid.dtype) for count in bins)
    places = start + number[:, None] * length + (sample + 0.5) * length / samples.clamp(min=1)  # (N, n, most)
    counted = ((places >= -1) & (places <= limit) & (sample < samples)) / samples.clamp(min=1)
    places, counted = (x[..., None] if apart else x[..., None, :] for x in (places.clamp(0, limit - 1), counted))
    cells = places[..., :1].floor() + torch.arange(places.shape[-1] + 1, device=grid.device)
    near = (1 - (places[..., None, :] - cells[..., None]).abs()).clamp(min=0)
    weights = (near * counted[..., None, :]).sum(dim=-1)
    return cells.clamp(max=limit - 1).long().flatten(2), weights.flatten(2)


def sum_bags(table: Tensor, origin: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor],
             width: int) -> Tensor:
    """Weighted sums of table rows, (N, C, h, w): a bin's bag holds each of its rows with each of its columns.

    rows: cells and weights (N, h, T); columns: cells and weights (N, w, T); origin and table as `average_samples`.
    """
    (y, y_weight), (x, x_weight) = rows, columns
    first = (y * width)[:, :, None] + origin[..., None]  # (N, h, 1 or w, T)
    cells = first[..., None] + x[:, None, :, None]  # (N, h, w, T, T)
    if table.shape[1] == 0:  # embedding_bag, on several threads, needs a channel
        return table.new_zeros(len(cells), 0, *cells.shape[1:3])
    weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None]
    bags = F.embedding_bag(cells.flatten(3).flatten(0, 2), table, mode="sum",
                           per_sample_weights=weights.flatten(3).flatten(0, 2))
    return bags.view(*cells.shape[:3], table.shape[1]).permute(0, 3, 1, 2).contiguous()
