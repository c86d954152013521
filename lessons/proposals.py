"""Class-agnostic object proposals: Selective Search and the sliding window it replaced.

Selective Search (Uijlings et al., "Selective Search for Object Recognition", IJCV 2013) cuts the image into small
segments (Felzenszwalb and Huttenlocher, IJCV 2004), then merges the two most similar neighbours again and again until
one region is left. Every region that ever existed, small or large, proposes its bounding box. Doing so in several
colour spaces, from several first segmentations and with several ideas of "similar" makes it unlikely that an object is
missed.

The steps of one strategy: `to_colour_space` -> `first_segments` -> `describe` -> `merge_regions`; `selective_search`
runs all strategies of a mode and ranks their boxes, `selective_search_hierarchy` keeps one strategy whole, to look at.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lessons.boxes import box_iou
from lessons.devices import check_device

Array = NDArray[np.float64]

COLOUR_BINS = 25  # section 4.2: 25 bins for each colour channel
TEXTURE_BINS = 10  # section 4.2: 10 bins for each channel and each of eight directions,
AXES = 4  # which are four axes with two signs

# Table 5 of the paper: colour spaces, similarity measures (Colour, Texture, Size, Fill), scales k of the first segments
MODES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]] = {
    "single": (("hsv",), ("CTSF",), (100,)),
    "fast": (("hsv", "lab"), ("CTSF", "TSF"), (50, 100)),
    "quality": (("hsv", "lab", "rgi", "h", "i"), ("CTSF", "TSF", "F", "S"), (50, 100, 150, 300)),
}


@dataclass
class Regions:
    """What the similarity measures need to know of each of M regions, numpy arrays with one row per region.

    size: (M,) pixels. box: (M, 4) xyxy pixels. colour: (M, channels * 25) and texture: (M, channels * 4 * 20),
    histograms that sum to 1.
    """

    size: NDArray[np.int64]
    box: NDArray[np.int64]
    colour: Array
    texture: Array

    def grown(self, count: int) -> "Regions":
        """A copy with zero rows appended up to `count`, room for the regions that merging makes."""
        arrays = (self.size, self.box, self.colour, self.texture)
        return Regions(*(np.concatenate([a, np.zeros((count - len(a), *a.shape[1:]), a.dtype)]) for a in arrays))

    def join(self, i: int, j: int, new: int) -> None:
        """Writes into row `new` the union of regions i and j, without looking at a pixel (section 4.2).

        Sizes add up, histograms are averaged by size, the box is the smallest around both.
        """
        share = self.size[i] / (self.size[i] + self.size[j])
        self.size[new] = self.size[i] + self.size[j]
        self.box[new, :2] = np.minimum(self.box[i, :2], self.box[j, :2])
        self.box[new, 2:] = np.maximum(self.box[i, 2:], self.box[j, 2:])
        self.colour[new] = share * self.colour[i] + (1 - share) * self.colour[j]
        self.texture[new] = share * self.texture[i] + (1 - share) * self.texture[j]


@dataclass(frozen=True)
class Hierarchy:
    """One strategy's tree of regions. With R first segments there are R - 1 merges and 2R - 1 regions.

    segments: (H, W) int64, the first segments, 0 .. R - 1. merges: (R - 1, 2) int64, the regions merged at each step;
    step t makes region R + t. similarity: (R - 1,), of the two merged. boxes: (2R - 1, 4) float32 xyxy pixels of all
    regions; the last region is the whole image.
    """

    segments: Tensor
    merges: Tensor
    similarity: Tensor
    boxes: Tensor

    def labels(self, step: int) -> Tensor:
        """Label map after `step` merges, (H, W) int64 region numbers: 0 gives the first segments, R - 1 one region.

        Raises ValueError for a step outside 0 .. R - 1.
        """
        if not 0 <= step <= len(self.merges):
            raise ValueError(f"step {step} of a hierarchy of {len(self.merges)} merges.")
        first = len(self.merges) + 1
        now = torch.arange(first + step)
        for t in reversed(range(step)):  # backwards, so that a region already points at where it ends
            now[self.merges[t]] = now[first + t].clone()
        return now[self.segments]


def selective_search(image: Tensor, mode: str = "fast", min_side: float = 0.02, seed: int = 0) -> Tensor:
    """Boxes that may hold an object, of whatever class, best first (Uijlings et al., IJCV 2013, Table 5).

    image: (3, H, W) float in [0, 1]. mode: "fast" (8 strategies, what R-CNN uses), "quality" (80) or "single" (1).
    Returns (N, 4) float32 xyxy pixels on the image's device, no box twice; x2 and y2 lie after the last pixel. Boxes
    with a side shorter than `min_side` of the image's longer side are left out (R-CNN's code leaves out those under 20
    of 500 pixels, 0.04). The order is the paper's (section 4.4): large regions tend to come first, but a region's place
    in its hierarchy is multiplied by a random number, from `seed`, so that no strategy or size takes all first places.
    Raises ValueError for an unknown mode, another shape, an empty image, or values outside [0, 1] or NaN.
    """
    pixels = _to_pixels(image)
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}.")
    spaces, measures, scales = MODES[mode]
    random = np.random.default_rng(seed)
    boxes, ranks = [], []
    for space in spaces:
        channels = to_colour_space(pixels, space)
        colour, texture = quantise_colour(channels), quantise_texture(channels)
        for k in scales:
            segments = first_segments(channels, k)
            regions, neighbours = describe(segments, colour, texture), touching(segments)
            for measure in measures:
                box = merge_regions(regions, neighbours, measure)[0].box
                boxes.append(box)
                ranks.append(np.arange(len(box), 0, -1) * random.random(len(box)))  # 1 is the whole image
    ordered = np.concatenate(boxes)[np.argsort(np.concatenate(ranks), kind="stable")]
    return torch.from_numpy(_select(ordered, min_side * max(pixels.shape[:2]))).to(image.device, torch.float32)


def selective_search_hierarchy(image: Tensor, colour_space: str = "hsv", measures: str = "CTSF", k: int = 100
                               ) -> Hierarchy:
    """The whole tree of regions of one strategy, for pictures and for a slider over the merges.

    image: (3, H, W) float in [0, 1]. colour_space: hsv, lab, rgi, h, i or rgb. measures: letters out of C(olour),
    T(exture), S(ize) and F(ill), added up. k: scale of the first segments, larger k makes them larger.
    Raises ValueError for an unknown colour space or measure and for a bad image, as `selective_search`.
    """
    channels = to_colour_space(_to_pixels(image), colour_space)
    segments = first_segments(channels, k)
    regions = describe(segments, quantise_colour(channels), quantise_texture(channels))
    regions, merges, similarities = merge_regions(regions, touching(segments), measures)
    return Hierarchy(torch.from_numpy(segments), torch.tensor(merges, dtype=torch.int64).reshape(-1, 2),
                     torch.tensor(similarities), torch.from_numpy(regions.box).float())


def merge_regions(regions: Regions, neighbours: Sequence[set[int]], measures: str
                  ) -> tuple[Regions, list[tuple[int, int]], list[float]]:
    """Greedy grouping, the paper's Algorithm 1: merge the two most similar neighbours until one region is left.

    regions: R rows; neighbours: for each of them the regions it touches. Neither is changed. Returns all 2R - 1 regions
    in the order they came to be, the R - 1 merged pairs and their similarities. Of equally similar pairs that with the
    lower numbers goes first. Raises ValueError for an unknown measure.
    """
    if not measures or set(measures) - set("CTSF"):
        raise ValueError(f"measures {measures!r}: want letters out of C, T, S and F.")
    first, pixels = len(regions.size), int(regions.size.sum())
    regions, touches = regions.grown(2 * first - 1), {i: set(around) for i, around in enumerate(neighbours)}
    # a heap keeps the most similar pair on top; a pair whose region is gone stays in it and is skipped when it comes up
    heap: list[tuple[float, int, int]] = []
    for i in range(first):
        _push(heap, i, [j for j in touches[i] if j < i], regions, measures, pixels)
    merges, similarities = [], []
    for new in range(first, 2 * first - 1):
        negative, i, j = heapq.heappop(heap)
        while i not in touches or j not in touches:
            negative, i, j = heapq.heappop(heap)
        regions.join(i, j, new)
        around = (touches.pop(i) | touches.pop(j)) - {i, j}
        for other in around:
            touches[other] -= {i, j}
            touches[other].add(new)
        touches[new] = around
        _push(heap, new, sorted(around), regions, measures, pixels)
        merges.append((i, j))
        similarities.append(-negative)
    return regions, merges, similarities


def similarity(regions: Regions, i: int, others: Sequence[int], measures: str, pixels: int) -> Array:
    """How similar region i is to each of `others`, (len(others),): the sum of the chosen measures, each in [0, 1].

    Colour and texture: intersection of the histograms (equations 1 and 3). Size: 1 minus the share of the image that
    both cover together, so that small regions merge first (equation 4). Fill: 1 minus the share of the image that their
    common box holds beside them, so that no holes are left (equation 5). `pixels` is the image's area.
    """
    rows = np.asarray(others, dtype=np.int64)
    total = np.zeros(len(rows))
    both = regions.size[i] + regions.size[rows]
    if "C" in measures:
        total += np.minimum(regions.colour[i], regions.colour[rows]).sum(1)
    if "T" in measures:
        total += np.minimum(regions.texture[i], regions.texture[rows]).sum(1)
    if "S" in measures:
        total += 1 - both / pixels
    if "F" in measures:
        low = np.minimum(regions.box[i, :2], regions.box[rows, :2])
        high = np.maximum(regions.box[i, 2:], regions.box[rows, 2:])
        total += 1 - ((high - low).prod(1) - both) / pixels
    return total


def to_colour_space(pixels: Array, space: str) -> Array:
    """(H, W, 3) RGB in [0, 1] as (H, W, channels) in about [0, 1], section 4.1 of the paper.

    rgb; hsv; lab (perceptual); i, the intensity alone; h, the hue alone; rgi, red and green as shares of the sum (which
    shadows do not change) with the intensity. Raises ValueError for another name.
    """
    from skimage import color  # compiled; only needed here

    if space == "rgb":
        return pixels
    if space in ("hsv", "h"):
        return color.rgb2hsv(pixels)[..., : len(space)]
    if space == "lab":
        return (color.rgb2lab(pixels) + (0, 128, 128)) / (100, 255, 255)
    intensity = pixels.mean(2, keepdims=True)
    if space == "i":
        return intensity
    if space == "rgi":
        return np.concatenate([pixels[..., :2] / np.maximum(3 * intensity, 1e-6), intensity], 2)
    raise ValueError(f"colour space {space!r} is none of rgb, hsv, lab, rgi, h, i.")


def first_segments(channels: Array, k: float, sigma: float = 0.8) -> NDArray[np.int64]:
    """Over-segmentation by Felzenszwalb and Huttenlocher (IJCV 2004), (H, W) labels 0 .. R - 1.

    channels: (H, W, C) in [0, 1]. k: scale, and the fewest pixels of a segment; sigma: of the Gaussian before it.
    """
    from skimage.segmentation import felzenszwalb

    return felzenszwalb(channels, scale=k, sigma=sigma, min_size=int(k), channel_axis=2).astype(np.int64)


def quantise_colour(channels: Array) -> NDArray[np.int64]:
    """The colour bin, 0 .. 24, of each pixel and channel: (pixels, C)."""
    bins = (channels * COLOUR_BINS).astype(np.int64).clip(0, COLOUR_BINS - 1)
    return bins.reshape(-1, channels.shape[2])


def quantise_texture(channels: Array) -> NDArray[np.int64]:
    """The texture bin, 0 .. 19, of each pixel, channel and axis: (pixels, C * 4).

    Gaussian derivatives (sigma 1) in eight directions, as in SIFT: along each of four axes a slope falls in bins
    10 .. 19 and its opposite in 9 .. 0. Bins reach to the channel's steepest slope, which the paper leaves open.
    """
    from scipy.ndimage import gaussian_filter

    across = gaussian_filter(channels, (1, 1, 0), order=(0, 1, 0))
    down = gaussian_filter(channels, (1, 1, 0), order=(1, 0, 0))
    angles = np.arange(AXES) * np.pi / AXES
    slope = across[..., None] * np.cos(angles) + down[..., None] * np.sin(angles)  # (H, W, C, 4)
    steepest = np.abs(slope).max((0, 1, 3), keepdims=True)
    bins = (slope * (TEXTURE_BINS / np.maximum(steepest, 1e-6)) + TEXTURE_BINS).astype(np.int64)
    return bins.clip(0, 2 * TEXTURE_BINS - 1).reshape(-1, channels.shape[2] * AXES)


def describe(segments: NDArray[np.int64], colour: NDArray[np.int64], texture: NDArray[np.int64]) -> Regions:
    """Size, box and histograms of each segment of an (H, W) label map; colour and texture are bins per pixel."""
    from scipy.ndimage import find_objects

    box = np.array([(x.start, y.start, x.stop, y.stop) for y, x in find_objects(segments + 1)])  # it skips label 0
    flat = segments.ravel()
    return Regions(np.bincount(flat), box, _histogram(flat, colour, COLOUR_BINS, len(box)),
                   _histogram(flat, texture, 2 * TEXTURE_BINS, len(box)))


def touching(segments: NDArray[np.int64]) -> list[set[int]]:
    """For each segment of an (H, W) label map, those that share a pixel's side with it."""
    count = int(segments.max()) + 1
    pairs = np.concatenate([segments[:, :-1].ravel() * count + segments[:, 1:].ravel(),
                            segments[:-1].ravel() * count + segments[1:].ravel()])  # each pair as one number
    neighbours: list[set[int]] = [set() for _ in range(count)]
    for i, j in zip(*(part.tolist() for part in np.divmod(np.unique(pairs), count)), strict=True):
        if i != j:
            neighbours[i].add(j)
            neighbours[j].add(i)
    return neighbours


def sliding_windows(image_size: tuple[int, int], sizes: Sequence[float],
                    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0), stride: float = 0.25) -> Tensor:
    """Windows at every place, size and shape: what detectors scanned before proposals.

    image_size: (height, width) pixels. sizes: square roots of the windows' areas, pixels. aspect_ratios: height /
    width. stride: step between windows as a share of the window's side. Returns (N, 4) float32 xyxy pixels, all inside
    the image, by size, then ratio, then row by row; (0, 4) where no window fits. Raises ValueError for values <= 0.
    """
    if min(*image_size, *sizes, *aspect_ratios, stride, 1) <= 0:
        raise ValueError(f"image_size {image_size}, sizes {sizes}, aspect_ratios {aspect_ratios} and stride {stride} "
                         "must all be above 0.")
    windows = [torch.zeros(0, 4)]
    for size in sizes:
        for ratio in aspect_ratios:
            height, width = size * ratio**0.5, size / ratio**0.5
            y1, x1 = torch.meshgrid(_starts(image_size[0], height, stride), _starts(image_size[1], width, stride),
                                    indexing="ij")
            windows.append(torch.stack([x1, y1, x1 + width, y1 + height], dim=-1).reshape(-1, 4))
    return torch.cat(windows)


def proposal_recall(proposals: Sequence[Tensor], ground_truth: Sequence[Tensor], counts: Sequence[int],
                    iou_threshold: float = 0.5) -> Tensor:
    """Share of objects that at least one of the first n proposals of their image covers, for every n in `counts`.

    proposals, ground_truth: one (N, 4) and one (G, 4) of xyxy pixels per image. Returns (len(counts),), NaN where there
    is no object. Raises ValueError where the two lists differ in length, for two devices, a bad box, a count that is
    not a number >= 0 and a threshold that is not >= 0.
    """
    if len(proposals) != len(ground_truth):
        raise ValueError(f"{len(proposals)} sets of proposals for {len(ground_truth)} images.")
    check_device(proposals=proposals, ground_truth=ground_truth)
    if min(counts, default=0) < 0 or not iou_threshold >= 0:
        raise ValueError(f"counts {list(counts)} at iou_threshold {iou_threshold}: want numbers >= 0.")
    covered = torch.zeros(len(counts))
    for boxes, objects in zip(proposals, ground_truth, strict=True):
        hit = box_iou(objects, boxes) >= iou_threshold
        covered += torch.stack([hit[:, :n].any(1).sum() for n in counts]).cpu()
    return covered / sum(len(objects) for objects in ground_truth)


def _push(heap: list[tuple[float, int, int]], i: int, others: list[int], regions: Regions, measures: str, pixels: int
          ) -> None:
    for j, s in zip(others, similarity(regions, i, others, measures, pixels).tolist(), strict=True):
        heapq.heappush(heap, (-s, min(i, j), max(i, j)))


def _histogram(segments: NDArray[np.int64], bins: NDArray[np.int64], count: int, regions: int) -> Array:
    """(regions, channels * count): how often each segment's pixels fall in each channel's bins, summing to 1."""
    columns = [np.bincount(segments * count + channel, minlength=regions * count).reshape(regions, count)
               for channel in bins.T]
    histogram = np.concatenate(columns, 1).astype(np.float64)
    return histogram / histogram.sum(1, keepdims=True)


def _select(boxes: NDArray[np.int64], shortest: float) -> NDArray[np.int64]:
    """The boxes with both sides at least `shortest`, each once and in the given order."""
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= shortest).all(1)]
    return boxes[np.sort(np.unique(boxes, axis=0, return_index=True)[1])]


def _starts(length: float, side: float, stride: float) -> Tensor:
    """Where windows of `side` start along `length` pixels, centred; none where the window is too long."""
    step, room = stride * side, length - side
    if room < 0:
        return torch.zeros(0)
    count = int(room // step) + 1
    return (room - (count - 1) * step) / 2 + step * torch.arange(count)


def _to_pixels(image: Tensor) -> Array:
    """(3, H, W) tensor as the (H, W, 3) float64 array that scikit-image wants."""
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ValueError(f"image of shape {tuple(image.shape)}: want (3, H, W) with at least one pixel.")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(f"image values from {low} to {high}: want [0, 1].")
    return np.ascontiguousarray(image.detach().permute(1, 2, 0).double().cpu().numpy())
