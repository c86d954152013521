"""Position-sensitive pooling against torchvision where it is right, and against loops."""

import math
from functools import partial

import pytest
import regions
import torch
import torchvision.ops as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons import position_sensitive as ours

random_features = partial(regions.random_features, dtype=torch.float64)
random_rois = partial(regions.random_rois, dtype=torch.float64, flat=False)


def gradient_of(op, features, *arguments):
    features = features.detach().clone().requires_grad_()
    result = op(features, *arguments)
    return torch.autograd.grad((result * random_features(*result.shape, seed=9, dtype=result.dtype)).sum(), features)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("output_size", [3, (2, 4), (1, 1)])
@pytest.mark.parametrize("sampling_ratio", [2, 1, -1])
def test_align_equals_torchvision(sampling_ratio, output_size, dtype):
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    features, rois = random_features(2, 5 * height * width, 25, 35, dtype=dtype), random_rois(50, dtype=dtype)
    arguments = rois, output_size, 0.25, sampling_ratio
    result, expected = ours.ps_roi_align(features, *arguments), reference.ps_roi_align(features, *arguments)
    assert result.dtype == dtype
    assert result.shape == (50, 5, height, width)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-6)
    got, want = (gradient_of(op, features, *arguments) for op in (ours.ps_roi_align, reference.ps_roi_align))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)


def test_a_roi_without_a_sample_gives_0_not_nan():
    features, rois = random_features(1, 4, 8, 8), torch.tensor([[0, 3.0, 3, 3, 3]], dtype=torch.float64)
    assert reference.ps_roi_align(features, rois, 2).isnan().all()
    assert (ours.ps_roi_align(features, rois, 2) == 0).all()


def pool_by_loop(features, rois, bins, scale):
    """Dai et al., equation 1, cell by cell."""
    result = torch.zeros(len(rois), features.shape[1] // bins**2, bins, bins, dtype=features.dtype)
    for n, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(x * scale) + 0.5), x)) for x in corners)
        spans = []
        for low, high, limit in ((y1, y2, features.shape[2]), (x1, x2, features.shape[3])):
            length = max(high - low, 1) / bins
            spans.append([[cell for cell in range(math.floor(i * length) + low, math.ceil((i + 1) * length) + low)
                           if 0 <= cell < limit] for i in range(bins)])
        for c in range(result.shape[1]):
            for i, rows in enumerate(spans[0]):
                for j, columns in enumerate(spans[1]):
                    values = [features[int(image), (c * bins + i) * bins + j, y, x].item() for y in rows for x in columns]
                    result[n, c, i, j] = sum(values) / max(len(values), 1)
    return result


@pytest.mark.parametrize("bins", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 0.25, 0.1])
def test_pool_equals_the_loop(scale, bins):
    features, rois = random_features(2, 2 * bins**2, 9, 12), random_rois(25, size=(9 / scale, 12 / scale))
    rois[::6, 3:] = rois[::6, 1:3]  # without area
    torch.testing.assert_close(ours.ps_roi_pool(features, rois, bins, scale), pool_by_loop(features, rois, bins, scale),
                               rtol=0, atol=1e-12)


@pytest.mark.parametrize("bins", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 0.25, 0.1])
def test_pool_equals_torchvision_on_a_map_with_a_rim(scale, bins):
    """The reference never reads the last row and column: give it one more of each."""
    features, rois = random_features(2, 2 * bins**2, 9, 12), random_rois(40, size=(9 / scale, 12 / scale))
    rimmed = torch.nn.functional.pad(features, (0, 1, 0, 1), value=100.0)
    expected = reference.ps_roi_pool(rimmed, rois, bins, scale)
    torch.testing.assert_close(ours.ps_roi_pool(features, rois, bins, scale), expected, rtol=0, atol=1e-12)


def test_torchvision_loses_the_last_row_and_column():
    """A map of ones but for the last row and column: its mean shows them to us, and not to the reference."""
    features = torch.ones(1, 1, 5, 5, dtype=torch.float64)
    features[..., 4, :] = features[..., 4] = 10
    whole = torch.tensor([[0.0, 0, 5, 5]], dtype=torch.float64)
    torch.testing.assert_close(ours.ps_roi_pool(features, [whole], 1).item(), (16 + 9 * 10) / 25)
    assert reference.ps_roi_pool(features, [whole], 1).item() == 1
    assert (gradient_of(ours.ps_roi_pool, features, [whole], 1) != 0).all()


def test_gradcheck():
    features, rois = random_features(2, 4, 4, 5).requires_grad_(), random_rois(5, size=(4, 5))
    assert torch.autograd.gradcheck(lambda x: ours.ps_roi_pool(x, rois, 2), features)
    assert torch.autograd.gradcheck(lambda x: ours.ps_roi_align(x, rois, 2), features)


@pytest.mark.parametrize("op", [ours.ps_roi_pool, ours.ps_roi_align])
def test_forms_of_boxes_and_precisions(op):
    features, rois = random_features(2, 8, 12, 14), random_rois(20, size=(12, 14))
    rois = rois[rois[:, 0].argsort(stable=True)]
    boxes = [rois[rois[:, 0] == number, 1:] for number in range(2)]
    assert torch.equal(op(features, boxes, 2), op(features, rois, 2))
    for dtype in (torch.float16, torch.bfloat16):
        half = features.to(dtype)
        assert torch.equal(op(half, rois.float(), 2), op(half.float(), rois.float(), 2).to(dtype))
    none = op(features.requires_grad_(), torch.zeros(0, 5), (4, 2))
    assert none.shape == (0, 1, 4, 2)
    assert torch.equal(torch.autograd.grad(none.sum(), features)[0], torch.zeros_like(features))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3), st.integers(0, 3))
def test_shifting_image_and_box_by_whole_cells_changes_nothing(x, y, width, height, down, right):
    """Stride 4; the map is wide enough for no box to leave it."""
    box = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float64)
    features, shifted = random_features(1, 8, 10, 10), random_features(1, 8, 10, 10, seed=1)
    shifted[..., down:, right:] = features[..., : 10 - down, : 10 - right]
    moved = box + 4 * torch.tensor([right, down, right, down])
    for op in (ours.ps_roi_pool, ours.ps_roi_align):
        if op is ours.ps_roi_align:
            box, moved = box + 4, moved + 4  # half a cell to the left would leave the map
        torch.testing.assert_close(op(shifted, [moved], 2, 0.25), op(features, [box], 2, 0.25), rtol=0, atol=1e-12)


@pytest.mark.parametrize("op", [ours.ps_roi_pool, ours.ps_roi_align])
def test_bad_input_is_named(op):
    good = torch.tensor([[0.0, 0, 0, 4, 4]])
    with pytest.raises(ValueError, match="7 channels are no multiple of 2 x 2"):
        op(torch.zeros(1, 7, 8, 8), good, 2)
    with pytest.raises(ValueError, match=r"input of shape \(8, 8\)"):
        op(torch.zeros(8, 8), good, 2)
    with pytest.raises(ValueError, match="x1 <= x2"):
        op(torch.zeros(1, 4, 8, 8), torch.tensor([[0.0, 5, 0, 4, 4]]), 2)
    with pytest.raises(ValueError, match="output_size 0"):
        op(torch.zeros(1, 4, 8, 8), good, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda():
    features, rois = random_features(2, 18, 25, 35), random_rois(50)
    for op in (ours.ps_roi_pool, ours.ps_roi_align):
        torch.testing.assert_close(op(features.cuda(), rois.cuda(), 3, 0.25).cpu(), op(features, rois, 3, 0.25))
