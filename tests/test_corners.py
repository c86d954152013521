"""Corner pooling and keypoint triplets against plain loops over pixels and pairs, and what must hold for any map."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons.corners import (
    KeypointMaps,
    cascade_corner_pool,
    center_pool,
    central_region,
    corner_pool,
    decode_corners,
    decode_triplets,
)

DIRECTIONS = ("top", "bottom", "left", "right")
SHAPES = [(2, 3, 5, 7), (1, 1, 1, 1), (1, 2, 6, 1), (2, 1, 1, 6), (0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)]
INFINITY = math.inf


def features(shape, kind="random", seed=0, dtype=torch.float64):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"random": x, "ties": (x * 1.5).round(), "negative": -x.abs() - 1, "infinite": x.masked_fill(x < 0, -INFINITY),
            "zero": x * 0}[kind].to(dtype)


def line(rows, place, direction):
    """The cells that pooling sees from a place on, itself first, given the rows of one channel."""
    height, width = len(rows), len(rows[0])
    row, column = place
    return {"top": [(i, column) for i in range(row, height)], "bottom": [(i, column) for i in range(row, -1, -1)],
            "left": [(row, j) for j in range(column, width)], "right": [(row, j) for j in range(column, -1, -1)]}[direction]


def largest(rows, place, direction):
    """The value of the nearest largest cell in a direction and its place, cell by cell."""
    best = None
    for i, j in line(rows, place, direction):
        if best is None or rows[i][j] > best[0]:
            best = rows[i][j], (i, j)
    return best


def by_loop(x, function):
    """function(rows of one channel, (row, column)) at every cell of x (B, C, H, W)."""
    result = torch.empty_like(x)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            rows = x[b, c].tolist()
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    result[b, c, i, j] = function(rows, (i, j))
    return result


def cascade_at(rows, place, corner):
    """From the corner along each of its two edges, then from the maximum inwards."""
    across, down = {"top_left": ("left", "top"), "bottom_right": ("right", "bottom")}[corner]
    total = 0
    for along, inwards in ((across, down), (down, across)):
        value, where = largest(rows, place, along)
        total += value + largest(rows, where, inwards)[0]
    return total


def cross_at(rows, place):
    return max(rows[place[0]]) + max(row[place[1]] for row in rows)


@pytest.mark.parametrize("kind", ["random", "ties", "negative", "infinite", "zero"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pooling_equals_the_loop(shape, kind):
    x = features(shape, kind)
    for direction in DIRECTIONS:
        assert torch.equal(corner_pool(x, direction), by_loop(x, lambda rows, at: largest(rows, at, direction)[0]))  # noqa: B023
    for corner in ("top_left", "bottom_right"):
        expected = by_loop(x, lambda rows, at: cascade_at(rows, at, corner))  # noqa: B023
        torch.testing.assert_close(cascade_corner_pool(x, corner), expected, rtol=0, atol=1e-12)
    assert torch.equal(center_pool(x), by_loop(x, cross_at))


def test_pooling_by_hand():
    x = torch.tensor([[2.0, 1, 3, 0, 2]])[None, None]
    assert corner_pool(x, "left")[0, 0].tolist() == [[3, 3, 3, 2, 2]]
    assert corner_pool(x, "right")[0, 0].tolist() == [[2, 2, 3, 3, 3]]
    x = torch.tensor([[0.0, 5, 0], [1, 0, 7], [0, 2, 0]])[None, None]
    # along the first row to the 5, below it at most 5 again: 5 + 5; down the first column to the 1, right of it 7: 1 + 7
    assert cascade_corner_pool(x, "top_left")[0, 0, 0, 0] == 5 + 5 + 1 + 7
    assert center_pool(x)[0, 0].tolist() == [[6, 10, 12], [8, 12, 14], [3, 7, 9]]


def test_cascade_looks_in_from_the_maximum_only():
    """The edge's maximum says where to look: a larger value further in, elsewhere, does not count."""
    x = torch.zeros(1, 1, 3, 4)
    x[0, 0, 0, 2], x[0, 0, 2, 1], x[0, 0, 2, 2] = 4, 9, 1
    assert cascade_corner_pool(x, "top_left")[0, 0, 0, 0] == (4 + 4) + (0 + 4)
    x[0, 0, 0, 1] = 5  # now the maximum lies above the 9
    assert cascade_corner_pool(x, "top_left")[0, 0, 0, 0] == (5 + 9) + (0 + 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pooling_in_other_precisions_and_layouts(dtype):
    x = features((2, 3, 5, 7), dtype=dtype)
    other = x.contiguous(memory_format=torch.channels_last)
    for pool, argument in ((corner_pool, "top"), (corner_pool, "right"), (cascade_corner_pool, "bottom_right")):
        result = pool(x, argument)
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), pool(x.double(), argument), rtol=0.02, atol=0.05)
        assert torch.equal(pool(other, argument), result)
    assert torch.equal(center_pool(other), center_pool(x))


def test_pooling_gradients():
    x = features((2, 2, 4, 5)).requires_grad_()
    for direction in DIRECTIONS:
        assert torch.autograd.gradcheck(lambda x: corner_pool(x, direction), x)  # noqa: B023
    for corner in ("top_left", "bottom_right"):
        assert torch.autograd.gradcheck(lambda x: cascade_corner_pool(x, corner), x)  # noqa: B023
    assert torch.autograd.gradcheck(center_pool, x)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_gradient_goes_to_the_nearest_maximum(direction):
    x = features((1, 1, 5, 6), "ties").requires_grad_()
    weight = features((1, 1, 5, 6), seed=1)
    (gradient,) = torch.autograd.grad((corner_pool(x, direction) * weight).sum(), x)
    expected = torch.zeros(5, 6, dtype=torch.float64)
    for i in range(5):
        for j in range(6):
            expected[largest(x[0, 0].tolist(), (i, j), direction)[1]] += weight[0, 0, i, j]
    torch.testing.assert_close(gradient[0, 0], expected)


def test_centre_pooling_is_made_of_corner_pooling():
    x = features((2, 3, 6, 5))
    whole_row = corner_pool(corner_pool(x, "left"), "right")
    whole_column = corner_pool(corner_pool(x, "top"), "bottom")
    assert torch.equal(center_pool(x), whole_row + whole_column)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 3), st.integers(0, 3))
def test_pooling_moves_and_turns_with_the_map(seed, down, right):
    canvas = torch.full((1, 1, 12, 13), -9.0)  # lower than anything on it
    here, there = canvas.clone(), canvas.clone()
    patch = features((1, 1, 5, 6), seed=seed).float()
    here[:, :, 2:7, 3:9] = patch
    there[:, :, 2 + down:7 + down, 3 + right:9 + right] = patch
    pools = [*(lambda x, d=d: corner_pool(x, d) for d in DIRECTIONS), center_pool,
             *(lambda x, c=c: cascade_corner_pool(x, c) for c in ("top_left", "bottom_right"))]
    for pool in pools:
        before = pool(here)[:, :, :12 - down, :13 - right]
        assert torch.equal(pool(there)[:, :, down:, right:], before)
    assert torch.equal(corner_pool(here.flip(3), "left").flip(3), corner_pool(here, "right"))
    assert torch.equal(corner_pool(here.flip(2), "top").flip(2), corner_pool(here, "bottom"))
    assert torch.equal(corner_pool(here.mT, "left").mT, corner_pool(here, "top"))
    turned = cascade_corner_pool(here.flip(2, 3), "top_left").flip(2, 3)
    assert torch.equal(turned, cascade_corner_pool(here, "bottom_right"))


def test_central_region_by_the_paper():
    """Duan et al.: thirds up to a scale of 150, fifths above it; the authors' code compares the area with 22,500."""
    boxes = torch.tensor([[0.0, 0, 30, 60], [10, 20, 160, 170], [10, 20, 161, 170], [0, 0, 500, 1000], [4, 4, 4, 9]])
    expected = [[10, 20, 20, 40],  # (2 x1 + x2) / 3 to (x1 + 2 x2) / 3
                [60, 70, 110, 120],  # exactly 150 x 150: still thirds
                [(3 * 10 + 2 * 161) / 5, (3 * 20 + 2 * 170) / 5, (2 * 10 + 3 * 161) / 5, (2 * 20 + 3 * 170) / 5],
                [200, 400, 300, 600], [4, 4 + 5 / 3, 4, 4 + 10 / 3]]
    torch.testing.assert_close(central_region(boxes, large=150), torch.tensor(expected))
    torch.testing.assert_close(central_region(boxes / 4), torch.tensor(expected) / 4)  # cells of 4 pixels
    torch.testing.assert_close(central_region(boxes[:1], large=10), torch.tensor([[12.0, 24, 18, 36]]))
    assert central_region(boxes[:0]).shape == (0, 4)
    sides = (central_region(boxes, 150)[:, 2:] - central_region(boxes, 150)[:, :2]) / (boxes[:, 2:] - boxes[:, :2])
    torch.testing.assert_close(sides[:4], torch.tensor([3.0, 3, 5, 5])[:, None].expand(4, 2) ** -1)


def random_maps(batch=2, classes=2, height=7, width=9, seed=0, kind="random", dtype=torch.float64):
    """Maps of top-left and bottom-right corners and of centres with some of everything."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for _ in range(3):
        heat = torch.rand(batch, classes, height, width, generator=generator, dtype=torch.float64)
        heat = {"random": heat, "ties": (heat * 4).round() / 4, "zero": heat * 0, "one": heat * 0 + 1}[kind]
        offsets = torch.rand(batch, 2, height, width, generator=generator, dtype=torch.float64)
        tags = torch.rand(batch, 1, height, width, generator=generator, dtype=torch.float64) * 2
        maps.append(KeypointMaps(*(values.to(dtype) for values in (heat, offsets, tags))))
    return maps


def peaks_by_loop(maps, image, top_k):
    """(score, class, x, y, tag) of the best cells without a higher neighbour."""
    heat, found = maps.heat[image].tolist(), []
    for k, rows in enumerate(heat):
        for i, row in enumerate(rows):
            for j, score in enumerate(row):
                around = [rows[a][b] for a in range(max(i - 1, 0), min(i + 2, len(rows)))
                          for b in range(max(j - 1, 0), min(j + 2, len(row)))]
                if score > 0 and score == max(around):
                    x, y = maps.offsets[image, :, i, j].tolist()
                    tag = 0 if maps.tags is None else maps.tags[image, 0, i, j].item()
                    found.append((score, k, j + x, i + y, tag))
    return sorted(found, key=lambda peak: -peak[0])[:top_k]


def corners_by_loop(top_left, bottom_right, image, top_k, max_distance):
    """(box, class, score) of every pair that fits, by falling score."""
    found = []
    for score1, k1, x1, y1, tag1 in peaks_by_loop(top_left, image, top_k):
        for score2, k2, x2, y2, tag2 in peaks_by_loop(bottom_right, image, top_k):
            if k1 == k2 and x1 < x2 and y1 < y2 and abs(tag1 - tag2) <= max_distance:
                found.append(((x1, y1, x2, y2), k1, (score1 + score2) / 2))
    return sorted(found, key=lambda one: -one[2])


def triplets_by_loop(top_left, bottom_right, centre, image, top_k, max_distance, large):
    found = []
    for (x1, y1, x2, y2), k, score in corners_by_loop(top_left, bottom_right, image, top_k, max_distance):
        n = 5 if (x2 - x1) * (y2 - y1) > large * large else 3
        confirmed = []
        for centre_score, centre_k, x, y, _ in peaks_by_loop(centre, image, top_k):
            part_x, part_y = (x - x1) / (x2 - x1) * n, (y - y1) / (y2 - y1) * n  # in parts, of which the middle one is
            if centre_k == k and (n - 1) / 2 < part_x < (n + 1) / 2 and (n - 1) / 2 < part_y < (n + 1) / 2:
                confirmed.append(centre_score)
        if confirmed:
            found.append(((x1, y1, x2, y2), k, (2 * score + max(confirmed)) / 3))
    return sorted(found, key=lambda one: -one[2])


def same(result, expected):
    boxes, labels, scores = zip(*expected, strict=True) if expected else ((), (), ())
    assert result["labels"].tolist() == list(labels)
    torch.testing.assert_close(result["boxes"], torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4))
    torch.testing.assert_close(result["scores"], torch.tensor(scores, dtype=torch.float64))


SIZES = [{}, {"height": 12, "width": 5, "classes": 1}, {"height": 1, "width": 1}, {"batch": 0}, {"classes": 0}, {"height": 0},
         {"width": 0}, {"height": 1, "width": 8}, {"kind": "ties"}, {"kind": "zero"}, {"kind": "one", "height": 4, "width": 4}]


@pytest.mark.parametrize(("top_k", "max_distance", "large"), [(100, 0.5, 37.5), (5, 2.0, 3.0), (1, 0.0, 0.0), (20, 1.0, 4.0)])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_decoding_equals_the_loop(size, top_k, max_distance, large):
    top_left, bottom_right, centre = random_maps(**size)
    pairs = decode_corners(top_left, bottom_right, top_k, max_distance)
    triplets = decode_triplets(top_left, bottom_right, centre._replace(tags=None), top_k, max_distance, large)
    assert len(pairs) == len(triplets) == len(top_left.heat)
    for image, (pair, triplet) in enumerate(zip(pairs, triplets, strict=True)):
        same(pair, corners_by_loop(top_left, bottom_right, image, top_k, max_distance))
        same(triplet, triplets_by_loop(top_left, bottom_right, centre, image, top_k, max_distance, large))


def test_the_loop_comparison_has_something_to_compare():
    top_left, bottom_right, centre = random_maps()
    assert len(decode_corners(top_left, bottom_right)[0]["boxes"]) >= 5
    counts = [len(decode_triplets(top_left, bottom_right, centre, 100, 2.0, large)[0]["boxes"]) for large in (3.0, 99.0)]
    assert 0 < counts[0] < counts[1]  # fifths are stricter than thirds


def drawn(objects, height=16, width=20, classes=2):
    """Perfect maps for objects (x1, y1, x2, y2, class, tag), coordinates in cells."""
    maps = [KeypointMaps(torch.zeros(1, classes, height, width), torch.zeros(1, 2, height, width),
                         torch.full((1, 1, height, width), 50.0)) for _ in range(3)]
    for x1, y1, x2, y2, k, tag in objects:
        for kind, (x, y) in zip(maps, [(x1, y1), (x2, y2), ((x1 + x2) / 2, (y1 + y2) / 2)], strict=True):
            i, j = int(y), int(x)
            kind.heat[0, k, i, j], kind.tags[0, 0, i, j] = 1, tag
            kind.offsets[0, :, i, j] = torch.tensor([x - j, y - i])
    return maps


def test_perfect_maps_give_the_objects_back():
    objects = [(1.25, 2.5, 6.75, 9.0, 0, 1.0), (8.0, 1.5, 18.5, 13.25, 1, 3.0), (9.5, 4.0, 12.0, 6.5, 0, 5.0)]
    (result,) = decode_triplets(*drawn(objects))
    found = {(*box, k) for box, k in zip(map(tuple, result["boxes"].tolist()), result["labels"].tolist(), strict=True)}
    assert found == {one[:5] for one in objects}
    assert result["scores"].tolist() == [1, 1, 1]
    assert result["labels"].dtype == torch.int64


def test_the_centre_rejects_a_false_pair():
    """Two equal objects with equal tags: CornerNet also joins the first's corner to the second's."""
    top_left, bottom_right, centre = drawn([(1, 2, 5, 7, 0, 1.0), (9, 2, 13, 7, 0, 1.0)])
    false = [1, 2, 13, 7]
    assert false in decode_corners(top_left, bottom_right)[0]["boxes"].tolist()
    confirmed = decode_triplets(top_left, bottom_right, centre)[0]["boxes"].tolist()
    assert sorted(confirmed) == [[1, 2, 5, 7], [9, 2, 13, 7]]
    other_class = centre._replace(heat=centre.heat.flip(1))
    assert len(decode_triplets(top_left, bottom_right, other_class)[0]["boxes"]) == 0


def test_borders_of_the_rules():
    top_left, bottom_right, centre = drawn([(2, 2, 8, 8, 0, 1.0)])
    for tag, kept in ((1.5, 1), (1.5000001, 0), (0.5, 1), (0.4999999, 0)):  # "greater than 0.5" go
        bottom_right.tags[0, 0, 8, 8] = tag
        assert len(decode_corners(top_left, bottom_right)[0]["boxes"]) == kept
    bottom_right.tags[0, 0, 8, 8] = 1
    centre.heat.zero_()
    for x, kept in ((4, 0), (5, 1), (6, 0)):  # the region is 4 to 6, and its edge is outside
        moved = centre._replace(heat=centre.heat.clone())
        moved.heat[0, 0, 5, x] = 0.4
        (result,) = decode_triplets(top_left, bottom_right, moved)
        assert len(result["boxes"]) == kept
    centre.heat[0, 0, 5, 5] = 0.4
    top_left.heat[0, 0, 2, 2], bottom_right.heat[0, 0, 8, 8] = 0.9, 0.5
    torch.testing.assert_close(decode_corners(top_left, bottom_right)[0]["scores"], torch.tensor([0.7]))
    torch.testing.assert_close(decode_triplets(top_left, bottom_right, centre)[0]["scores"], torch.tensor([0.6]))
    line = drawn([(2, 2, 8, 2, 0, 1.0), (5, 3, 5, 9, 0, 2.0)])
    assert len(decode_corners(*line[:2])[0]["boxes"]) == 0  # no width or no height, no box


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["random", "ties"]), st.integers(1, 30), st.floats(0, 2), st.floats(0, 10))
def test_properties(seed, kind, top_k, max_distance, large):
    maps = random_maps(1, 2, 6, 8, seed, kind)
    (pairs,), (triplets,) = decode_corners(*maps[:2], top_k, max_distance), decode_triplets(*maps, top_k, max_distance, large)
    for result in (pairs, triplets):
        assert (result["scores"].diff() <= 0).all()
        assert ((result["scores"] > 0) & (result["scores"] <= 1)).all()
        assert (result["boxes"][:, 2:] > result["boxes"][:, :2]).all()
    assert len(pairs["boxes"]) <= top_k**2

    def as_set(result):
        return {(*box, k) for box, k in zip(map(tuple, result["boxes"].tolist()), result["labels"].tolist(), strict=True)}

    assert as_set(triplets) <= as_set(pairs) <= as_set(decode_corners(*maps[:2], top_k, max_distance + 0.1)[0])
    wider = [KeypointMaps(*(torch.nn.functional.pad(values, (2, 0, 3, 0)) for values in one)) for one in maps]
    moved = decode_triplets(*wider, top_k, max_distance, large)[0]  # 2 cells to the right, 3 down
    torch.testing.assert_close(moved["scores"], triplets["scores"], rtol=0, atol=0)
    shift = torch.tensor([2.0, 3, 2, 3], dtype=torch.float64)
    torch.testing.assert_close(moved["boxes"], triplets["boxes"] + shift, rtol=0, atol=1e-12)


def test_half_precision_keeps_places():
    maps = drawn([(1030.25, 2.5, 1036.75, 9.0, 0, 1.0)], width=1040)
    half = [KeypointMaps(*(values.half() for values in one)) for one in maps]
    for (result,) in (decode_triplets(*half), decode_triplets(*maps)):
        assert result["boxes"].dtype == torch.float32
        assert result["boxes"].tolist() == [[1030.25, 2.5, 1036.75, 9.0]]


def test_no_gradient_and_no_change():
    maps = random_maps()
    copies = [KeypointMaps(*(values.clone() for values in one)) for one in maps]
    for one in maps:
        one.heat.requires_grad_()
    assert not decode_triplets(*maps)[0]["scores"].requires_grad
    assert all(torch.equal(a, b) for one, other in zip(maps, copies, strict=True) for a, b in zip(one, other, strict=True))


def test_bad_input_is_named():
    x = features((1, 1, 2, 3))
    for pool in (lambda x: corner_pool(x, "top"), lambda x: cascade_corner_pool(x, "top_left"), center_pool):
        with pytest.raises(ValueError, match=r"\(1, 2, 3\): want \(B, C, H, W\)"):
            pool(x[0])
        with pytest.raises(ValueError, match=r"\[0, 0, 1, 2\] are NaN"):
            pool(torch.cat([x.flatten()[:5], x.new_tensor([math.nan])]).reshape(x.shape))
    with pytest.raises(ValueError, match="'up' is none of top, bottom"):
        corner_pool(x, "up")
    with pytest.raises(ValueError, match="'top' is none of top_left, bottom_right"):
        cascade_corner_pool(x, "top")
    for wrong, large, message in (([[5.0, 0, 4, 9]], 1, "want finite"), ([[0.0, 0, 4, math.nan]], 1, "want finite"),
                                  ([[0.0, 0, 4, 9]], -1, "large -1"), ([[0.0, 0, 4, 9]], math.nan, "large nan")):
        with pytest.raises(ValueError, match=message):
            central_region(torch.tensor(wrong), large)


@pytest.mark.parametrize("place", range(3))
def test_bad_maps_are_named(place):
    name = ("top_left", "bottom_right", "centre")[place]

    def decode_with(**changes):
        maps = random_maps()
        maps[place] = maps[place]._replace(**changes)
        return decode_triplets(*maps)

    good = random_maps()[place]
    for heat in (good.heat * 2, -good.heat, good.heat * math.nan):
        with pytest.raises(ValueError, match=rf"{name}: heat .* is no probability in \[0, 1\]"):
            decode_with(heat=heat)
    if place:
        with pytest.raises(ValueError, match=rf"{name}: heat of shape \(2, 1, 7, 9\)"):
            decode_with(heat=good.heat[:, :1])
    with pytest.raises(ValueError, match=rf"{name}: offsets of shape \(2, 1, 7, 9\) for heat"):
        decode_with(offsets=good.tags)
    with pytest.raises(ValueError, match=rf"{name}: offsets hold inf"):
        decode_with(offsets=good.offsets * INFINITY)
    if place < 2:
        with pytest.raises(ValueError, match=rf"{name}: tags hold nan"):
            decode_with(tags=good.tags * math.nan)
        with pytest.raises(ValueError, match=f"{name}: tags of shape None"):
            decode_with(tags=None)


def test_bad_numbers_are_named():
    maps = random_maps()
    for arguments, message in (((0,), "top_k 0"), ((1.5,), "top_k 1.5"), ((5, -0.1), "max_distance -0.1"),
                               ((5, math.nan), "max_distance nan"), ((5, 0.5, -1.0), "large -1.0")):
        with pytest.raises(ValueError, match=message):
            decode_triplets(*maps, *arguments)
    with pytest.raises(ValueError, match="want \\(B, K, H, W\\)"):
        decode_corners(*(KeypointMaps(*(values[0] for values in one)) for one in maps[:2]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda():
    x, maps = features((2, 3, 5, 7)), random_maps()
    for direction in DIRECTIONS:
        assert torch.equal(corner_pool(x.cuda(), direction).cpu(), corner_pool(x, direction))
    assert torch.equal(cascade_corner_pool(x.cuda(), "top_left").cpu(), cascade_corner_pool(x, "top_left"))
    assert torch.equal(center_pool(x.cuda()).cpu(), center_pool(x))
    there = decode_triplets(*(KeypointMaps(*(values.cuda() for values in one)) for one in maps))
    for got, expected in zip(there, decode_triplets(*maps), strict=True):
        for key, values in expected.items():
            torch.testing.assert_close(got[key].cpu(), values)
