"""Keypoint targets, loss and decoding against torchvision's detector."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection import roi_heads as reference

from lessons import keypoints as ours


def random_rois(count, seed=0, dtype=torch.float32, size=90):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * size
    side = torch.rand(count, 2, generator=generator, dtype=torch.float64) ** 2 * size
    return torch.cat([corner, corner + side], dim=1).to(dtype)


def random_keypoints(count, number, seed=0, dtype=torch.float32):
    """Keypoints all over the image, one in three invisible."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(count, number, 2, generator=generator, dtype=torch.float64) * 140
    return torch.cat([places, torch.randint(3, (count, number, 1), generator=generator)], dim=2).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("size", [1, 14, 56])
def test_targets_equal_torchvision(size, count, dtype):
    rois, keypoints = random_rois(count, dtype=dtype), random_keypoints(count, 9, dtype=dtype)
    if count > 1:
        keypoints[:, 0, :2] = rois[:, :2]  # the corners themselves are inside
        keypoints[:, 1, :2] = rois[:, 2:]
        keypoints[:, 2, 0], keypoints[:, 3, 1] = rois[:, 2], rois[:, 3]
        rois[5, 2:] = rois[5, :2]  # without area
    result, expected = (op(keypoints, rois, size) for op in (ours.keypoints_to_heatmap, reference.keypoints_to_heatmap))
    assert torch.equal(result[0], expected[0])
    assert torch.equal(result[1], expected[1])
    assert result[0].dtype == result[1].dtype == torch.int64
    assert count < 2 or 0 < result[1].sum() < result[1].numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_decoding_equals_torchvision(count, dtype):
    maps = torch.randn(count, 5, 14, 14, generator=torch.Generator().manual_seed(0)).to(dtype)
    rois = random_rois(count, dtype=dtype)
    rois[::5, 2:] = rois[::5, :2]  # without area
    result, expected = ours.heatmaps_to_keypoints(maps, rois), reference.heatmaps_to_keypoints(maps, rois)
    for got, want in zip(result, expected, strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)  # pixels up to 180


def test_of_equal_pixels_the_first_is_the_keypoint():
    rois = torch.tensor([[10.0, 20.0, 24.5, 40.0]])
    maps = torch.zeros(1, 2, 7, 7)
    places, scores = ours.heatmaps_to_keypoints(maps, rois)
    torch.testing.assert_close(places, reference.heatmaps_to_keypoints(maps, rois)[0])
    torch.testing.assert_close(places[0, 0], torch.tensor([10 + 0.5 * 14.5 / 15, 20.5, 1]))
    assert (scores == 0).all()


def test_scores_are_differentiable():
    maps = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rois = random_rois(3)
    got, want = (torch.autograd.grad(op(maps, rois)[1].sum(), maps)[0]
                 for op in (ours.heatmaps_to_keypoints, reference.heatmaps_to_keypoints))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def a_batch(counts=(6, 0, 9), truths=(2, 1, 3), number=4, side=14, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    proposals = [random_rois(count, seed=i, dtype=dtype) for i, count in enumerate(counts)]
    keypoints = [random_keypoints(g, number, seed=i, dtype=dtype) for i, g in enumerate(truths)]
    matched = [torch.randint(max(g, 1), (n,), generator=generator) for n, g in zip(counts, truths, strict=True)]
    return torch.randn(sum(counts), number, side, side, generator=generator).to(dtype), proposals, keypoints, matched


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("counts", "truths"), [((6, 0, 9), (2, 1, 3)), ((20,), (4,)), ((0, 8), (0, 2))])
def test_loss_and_gradient_equal_torchvision(counts, truths, dtype):
    logits, *rest = a_batch(counts, truths, dtype=dtype)
    logits.requires_grad_()
    result, expected = ours.keypoint_loss(logits, *rest), reference.keypointrcnn_loss(logits, *rest)
    assert result > 0
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits) for loss in (result, expected)), rtol=0, atol=tolerance)


def test_nothing_to_learn_gives_a_loss_of_zero_that_trains():
    for counts in ((0, 0), (3,)):
        logits, proposals, keypoints, matched = a_batch(counts, (2,) * len(counts))
        hidden = [points * torch.tensor([1, 1, 0]) for points in keypoints]
        loss = ours.keypoint_loss(logits.requires_grad_(), proposals, hidden, matched)
        assert loss == 0
        assert torch.equal(torch.autograd.grad(loss, logits)[0], torch.zeros_like(logits))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(20, 60), st.integers(20, 60), st.floats(0, 0.99), st.floats(0, 0.99))
def test_encoding_and_decoding_meet(x, y, width, height, right, down):
    """A keypoint, put into a map as its target cell and decoded again, comes back to within a cell."""
    size, roi = 14, torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)
    point = torch.tensor([[[x + right * width, y + down * height, 2.0]]])
    cell, valid = ours.keypoints_to_heatmap(point, roi, size)
    assert valid.item() == 1
    heat = torch.zeros(1, 1, size * size)
    heat[0, 0, cell.item()] = 1
    found, _ = ours.heatmaps_to_keypoints(heat.view(1, 1, size, size), roi)
    assert (found - point)[0, 0, 0].abs() <= width / size + 1
    assert (found - point)[0, 0, 1].abs() <= height / size + 1


def test_bad_input_is_named():
    logits, proposals, keypoints, matched = a_batch()
    with pytest.raises(ValueError, match=r"keypoint_logits of shape \(15, 4, 14, 13\)"):
        ours.keypoint_loss(logits[..., :13], proposals, keypoints, matched)
    with pytest.raises(ValueError, match="for 14 predictions"):
        ours.keypoint_loss(logits[1:], proposals, keypoints, matched)
    with pytest.raises(ValueError, match="matched index 7 is not in 0 ... 1"):
        ours.keypoint_loss(logits, proposals, keypoints, [matched[0] * 0 + 7, *matched[1:]])
    with pytest.raises(ValueError, match="want finite numbers"):
        ours.keypoint_loss(logits, [boxes[:, [2, 3, 0, 1]] for boxes in proposals], keypoints, matched)
    with pytest.raises(ValueError, match=r"keypoints of shape \(3, 2\)"):
        ours.keypoints_to_heatmap(torch.zeros(3, 2), torch.zeros(3, 4), 14)
    with pytest.raises(ValueError, match="heatmap_size 0"):
        ours.keypoints_to_heatmap(torch.zeros(3, 2, 3), torch.zeros(3, 4), 0)
    with pytest.raises(ValueError, match=r"rois of shape \(2, 4\)"):
        ours.heatmaps_to_keypoints(torch.zeros(3, 2, 7, 7), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="want finite numbers"):
        ours.heatmaps_to_keypoints(torch.zeros(1, 2, 7, 7), torch.full((1, 4), math.inf))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda():
    logits, *lists = a_batch()
    on_gpu = [[x.cuda() for x in one] for one in lists]
    torch.testing.assert_close(ours.keypoint_loss(logits.cuda(), *on_gpu).cpu(), ours.keypoint_loss(logits, *lists))
    rois = torch.cat(lists[0])
    torch.testing.assert_close(ours.heatmaps_to_keypoints(logits.cuda(), rois.cuda())[1].cpu(),
                               ours.heatmaps_to_keypoints(logits, rois)[1])
