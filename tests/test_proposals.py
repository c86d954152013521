"""Selective Search against a brute-force merging, its invariants, hostile images; sliding windows; recall."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons import proposals
from lessons.data.scenes import compose_scene
from lessons.proposals import (
    describe,
    first_segments,
    merge_regions,
    proposal_recall,
    quantise_colour,
    quantise_texture,
    selective_search,
    selective_search_hierarchy,
    similarity,
    sliding_windows,
    to_colour_space,
    touching,
)


def patchwork(seed: int, size: int = 18, cells: int = 6) -> np.ndarray:
    """(size, size, 3) noise with coarse patches, so that every histogram differs and no two pairs tie."""
    random = np.random.default_rng(seed)
    coarse = random.random((cells, cells, 3)).repeat(size // cells, 0).repeat(size // cells, 1)
    return (0.8 * coarse + 0.2 * random.random((size, size, 3))).clip(0, 1)


def grid(size: int = 18, cells: int = 4) -> np.ndarray:
    """A label map of cells x cells segments, made uneven by one column."""
    line = np.minimum(np.arange(size) * cells // (size + 1), cells - 1)
    return line[:, None] * cells + line[None]


class Pixels:
    """Every quantity recomputed from the pixels of a label map at each step: slow and plain."""

    def __init__(self, segments: np.ndarray, channels: np.ndarray) -> None:
        self.masks = {i: segments == i for i in range(segments.max() + 1)}
        self.colour, self.texture = quantise_colour(channels), quantise_texture(channels)
        self.area = segments.size

    def histogram(self, i: int, bins: np.ndarray, count: int) -> np.ndarray:
        rows = bins[self.masks[i].ravel()]
        table = np.stack([np.bincount(column, minlength=count) for column in rows.T])
        return table.ravel() / table.sum()

    def box(self, mask: np.ndarray) -> tuple[int, int, int, int]:
        ys, xs = np.nonzero(mask)
        return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1

    def similarity(self, i: int, j: int, measures: str) -> float:
        a, b = self.masks[i], self.masks[j]
        x1, y1, x2, y2 = self.box(a | b)
        both = a.sum() + b.sum()
        parts = {
            "C": np.minimum(self.histogram(i, self.colour, 25), self.histogram(j, self.colour, 25)).sum(),
            "T": np.minimum(self.histogram(i, self.texture, 20), self.histogram(j, self.texture, 20)).sum(),
            "S": 1 - both / self.area,
            "F": 1 - ((x2 - x1) * (y2 - y1) - both) / self.area,
        }
        return sum(parts[letter] for letter in measures)

    def adjacent(self, i: int, j: int) -> bool:
        a, b = self.masks[i], self.masks[j]
        return bool((a[1:] & b[:-1]).any() or (a[:-1] & b[1:]).any() or (a[:, 1:] & b[:, :-1]).any()
                    or (a[:, :-1] & b[:, 1:]).any())

    def merge_all(self, measures: str) -> tuple[list[tuple[int, int]], list[float], list[tuple[int, ...]]]:
        boxes = [self.box(mask) for mask in self.masks.values()]
        merges, similarities = [], []
        while len(self.masks) > 1:
            names = sorted(self.masks)
            pairs = [(i, j) for n, i in enumerate(names) for j in names[n + 1:] if self.adjacent(i, j)]
            best = max(pairs, key=lambda pair: self.similarity(*pair, measures))
            similarities.append(self.similarity(*best, measures))
            merges.append(best)
            union = self.masks.pop(best[0]) | self.masks.pop(best[1])
            self.masks[len(boxes)] = union
            boxes.append(self.box(union))
        return merges, similarities, boxes


@pytest.mark.parametrize("measures", ["CTSF", "TSF", "F", "S", "C"])
@pytest.mark.parametrize("seed", [0, 1])
def test_merging_equals_brute_force(measures, seed):
    channels, segments = patchwork(seed), grid()
    if measures in ("F", "S"):  # only sizes and boxes count: uneven segments, or every pair ties
        segments = np.random.default_rng(seed).permutation(16)[segments]
        segments[:5, :7], segments[5:12, :3] = segments[0, 0], segments[17, 17]
        segments = np.unique(segments, return_inverse=True)[1].reshape(segments.shape)
    regions = describe(segments, quantise_colour(channels), quantise_texture(channels))
    merged, merges, similarities = merge_regions(regions, touching(segments), measures)
    want_merges, want_similarities, want_boxes = Pixels(segments, channels).merge_all(measures)
    np.testing.assert_allclose(similarities, want_similarities, rtol=1e-12)
    if measures not in ("F", "S"):  # ties may be broken either way by the last bit of a float
        assert merges == want_merges
        assert merged.box.tolist() == [list(box) for box in want_boxes]


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_regions_keep_their_invariants(seed):
    channels = patchwork(seed)
    segments = first_segments(channels, 10)
    regions = describe(segments, quantise_colour(channels), quantise_texture(channels))
    assert regions.size.sum() == segments.size
    np.testing.assert_allclose(regions.colour.sum(1), 1)
    np.testing.assert_allclose(regions.texture.sum(1), 1)
    before = regions.colour.copy()
    merged, merges, _ = merge_regions(regions, touching(segments), "CTSF")
    count = len(regions.size)
    assert (regions.colour == before).all(), "merging must not change the regions it was given"
    assert sorted(np.array(merges).ravel().tolist()) == list(range(2 * count - 2)), "each region is merged once"
    assert merged.size[-1] == segments.size
    assert merged.box[-1].tolist() == [0, 0, 18, 18]
    whole = describe(np.zeros_like(segments), quantise_colour(channels), quantise_texture(channels))
    np.testing.assert_allclose(merged.colour[-1], whole.colour[0], atol=1e-12)
    np.testing.assert_allclose(merged.texture[-1], whole.texture[0], atol=1e-12)
    for t, (i, j) in enumerate(merges):
        assert merged.size[count + t] == merged.size[i] + merged.size[j]


def test_a_region_is_most_similar_to_itself():
    channels = patchwork(3)
    regions = describe(grid(), quantise_colour(channels), quantise_texture(channels))
    for measures in ("C", "T"):
        table = np.stack([similarity(regions, i, range(16), measures, 324) for i in range(16)])
        np.testing.assert_allclose(np.diag(table), 1)
        np.testing.assert_allclose(table, table.T)
        assert table.min() >= 0
        assert (table <= 1 + 1e-12).all()


def test_fill_prefers_the_region_that_fills_a_hole():
    segments = np.zeros((9, 9), int)
    segments[3:6, 3:6] = 1  # a hole in region 0
    segments[:, 8] = 2  # a strip at its side
    bins = np.zeros((81, 1), int)
    regions = describe(segments, bins, bins)
    hole, strip = similarity(regions, 0, [1, 2], "F", 81)
    assert hole > strip
    assert hole == 1 + 0 - (8 * 9 - (63 + 9)) / 81
    assert strip == 1 - (81 - (63 + 9)) / 81


@pytest.mark.parametrize("mode", ["single", "fast", "quality"])
def test_boxes_lie_inside_are_unique_and_the_same_every_time(mode):
    image, _ = compose_scene("val", 3, size=96)
    boxes = selective_search(image, mode)
    assert boxes.dtype == torch.float32
    assert len(boxes) > 20
    assert (boxes >= 0).all()
    assert (boxes <= 96).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 0.02 * 96).all()
    assert len(boxes.unique(dim=0)) == len(boxes)
    assert torch.equal(boxes, selective_search(image, mode))
    other = selective_search(image, mode, seed=1)
    assert not torch.equal(boxes, other)
    assert torch.equal(boxes.unique(dim=0), other.unique(dim=0)), "the seed changes the order only"


def test_more_strategies_find_more_and_global_randomness_is_left_alone():
    image, _ = compose_scene("val", 5, size=96)
    np.random.seed(0)  # noqa: NPY002 - the legacy global state must stay as it is
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    counts = [len(selective_search(image, mode)) for mode in ("single", "fast", "quality")]
    assert counts[0] < counts[1] < counts[2]
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_most_objects_of_the_scenes_are_covered():
    samples = [compose_scene("val", index) for index in range(12)]
    found = proposal_recall([selective_search(image) for image, _ in samples],
                            [target["boxes"] for _, target in samples], [10, 100, 2000])
    assert found[0] < found[1] <= found[2]
    assert found[2] > 0.9


def test_a_bright_square_is_found_exactly():
    image = torch.full((3, 64, 64), 0.2)
    image[0, 20:44, 8:30] = 0.9
    assert [8, 20, 30, 44] in selective_search(image).tolist()


def test_min_side_leaves_small_boxes_out():
    image, _ = compose_scene("val", 4, size=96)
    every, large = selective_search(image, min_side=0), selective_search(image, min_side=0.25)
    kept = every[((every[:, 2:] - every[:, :2]) >= 24).all(1)]
    assert torch.equal(large, kept)
    assert len(selective_search(image, min_side=1.01)) == 0


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_image_is_one_region(value):
    assert selective_search(torch.full((3, 40, 30), value)).tolist() == [[0, 0, 30, 40]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2)])
@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_tiny_images(shape, mode):
    image = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    boxes = selective_search(image, mode)
    assert [0, 0, shape[1], shape[0]] in boxes.tolist()
    tree = selective_search_hierarchy(image)
    assert len(tree.boxes) == 2 * len(tree.merges) + 1


def test_a_grey_photograph_and_pure_noise():
    grey = compose_scene("val", 0, size=96)[0].mean(0).expand(3, -1, -1)
    assert len(selective_search(grey)) > 10
    noise = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(1))
    assert [0, 0, 70, 50] in selective_search(noise).tolist()


@pytest.mark.parametrize(("image", "message"), [
    (torch.zeros(1, 8, 8), r"\(1, 8, 8\)"), (torch.zeros(8, 8), r"\(8, 8\)"), (torch.zeros(3, 0, 8), r"\(3, 0, 8\)"),
    (torch.zeros(2, 3, 8, 8), "want"), (torch.full((3, 8, 8), float("nan")), "nan"),
    (torch.full((3, 8, 8), 255.0), "255"), (torch.full((3, 8, 8), -0.1), "-0.1"),
    (torch.full((3, 8, 8), float("inf")), "inf"),
])
def test_bad_images_are_refused(image, message):
    for search in (selective_search, selective_search_hierarchy):
        with pytest.raises(ValueError, match=message):
            search(image)


def test_bad_names_are_refused():
    image = torch.rand(3, 8, 8)
    with pytest.raises(ValueError, match="'slow' is none of single, fast, quality"):
        selective_search(image, "slow")
    with pytest.raises(ValueError, match="'cmyk'"):
        selective_search_hierarchy(image, "cmyk")
    for measures in ("CX", ""):
        with pytest.raises(ValueError, match=f"measures '{measures}'"):
            selective_search_hierarchy(image, measures=measures)


def test_hierarchy_from_segments_to_one_region():
    image, _ = compose_scene("val", 7, size=96)
    tree = selective_search_hierarchy(image, "lab", "CTSF", 30)
    first = len(tree.merges) + 1
    assert first > 10
    assert tree.segments.shape == (96, 96)
    assert torch.equal(tree.labels(0), tree.segments)
    assert tree.labels(first - 1).unique().tolist() == [2 * first - 2]
    for step in (1, first // 2, first - 2):
        before, after = tree.labels(step - 1), tree.labels(step)
        i, j = tree.merges[step - 1].tolist()
        assert torch.equal(after == first + step - 1, (before == i) | (before == j))
        changed = before != after
        assert torch.equal(changed, (before == i) | (before == j))
        ys, xs = torch.nonzero(after == first + step - 1, as_tuple=True)
        assert tree.boxes[first + step - 1].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    for step in (-1, first):
        with pytest.raises(ValueError, match=f"step {step} "):
            tree.labels(step)


def test_colour_spaces():
    pixels = patchwork(0)
    for space, channels in (("rgb", 3), ("hsv", 3), ("lab", 3), ("rgi", 3), ("h", 1), ("i", 1)):
        converted = to_colour_space(pixels, space)
        assert converted.shape == (18, 18, channels)
        assert converted.min() >= 0
        assert converted.max() <= 1
    np.testing.assert_allclose(to_colour_space(0.5 * pixels, "rgi")[..., :2], to_colour_space(pixels, "rgi")[..., :2])
    np.testing.assert_allclose(to_colour_space(0.5 * pixels, "h"), to_colour_space(pixels, "h"), atol=1e-9)
    assert np.isfinite(to_colour_space(np.zeros((4, 4, 3)), "rgi")).all()


def test_texture_tells_the_direction_of_an_edge():
    rising = np.zeros((20, 20, 1))
    rising[:, 10:] = 1.0
    bins = quantise_texture(rising).reshape(20, 20, 4)
    assert (bins[5, 9] == [19, 17, 10, 2]).all()  # steepest along x, cos 45 of it on the diagonals, none along y
    mirrored = quantise_texture(1 - rising).reshape(20, 20, 4)
    assert (mirrored[5, 9] < [10, 10, 11, 18]).all()


def test_sliding_windows():
    windows = sliding_windows((60, 100), [20.0, 40.0], [0.5, 1.0, 2.0], stride=0.5)
    sides = windows[:, 2:] - windows[:, :2]
    assert (windows >= -1e-4).all()
    assert (windows[:, 2] <= 100 + 1e-3).all()
    assert (windows[:, 3] <= 60 + 1e-3).all()
    ratios = (sides[:, 1] / sides[:, 0]).round(decimals=3).unique().tolist()
    assert ratios == [0.5, 1.0, 2.0]
    areas = sides.prod(1).sqrt().round(decimals=2).unique().tolist()
    assert areas == [20.0, 40.0]
    square = sliding_windows((60, 100), [20.0], [1.0], stride=0.5)
    assert len(square) == 5 * 9
    assert sliding_windows((10, 10), [20.0]).shape == (0, 4)
    for bad in [((0, 10), [5.0], [1.0], 0.5), ((10, 10), [-5.0], [1.0], 0.5), ((10, 10), [5.0], [0.0], 0.5),
                ((10, 10), [5.0], [1.0], 0.0)]:
        with pytest.raises(ValueError, match="above 0"):
            sliding_windows(*bad)


def test_recall_by_hand():
    objects = [torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 4, 4]])]
    boxes = [torch.tensor([[0.0, 0, 10, 9], [50, 50, 60, 60], [20, 20, 30, 30]]), torch.tensor([[0.0, 0, 1, 1]]),
             torch.zeros(0, 4)]
    assert proposal_recall(boxes, objects, [1, 2, 3, 100]).tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert proposal_recall(boxes, objects, [100], iou_threshold=0.95).tolist() == pytest.approx([1 / 3])
    assert proposal_recall([torch.zeros(0, 4)], [torch.zeros(0, 4)], [5]).isnan().all()
    with pytest.raises(ValueError, match="3 sets of proposals for 2 images"):
        proposal_recall(boxes, objects[:2], [1])


def test_modes_are_those_of_the_paper():
    strategies = {mode: len(spaces) * len(measures) * len(scales)
                  for mode, (spaces, measures, scales) in proposals.MODES.items()}
    assert strategies == {"single": 1, "fast": 8, "quality": 80}
