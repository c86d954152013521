"""Matching against torchvision's Matcher, sampler and FCOS, brute force, and what must hold for any input."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection import FCOS
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher

from lessons.anchors import anchor_grid
from lessons.matching import fcos_fits, fcos_ranges, fcos_targets, hungarian_match, match_boxes, sample_balanced

THRESHOLDS = [(0.7, 0.3), (0.5, 0.5), (0.5, 0.4), (1.0, 0.0)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize(("high", "low"), THRESHOLDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (7, 1), (6, 400)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_equal_to_matcher(shape, high, low, allow, dtype):
    for seed, step in itertools.product(range(3), (None, 0.1, 0.5)):  # a step makes many ties
        iou = torch.rand(shape, generator=seeded(seed)).to(dtype)
        iou = iou if step is None else ((iou.float() / step).round() * step).to(dtype)
        iou[0] *= 0.3  # a ground truth without a good box
        expected = Matcher(high, low, allow)(iou.clone())
        assert torch.equal(match_boxes(iou, high, low, allow), expected)


def test_low_quality_by_hand():
    """The second ground truth has two equally bad boxes; the first of them overlaps the other ground truth more."""
    iou = torch.tensor([[0.8, 0.25, 0.1, 0.5], [0.0, 0.2, 0.2, 0.1]])
    assert match_boxes(iou, 0.7, 0.3).tolist() == [0, -1, -1, -2]
    assert match_boxes(iou, 0.7, 0.3, allow_low_quality=True).tolist() == [0, 0, 1, -2]


def test_a_ground_truth_that_touches_nothing_matches_all():
    iou = torch.zeros(1, 5)
    assert match_boxes(iou, 0.7, 0.3, True).tolist() == Matcher(0.7, 0.3, True)(iou).tolist() == [0] * 5


@pytest.mark.parametrize("allow", [False, True])
def test_nothing_to_match(allow):
    for shape, expected in (((0, 3), [-1, -1, -1]), ((2, 0), []), ((0, 0), [])):
        matches = match_boxes(torch.zeros(shape), 0.7, 0.3, allow)
        assert matches.tolist() == expected
        assert matches.dtype == torch.int64


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 10), st.integers(0, 10), st.randoms(use_true_random=False))
def test_properties_of_matches(truths, boxes, a, b, random):
    low, high = min(a, b) / 10, max(a, b) / 10
    iou = torch.tensor([[random.randint(0, 10) / 10 for _ in range(boxes)] for _ in range(truths)])
    strict, generous = match_boxes(iou, high, low), match_boxes(iou, high, low, True)
    best = iou.amax(dim=0)
    assert torch.equal(strict >= 0, best >= high)
    assert torch.equal(strict == -1, best < low)
    assert torch.equal(generous[strict >= 0], strict[strict >= 0])  # low quality only adds
    found = generous >= 0
    assert torch.equal(iou[generous[found], torch.where(found)[0]], best[found])
    assert found[iou.argmax(dim=1)].all()  # the best box of every ground truth is matched, if perhaps with another


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 1.0])
@pytest.mark.parametrize(("batch", "fraction"), [(256, 0.5), (64, 0.25), (7, 0.5), (0, 0.5), (100, 1.0), (100, 0.0)])
def test_samples_as_torchvision(batch, fraction, share, dtype):
    labels = (torch.rand(500, generator=seeded(1)) < share).to(dtype)
    labels[::7] = -1
    labels[labels == 1] += torch.arange(int((labels == 1).sum())).to(dtype) % 3  # classes are positive too
    torch.manual_seed(5)
    positive_mask, negative_mask = (masks[0] for masks in BalancedPositiveNegativeSampler(batch, fraction)([labels]))
    torch.manual_seed(5)
    positive, negative = sample_balanced(labels, batch, fraction)
    assert torch.equal(positive, torch.where(positive_mask)[0])
    assert torch.equal(negative, torch.where(negative_mask)[0])


def test_two_images_one_after_the_other_sample_as_torchvision():
    labels = [torch.randint(-1, 2, (200,), generator=seeded(i)) for i in range(2)]
    torch.manual_seed(0)
    masks = BalancedPositiveNegativeSampler(64, 0.5)(labels)
    torch.manual_seed(0)
    for image, one in enumerate(labels):
        for kind, indices in enumerate(sample_balanced(one, 64, 0.5)):
            assert torch.equal(indices, torch.where(masks[kind][image])[0])


def test_a_generator_repeats_itself_and_leaves_the_global_seed_alone():
    labels = torch.randint(-1, 2, (300,), generator=seeded())
    before = torch.get_rng_state()
    first, again = (sample_balanced(labels, 64, 0.5, seeded(3)) for _ in range(2))
    other = sample_balanced(labels, 64, 0.5, seeded(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_every_object_is_drawn_equally_often():
    labels = torch.tensor([1, 0, 1, -1, 1, 0, 1, 0])
    generator, drawn = seeded(), torch.zeros(8)
    for _ in range(2000):
        drawn[torch.cat(sample_balanced(labels, 4, 0.5, generator))] += 1
    expected = torch.tensor([2 / 4, 2 / 3, 2 / 4, 0, 2 / 4, 2 / 3, 2 / 4, 2 / 3])  # 2 of 4 objects, 2 of 3 others
    torch.testing.assert_close(drawn / 2000, expected, atol=0.05, rtol=0)  # four standard deviations


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-2, 3), max_size=40), st.integers(0, 30), st.floats(0, 1), st.integers(0, 99))
def test_properties_of_samples(labels, batch, fraction, seed):
    labels = torch.tensor(labels, dtype=torch.int64)
    positive, negative = sample_balanced(labels, batch, fraction, seeded(seed))
    assert (labels[positive] >= 1).all()
    assert (labels[negative] == 0).all()
    assert len(positive) == min(int(batch * fraction), int((labels >= 1).sum()))
    assert len(negative) == min(batch - len(positive), int((labels == 0).sum()))
    for indices in (positive, negative):
        assert (indices.diff() > 0).all()  # ascending, none twice


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (6, 3), (3, 6), (7, 6), (2, 1)])
def test_hungarian_is_optimal(shape):
    for seed in range(5):
        cost = torch.randn(shape, generator=seeded(seed), dtype=torch.float64)
        rows, columns = hungarian_match(cost)
        tall = cost if shape[0] >= shape[1] else cost.T
        queries, truths = tall.shape
        cheapest = min(sum(tall[q, g].item() for g, q in enumerate(chosen))
                       for chosen in itertools.permutations(range(queries), truths))
        assert cost[rows, columns].sum().item() == pytest.approx(cheapest, abs=1e-12)
        assert len(rows) == len(set(columns.tolist())) == min(shape)
        assert (rows.diff() > 0).all()
        assert rows.dtype == columns.dtype == torch.int64


def test_greedy_is_not_optimal():
    """Taking the cheapest pair first (1 + 10) costs more than the matching (2 + 3)."""
    rows, columns = hungarian_match(torch.tensor([[1.0, 2.0], [3.0, 10.0]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])


def test_hungarian_takes_what_it_is_given():
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert [len(indices) for indices in hungarian_match(torch.zeros(shape))] == [0, 0]
    cost = torch.rand(4, 3, requires_grad=True)
    expected = hungarian_match(cost.detach())[1]
    assert torch.equal(hungarian_match(cost)[1], expected)
    assert hungarian_match(cost.bfloat16())[1].sort().values.tolist() == [0, 1, 2]
    assert torch.equal(hungarian_match(cost.double().T)[0], torch.arange(3))  # not contiguous


LEVELS = [(8, (12, 16)), (16, (6, 8)), (32, (3, 4)), (64, (2, 2)), (128, (1, 1))]


def fcos_anchors(levels=LEVELS, dtype=torch.float32):
    """torchvision's FCOS anchors: one square of a stride's side for each cell; and how many each level has."""
    anchors = [anchor_grid(cells, stride, (stride,), (1.0,), dtype=dtype) for stride, cells in levels]
    return torch.cat(anchors), [len(level) for level in anchors]


def points_of(anchors):
    strides = anchors[:, 2] - anchors[:, 0]
    return (anchors[:, :2] + anchors[:, 2:]) / 2, strides, fcos_ranges(strides)


def fcos_by_torchvision(boxes, anchors, counts, radius=1.5):
    """The matching inside FCOS.compute_loss, taken out where it hands it on to the head."""
    head = SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched)
    model = SimpleNamespace(center_sampling_radius=radius, head=head)
    return FCOS.compute_loss(model, [{"boxes": boxes}], {}, [anchors], counts)[0]


def fcos_by_loop(boxes, anchors, strides_of_levels, radius):
    """The rule point by point, in plain Python."""
    matches = []
    for x1, y1, x2, y2 in anchors.tolist():
        x, y, stride = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1
        lower = 0 if stride == min(strides_of_levels) else 4 * stride
        upper = math.inf if stride == max(strides_of_levels) else 8 * stride
        found = [-1, math.inf]
        for index, (left, top, right, bottom) in enumerate(boxes.tolist()):
            sides = x - left, y - top, right - x, bottom - y
            away = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2))
            area = (right - left) * (bottom - top)
            if min(sides) > 0 and away < radius * stride and lower < max(sides) < upper and area < found[1]:
                found = [index, area]
        matches.append(found[0])
    return matches


def objects(count, seed, dtype=torch.float32):
    corner = torch.rand(count, 2, generator=seeded(seed), dtype=torch.float64) * torch.tensor([110, 80])
    side = torch.rand(count, 2, generator=seeded(seed + 1), dtype=torch.float64) ** 3 * 180 + 4
    return torch.cat([corner, corner + side], dim=1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 5, 60])
@pytest.mark.parametrize("radius", [1.5, 0.5, 4.0])
def test_fcos_equals_torchvision_and_the_loop(count, radius, dtype):
    anchors, counts = fcos_anchors(dtype=dtype)
    boxes = objects(count, seed=count, dtype=dtype)
    matches = fcos_targets(boxes, *points_of(anchors), radius=radius)
    assert torch.equal(matches, fcos_by_torchvision(boxes, anchors, counts, radius))
    assert matches.tolist() == fcos_by_loop(boxes, anchors, [level[0] for level in LEVELS], radius)
    if count == 60:
        assert 10 < (matches >= 0).sum() < len(matches)  # neither all nor nothing


def test_fcos_with_one_level_has_no_limits():
    anchors, counts = fcos_anchors(LEVELS[:1])
    boxes = objects(30, seed=2)
    assert torch.equal(fcos_targets(boxes, *points_of(anchors)), fcos_by_torchvision(boxes, anchors, counts))


SIDES = st.tuples(*[st.integers(0, 100)] * 2, *[st.integers(0, 130)] * 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(SIDES, min_size=1, max_size=6), st.sampled_from([torch.float32, torch.float64]))
def test_fcos_on_hostile_boxes(rows, dtype):
    """Whole pixels make equal areas, points on edges and sides at the very end of a range; some boxes have no area."""
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=dtype)
    anchors, counts = fcos_anchors(LEVELS[:3], dtype)
    matches = fcos_targets(boxes, *points_of(anchors))
    assert torch.equal(matches, fcos_by_torchvision(boxes, anchors, counts))
    if dtype == torch.float64:
        assert matches.tolist() == fcos_by_loop(boxes, anchors, (8, 16, 32), 1.5)


@pytest.mark.parametrize("reach", [0, -1, math.nan])
def test_fcos_ranges_want_a_reach(reach):
    with pytest.raises(ValueError, match="reach"):
        fcos_ranges(torch.tensor([8, 16]), reach)


def test_fcos_ranges_are_the_papers():
    strides = torch.tensor([8.0, 16, 32, 64, 128])
    assert fcos_ranges(strides).tolist() == [[0, 64], [64, 128], [128, 256], [256, 512], [512, math.inf]]
    assert fcos_ranges(torch.tensor([16])).tolist() == [[0, math.inf]]
    assert fcos_ranges(torch.tensor([8, 16, 32]), reach=2.5).tolist() == [[0, 20], [20, 40], [40, math.inf]]
    assert fcos_ranges(torch.zeros(0)).shape == (0, 2)


def test_fcos_smallest_wins_and_centre_sampling_can_be_switched_off():
    boxes = torch.tensor([[0.0, 0, 60, 60], [10, 10, 50, 50], [10, 10, 50, 50]])
    points = torch.tensor([[30.0, 30], [12, 30], [4, 4], [60, 60]])
    strides, ranges = torch.full((4,), 8.0), torch.tensor([[0.0, 64]]).repeat(4, 1)
    assert fcos_targets(boxes, points, strides, ranges).tolist() == [1, -1, -1, -1]
    assert fcos_targets(boxes, points, strides, ranges, radius=math.inf).tolist() == [1, 1, 0, -1]  # an edge is outside
    assert fcos_targets(boxes, points[:0], strides[:0], ranges[:0]).shape == (0,)


@pytest.mark.parametrize("radius", [1.5, math.inf])
def test_a_point_fits_a_box_that_it_answers_for_alone(radius):
    """Of all boxes together the winner is one that fits, and a point fits exactly those that win when alone."""
    boxes = objects(40, seed=3)
    places = points_of(fcos_anchors()[0])
    fits = fcos_fits(boxes, *places, radius=radius)
    for number, box in enumerate(boxes):
        assert torch.equal(fits[:, number], fcos_targets(box[None], *places, radius=radius) == 0)
    matches = fcos_targets(boxes, *places, radius=radius)
    assert torch.equal(fits.any(dim=1), matches >= 0)
    assert (fits.sum(dim=1) > 1).any()
    assert fcos_fits(boxes[:0], *places).shape == (len(places[0]), 0)


@pytest.mark.parametrize(("dtype", "winner"), [(torch.float32, 0), (torch.float64, 1)])
def test_fcos_cannot_tell_near_areas_apart_in_float32(dtype, winner):
    """3600 and 3599 square pixels: 1e8 less either is the same float32, in torchvision too."""
    boxes = torch.tensor([[0, 0, 60, 60], [0, 0, 61, 59]], dtype=dtype)
    anchors, counts = fcos_anchors(LEVELS[:1], dtype)
    matches = fcos_targets(boxes, *points_of(anchors))
    assert matches.unique().tolist() == [-1, winner]
    assert torch.equal(matches, fcos_by_torchvision(boxes, anchors, counts))


def test_fcos_matches_boxes_of_any_size():
    """torchvision leaves areas of 1e8 and more unmatched."""
    box, point = torch.tensor([[0.0, 0, 20_000, 20_000]]), torch.tensor([[10_000.0, 10_000]])
    assert fcos_targets(box, point, torch.tensor([128.0]), torch.tensor([[0, math.inf]])).tolist() == [0]


def test_bad_input_is_named():
    good = torch.tensor([[0.0, 0, 9, 9]]), torch.zeros(2, 2), torch.ones(2), torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"iou of shape \(3,\)"):
        match_boxes(torch.zeros(3), 0.7, 0.3)
    with pytest.raises(ValueError, match=r"low 0.7 and high 0.3"):
        match_boxes(torch.zeros(2, 3), 0.3, 0.7)
    with pytest.raises(ValueError, match=r"low nan"):
        match_boxes(torch.zeros(2, 3), 0.3, math.nan)
    with pytest.raises(ValueError, match="iou nan is not finite"):
        match_boxes(torch.full((2, 3), math.nan), 0.7, 0.3)
    with pytest.raises(ValueError, match=r"labels of shape \(2, 2\)"):
        sample_balanced(torch.zeros(2, 2), 4, 0.5)
    with pytest.raises(ValueError, match="1 NaN"):
        sample_balanced(torch.tensor([1, math.nan]), 4, 0.5)
    for batch, fraction in ((-1, 0.5), (2.5, 0.5), (math.inf, 0.5), (4, 1.5), (4, math.nan)):
        with pytest.raises(ValueError, match=f"batch_size {batch} with positive_fraction {fraction}"):
            sample_balanced(torch.zeros(3), batch, fraction)
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"cost {value} is not finite"):
            hungarian_match(torch.tensor([[0.0, value]]))
    with pytest.raises(ValueError, match=r"cost of shape \(3,\)"):
        hungarian_match(torch.zeros(3))
    bad = [(0, torch.tensor([[5.0, 0, 2, 9]]), r"box \[5.0, 0.0, 2.0, 9.0\]"),
           (0, torch.zeros(4), r"boxes \(4,\)"),
           (1, torch.zeros(3, 2), r"points \(3, 2\).*for 2 strides"),
           (1, torch.tensor([[0.0, 1], [math.nan, 0]]), r"point \[nan, 0.0\]"),
           (2, torch.tensor([8.0, 0]), "stride 0.0"),
           (2, torch.zeros(2, 1), r"strides of shape \(2, 1\)"),
           (3, torch.tensor([[0.0, 1], [math.nan, 0]]), r"range \[nan, 0.0\]"),
           (3, torch.zeros(2, 2, device="meta"), "ranges on meta")]
    for place, value, message in bad:
        with pytest.raises(ValueError, match=message):
            fcos_targets(*good[:place], value, *good[place + 1:])
    with pytest.raises(ValueError, match="radius nan"):
        fcos_targets(*good, radius=math.nan)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda():
    iou = torch.rand(6, 400, generator=seeded())
    assert torch.equal(match_boxes(iou.cuda(), 0.7, 0.3, True).cpu(), match_boxes(iou, 0.7, 0.3, True))
    rows, columns = hungarian_match(iou.cuda())
    assert (rows.is_cuda, columns.tolist()) == (True, hungarian_match(iou)[1].tolist())
    positive, negative = sample_balanced(torch.randint(-1, 2, (200,), device="cuda"), 32, 0.5)
    assert (positive.is_cuda, len(positive), len(negative)) == (True, 16, 16)
    anchors, _ = fcos_anchors()
    arguments = (objects(60, seed=3), *points_of(anchors))
    assert torch.equal(fcos_targets(*(value.cuda() for value in arguments)).cpu(), fcos_targets(*arguments))
