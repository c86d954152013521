"""RoI pooling against torchvision's compiled ops: values, gradients, precisions, hostile input, and loops."""

import math

import pytest
import torch
import torchvision.ops as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from regions import random_features, random_rois

from lessons import roi as ours

HALVES = [torch.float16, torch.bfloat16]
ALIGN = [(2, False), (2, True), (1, False), (3, True), (-1, False), (-1, True), (0, False)]


def close(result, expected, dtype=torch.float32, terms=1):
    """Equal to rounding; gradients are sums of many terms, taken in another order."""
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, torch.finfo(dtype).eps * 4)
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance * terms)


def gradient_of(op, features, *arguments, weight=None):
    features = features.detach().clone().requires_grad_()
    result = op(features, *arguments)
    weight = random_features(*result.shape, seed=9, dtype=result.dtype) if weight is None else weight
    return torch.autograd.grad((result * weight).sum(), features)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("output_size", [7, (3, 5), (1, 1), (14, 2)])
@pytest.mark.parametrize(("sampling_ratio", "aligned"), ALIGN)
def test_align_equals_torchvision(sampling_ratio, aligned, output_size, dtype):
    features, rois = random_features(2, 6, 25, 35, dtype=dtype), random_rois(60, dtype=dtype)
    arguments = rois, output_size, 0.25, sampling_ratio, aligned
    result = ours.roi_align(features, *arguments)
    assert result.dtype == dtype
    assert result.is_contiguous()
    close(result, reference.roi_align(features, *arguments), dtype)
    close(gradient_of(ours.roi_align, features, *arguments), gradient_of(reference.roi_align, features, *arguments),
          dtype, terms=10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("output_size", [7, (3, 5), (1, 1), (14, 2)])
@pytest.mark.parametrize("scale", [1.0, 0.25, 1 / 3])
def test_pool_equals_torchvision(scale, output_size, dtype):
    features, rois = random_features(2, 6, 25, 35, dtype=dtype), random_rois(60, dtype=dtype)
    result = ours.roi_pool(features, rois, output_size, scale)
    assert result.dtype == dtype
    assert result.is_contiguous()
    assert torch.equal(result, reference.roi_pool(features, rois, output_size, scale))
    assert (result == 0).all(dim=1).any()  # some bins lie outside
    arguments = rois, output_size, scale
    close(gradient_of(ours.roi_pool, features, *arguments), gradient_of(reference.roi_pool, features, *arguments),
          dtype, terms=10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_equal_cells_the_first_gets_the_gradient(dtype):
    """As after a ReLU: most cells are 0, -0 among them, and whole bins are equal."""
    features = random_features(2, 8, 25, 35, dtype=dtype).round().clamp(min=0)
    features[:, ::2] *= -1  # -0 and whole negative numbers
    rois = random_rois(80, dtype=dtype)
    weight = torch.randint(1, 9, (80, 8, 3, 3), generator=torch.Generator().manual_seed(1)).to(dtype)
    got, expected = (gradient_of(op, features, rois, 3, 0.25, weight=weight) for op in (ours.roi_pool, reference.roi_pool))
    assert torch.equal(got, expected)
    constant = torch.full((1, 2, 9, 9), -3.0, dtype=dtype)
    box = torch.tensor([[0, 2.0, 1, 6, 5]], dtype=dtype)
    assert gradient_of(ours.roi_pool, constant, box, 1, weight=torch.ones(1, 2, 1, 1, dtype=dtype)).nonzero().tolist() \
        == [[0, 0, 1, 2], [0, 1, 1, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_is_passed_over_by_the_maximum(dtype):
    features, rois = random_features(2, 4, 25, 35, dtype=dtype), random_rois(40, dtype=dtype)
    features[torch.rand(features.shape, generator=torch.Generator().manual_seed(1)) < 0.05] = math.nan
    features[0, 0, :, ::9] = -features[0, 0, :, ::9] * math.nan  # of either sign
    features[1, 1, 5] = math.inf
    result, expected = (op(features, rois, 2, 0.25) for op in (ours.roi_pool, reference.roi_pool))
    some = ~result.isnan()  # bins of nothing but NaN: the reference says -3.4e38
    assert some.float().mean() > 0.9
    assert torch.equal(result[some], expected[some])


@pytest.mark.parametrize("count", [0, 1, 30])
def test_both_forms_of_boxes(count):
    features, rois = random_features(3, 4, 20, 30), random_rois(count, images=3)
    per_image = [rois[rois[:, 0] == number, 1:] for number in range(3)]
    together = torch.cat([torch.cat([torch.full((len(b), 1), float(i)), b], dim=1) for i, b in enumerate(per_image)])
    for op in (ours.roi_align, ours.roi_pool):
        assert torch.equal(op(features, per_image, (2, 3), 0.2), op(features, together, (2, 3), 0.2))
    close(ours.roi_align(features, per_image, 5), reference.roi_align(features, per_image, 5))


@pytest.mark.parametrize("op", [ours.roi_align, ours.roi_pool])
def test_no_boxes_still_train(op):
    features = random_features(2, 4, 9, 11).requires_grad_()
    for boxes in (torch.zeros(0, 5), [torch.zeros(0, 4)] * 2):
        result = op(features, boxes, (3, 2))
        assert result.shape == (0, 4, 3, 2)
        assert torch.equal(torch.autograd.grad(result.sum(), features)[0], torch.zeros_like(features))
    assert op(torch.zeros(2, 0, 9, 11), torch.tensor([[1.0, 0, 0, 5, 5]]), 3).shape == (1, 0, 3, 3)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["roi_align", "roi_pool"])
def test_half_precision_is_reckoned_in_float32(name, dtype):
    features, rois = random_features(2, 5, 25, 35, dtype=dtype), random_rois(40).to(dtype)
    result = getattr(ours, name)(features, rois, 7, 0.25)
    expected = getattr(reference, name)(features.float(), rois.float(), 7, 0.25)
    assert result.dtype == dtype
    close(result, expected.to(dtype), dtype)
    assert gradient_of(getattr(ours, name), features, rois, 7, 0.25).dtype == dtype
    mixed = getattr(ours, name)(features, random_rois(40), 7, 0.25)  # as autocast mixes them
    assert mixed.dtype == dtype


def test_non_contiguous_tensors():
    features, rois = random_features(2, 30, 5, 20).permute(0, 2, 3, 1), random_rois(40, size=(20, 30)).flip(0)[::2]
    assert not features.is_contiguous()
    assert torch.equal(ours.roi_pool(features, rois, 3), reference.roi_pool(features, rois, 3))
    close(ours.roi_align(features, rois, 3), reference.roi_align(features, rois, 3))
    close(ours.roi_align(features.to(memory_format=torch.channels_last), rois.T.contiguous().T, 3),
          reference.roi_align(features, rois, 3))


def test_gradcheck():
    features, rois = random_features(2, 1, 4, 5, dtype=torch.float64), random_rois(5, size=(4, 5), dtype=torch.float64)
    features.requires_grad_()
    for sampling_ratio, aligned in ((2, False), (-1, True)):
        assert torch.autograd.gradcheck(lambda x: ours.roi_align(x, rois, (2, 3), 1.0, sampling_ratio, aligned), features)  # noqa: B023
    assert torch.autograd.gradcheck(lambda x: ours.roi_pool(x, rois, (2, 3)), features)


def test_many_rois_are_pooled_in_parts(monkeypatch):
    features, rois = random_features(2, 3, 25, 35, dtype=torch.float64), random_rois(40, dtype=torch.float64)
    calls = [(ours.roi_align, (rois, 3, 0.25, 2)), (ours.roi_align, (rois, 3, 0.25)), (ours.roi_pool, (rois, 3, 0.25))]
    whole = [(op(features, *rest), gradient_of(op, features, *rest)) for op, rest in calls]
    monkeypatch.setattr(ours, "READS", 1000)
    monkeypatch.setattr(ours, "CHUNK", 11)
    parts = [(op(features, *rest), gradient_of(op, features, *rest)) for op, rest in calls]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


def test_boxes_get_no_gradient():
    """As in the reference: the gradient with respect to the corners is left out, by both pools."""
    features, rois = random_features(2, 2, 6, 7).requires_grad_(), random_rois(5, size=(6, 7)).requires_grad_()
    for op in (ours.roi_align, ours.roi_pool):
        assert torch.autograd.grad(op(features, rois, 2).sum(), rois, allow_unused=True) == (None,)


def test_a_sample_on_the_rim():
    """At -1 and at the size itself a sample still counts, clamped to the map; beyond it is 0."""
    features = torch.ones(1, 1, 4, 4)
    starts = torch.tensor([-1.5, -1.5001, -1.4999, 3.5, 3.4999, 3.5001])
    boxes = torch.stack([starts, torch.ones(6), starts + 1, torch.full((6,), 2.0)], dim=1)
    result = ours.roi_align(features, [boxes], 1, 1.0, 1)
    assert result.flatten().tolist() == [1, 0, 1, 1, 1, 0]
    close(result, reference.roi_align(features, [boxes], 1, 1.0, 1))


def test_a_plane_is_sampled_exactly():
    """Bilinear interpolation of f(x, y) = 2x + 3y is f itself: bin centres come out to the last bit but rounding."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    boxes = torch.tensor([[3.3, 4.7, 17.2, 15.1]])
    result = ours.roi_align((2 * x + 3 * y)[None, None], [boxes], (2, 4), 1.0, -1, True)
    centre_x = 3.3 + (torch.arange(4) + 0.5) * 13.9 / 4 - 0.5
    centre_y = 4.7 + (torch.arange(2) + 0.5) * 10.4 / 2 - 0.5
    torch.testing.assert_close(result[0, 0], 2 * centre_x + 3 * centre_y[:, None], rtol=0, atol=1e-4)


def align_by_loop(features, box, bins, samples):
    """He et al., section 3, one feature map, box in cells, every sample inside the map."""
    x1, y1, x2, y2 = box
    result = torch.zeros(bins, bins, dtype=features.dtype)
    for i in range(bins):
        for j in range(bins):
            for s in range(samples):
                for t in range(samples):
                    y = y1 + (i + (s + 0.5) / samples) * (y2 - y1) / bins
                    x = x1 + (j + (t + 0.5) / samples) * (x2 - x1) / bins
                    top, left = math.floor(y), math.floor(x)
                    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                        weight = (1 - abs(y - row)) * (1 - abs(x - column))
                        result[i, j] += weight * features[row, column] / samples**2
    return result


def test_align_equals_the_loop():
    features = random_features(1, 1, 12, 12, dtype=torch.float64)
    for box in ([1.2, 2.5, 9.7, 10.1], [3.0, 3.0, 5.0, 9.0]):
        result = ours.roi_align(features, [torch.tensor([box], dtype=torch.float64)], 3, 1.0, 2)
        close(result[0, 0], align_by_loop(features[0, 0], box, 3, 2), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 16), (16,), (16, 16), (32, 32), (8, 8, 16), (8, 16, 16)])
def test_multiscale_equals_torchvision(strides, dtype):
    features = [random_features(2, 4, 512 // s, 384 // s, seed=seed, dtype=dtype) for seed, s in enumerate(strides)]
    rois = random_rois(120, size=(512, 384), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    rois[:, 1:] = rois[:, 1:].clamp(min=0)
    boxes = [rois[rois[:, 0] == number, 1:] for number in range(2)]
    boxes[0] = torch.cat([boxes[0], torch.tensor([[0.0, 0, 224, 224], [0, 0, 112, 112], [0, 0, 223.9, 224]]).to(rois)])
    pooler = reference.MultiScaleRoIAlign([str(number) for number in range(len(strides))], (7, 5), 2)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    named = {str(number): feature.to(exact) for number, feature in enumerate(features)}
    expected = pooler(named, boxes, [(512, 384)] * 2)
    result = ours.multiscale_roi_align(features, boxes, (7, 5), strides)
    assert result.dtype == dtype
    close(result, expected.to(dtype), dtype)


def test_multiscale_trains_every_level_and_takes_other_canons():
    strides, boxes = (4, 8, 16), [random_rois(60, images=1, size=(128, 128))[:, 1:]]
    features = [random_features(1, 3, 128 // s, 128 // s, seed=s, dtype=torch.float64).requires_grad_() for s in strides]
    pooler = reference.MultiScaleRoIAlign(["4", "8", "16"], 3, 2, canonical_scale=20, canonical_level=3)
    boxes = [boxes[0].double().clamp(min=0)]
    expected = pooler({str(s): f for s, f in zip(strides, features, strict=True)}, boxes, [(128, 128)])
    result = ours.multiscale_roi_align(features, boxes, 3, strides, 2, 20, 3)
    close(result, expected, torch.float64)
    weight = random_features(*result.shape, seed=5, dtype=torch.float64)
    got, want = (torch.autograd.grad((x * weight).sum(), features) for x in (result, expected))
    assert all(gradient.abs().max() > 0 for gradient in got)
    close(got, want, torch.float64)
    none = ours.multiscale_roi_align(features, [torch.zeros(0, 4, dtype=torch.float64)], 3, strides)
    assert none.shape == (0, 3, 3, 3)
    assert none.requires_grad


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=6), st.sampled_from([40, 64, 224]))
def test_levels_are_the_equations(sides, canonical):
    boxes = torch.tensor([[3.0, 5, 3 + w, 5 + h] for w, h in sides]).reshape(-1, 4)
    expected = [min(max(math.floor(4 + math.log2(math.sqrt(w * h) / canonical) + 1e-6), 2), 5) - 2 if w * h else 0
                for w, h in sides]
    assert ours.pyramid_levels(boxes, (4, 8, 16, 32), canonical).tolist() == expected
    assert ours.pyramid_levels(boxes, (4,), canonical).tolist() == [0] * len(sides)


@pytest.mark.parametrize("size", [(13, 13), (10, 17), (7, 30), (3, 2), (1, 1), (4, 5)])
def test_pyramid_equals_the_loop(size):
    """Windows of ceil(a / n) cells every floor(a / n), and where a < n the one cell floor(i * a / n)."""
    features, levels = random_features(2, 3, *size), (4, 2, 1, 6)
    expected = []
    for n in levels:
        spans = [[(i * (a // n), i * (a // n) + -(-a // n)) if a >= n else (i * a // n, i * a // n + 1) for i in range(n)]
                 for a in size]
        level = [features[:, :, top:bottom, left:right].amax(dim=(2, 3)) for top, bottom in spans[0] for left, right in spans[1]]
        expected.append(torch.stack(level, dim=2).flatten(1))
    result = ours.spatial_pyramid_pool(features, levels)
    assert result.shape == (2, 3 * (16 + 4 + 1 + 36))
    assert torch.equal(result, torch.cat(expected, dim=1))


def test_pyramid_where_sizes_divide_is_adaptive_pooling_also_in_the_gradient():
    features = random_features(2, 3, 12, 24).round()  # with ties
    result = ours.spatial_pyramid_pool(features, (6, 3, 1))
    def pooled(x, levels):
        return torch.cat([torch.nn.functional.adaptive_max_pool2d(x, n).flatten(1) for n in levels], dim=1)
    assert torch.equal(result, pooled(features, (6, 3, 1)))
    assert torch.equal(gradient_of(ours.spatial_pyramid_pool, features, (6, 3, 1)), gradient_of(pooled, features, (6, 3, 1)))


def test_pyramid_of_a_roi_is_adaptive_pooling_of_its_cells():
    features = random_features(2, 3, 20, 30).round()
    rois = torch.tensor([[0, 0.0, 0, 479, 319], [1, 35, 50, 200, 310], [0, 17, 17, 30, 30], [1, 100, 40, 100, 40],
                         [1, 33, 16, 47, 290]])
    cells = [(0, 1, 1, 29, 19), (1, 3, 4, 12, 19), (0, 1, 1, 1, 1), (1, 6, 3, 6, 3), (1, 3, 2, 3, 18)]  # by hand, stride 16
    levels = (1, 2, 3, 6)
    def by_hand(x):
        return torch.cat([torch.cat([torch.nn.functional.adaptive_max_pool2d(x[b : b + 1, :, y1 : y2 + 1, x1 : x2 + 1], n).flatten(1)
                                     for n in levels], dim=1) for b, x1, y1, x2, y2 in cells])
    assert torch.equal(ours.roi_spatial_pyramid_pool(features, rois, levels, 1 / 16), by_hand(features))
    close(gradient_of(ours.roi_spatial_pyramid_pool, features, rois, levels, 1 / 16), gradient_of(by_hand, features), terms=10)
    per_image = [rois[rois[:, 0] == number, 1:] for number in range(2)]
    assert ours.roi_spatial_pyramid_pool(features, per_image, levels, 1 / 16).shape == (5, 3 * 50)
    assert ours.roi_spatial_pyramid_pool(features, rois[:0], (1, 2), 1 / 16).shape == (0, 15)


def test_pyramids_that_do_not_fit_are_named():
    for levels in ((), (2, 0)):
        with pytest.raises(ValueError, match=r"levels \["):
            ours.spatial_pyramid_pool(torch.zeros(1, 1, 4, 4), levels)
        with pytest.raises(ValueError, match=r"levels \["):
            ours.roi_spatial_pyramid_pool(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), levels, 1.0)
    for shape in ((1, 4, 4), (1, 2, 0, 4)):
        with pytest.raises(ValueError, match=r"features of shape \("):
            ours.spatial_pyramid_pool(torch.zeros(shape), (1,))


CORNERS = st.tuples(st.integers(0, 12), st.integers(0, 12), st.floats(0.5, 20, width=16), st.floats(0.5, 20, width=16))


@settings(max_examples=60, deadline=None)
@given(st.lists(CORNERS, min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 3), st.sampled_from([2, -1]))
def test_shifting_image_and_boxes_by_whole_cells_changes_nothing(corners, down, right, sampling_ratio):
    """Stride 4; the map is wide enough for no box to leave it."""
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in corners], dtype=torch.float64)
    features = random_features(1, 3, 14, 14, dtype=torch.float64)
    shifted = random_features(1, 3, 14, 14, seed=1, dtype=torch.float64)
    shifted[..., down:, right:] = features[..., : 14 - down, : 14 - right]
    moved = boxes + 4 * torch.tensor([right, down, right, down])
    close(ours.roi_align(shifted, [moved], 3, 0.25, sampling_ratio), ours.roi_align(features, [boxes], 3, 0.25, sampling_ratio),
          torch.float64)
    assert torch.equal(ours.roi_pool(shifted, [moved], 3, 0.25), ours.roi_pool(features, [boxes], 3, 0.25))


@settings(max_examples=60, deadline=None)
@given(st.lists(CORNERS, min_size=1, max_size=4), st.sampled_from([1, 2, 5]))
def test_pooled_values_lie_between_the_smallest_and_the_largest(corners, bins):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in corners])
    features = random_features(1, 3, 9, 9)
    low, high = features.amin(dim=(0, 2, 3))[:, None, None], features.amax(dim=(0, 2, 3))[:, None, None]
    for result in (ours.roi_align(features, [boxes], bins, 0.25, 2), ours.roi_pool(features, [boxes], bins, 0.25)):
        assert ((result >= low - 1e-6) & (result <= high + 1e-6)).all()


@pytest.mark.parametrize("op", [ours.roi_align, ours.roi_pool])
def test_bad_input_is_named(op):
    features, good = torch.zeros(2, 3, 8, 8), torch.tensor([[1.0, 0, 0, 4, 4]])
    for boxes, message in [
        (good[:, 1:], r"boxes of shape \(1, 4\): want \(N, 5\)"), ([good, good], r"boxes of shape \(1, 5\): want \(N, 4\)"),
        ([good[:, 1:]], "1 box tensors for 2 images"), (good + 1, "image number 2.0 is not in 0 ... 1"),
        (good - 2, "image number -1.0"), (torch.tensor([[math.nan, 0, 0, 4, 4]]), "image number nan"),
        (torch.tensor([[0.0, 5, 0, 4, 4]]), "x1 <= x2"), (torch.tensor([[0.0, math.nan, 0, 4, 4]]), "want finite numbers"),
        (torch.tensor([[0.0, 0, 0, math.inf, 4]]), "want finite numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            op(features, boxes, 2)
    with pytest.raises(ValueError, match=r"input of shape \(3, 8, 8\)"):
        op(features[0], good, 2)
    with pytest.raises(ValueError, match="at least one cell"):
        op(features[..., :0], good, 2)
    with pytest.raises(ValueError, match="0 box tensors for 0 images"):
        op(features[:0], [], 2)
    with pytest.raises(ValueError, match="torch.int64"):
        op(features.long(), good, 2)
    with pytest.raises(ValueError, match="output_size 0"):
        op(features, good, 0)
    with pytest.raises(ValueError, match="spatial_scale -1"):
        op(features, good, 2, -1)
    with pytest.raises(ValueError, match="input on cpu and boxes on meta: want one device"):
        op(features, good.to("meta"), 2)


def test_strides_that_do_not_fit_are_named():
    features, boxes = [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)], [torch.zeros(0, 4)]
    for strides in ((4,), (4, 16), (8, 4), (3, 6), (0, 0)):
        with pytest.raises(ValueError, match=r"strides \["):
            ours.multiscale_roi_align(features, boxes, 2, strides)
    with pytest.raises(ValueError, match=r"strides \[\] for 0 feature maps"):
        ours.multiscale_roi_align([], boxes, 2, ())
    with pytest.raises(ValueError, match="2 box tensors for 1 images"):
        ours.multiscale_roi_align(features, boxes * 2, 2, (4, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda():
    features, rois = random_features(2, 6, 25, 35), random_rois(60)
    for sampling_ratio, aligned in ALIGN:
        arguments = 7, 0.25, sampling_ratio, aligned
        close(ours.roi_align(features.cuda(), rois.cuda(), *arguments).cpu(), ours.roi_align(features, rois, *arguments))
    assert torch.equal(ours.roi_pool(features.cuda(), rois.cuda(), 7, 0.25).cpu(), ours.roi_pool(features, rois, 7, 0.25))
    close(gradient_of(ours.roi_pool, features.cuda(), rois.cuda(), 7, 0.25).cpu(), gradient_of(ours.roi_pool, features, rois, 7, 0.25))
