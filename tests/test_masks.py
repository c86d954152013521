"""Mask targets, mask loss and pasted masks against torchvision's detector."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection import roi_heads as reference

from lessons import masks as ours

DTYPES = [torch.float32, torch.float64]


def random_boxes(count, size=(60, 80), seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator, dtype=torch.float64) * torch.tensor([size[1], size[0]])
    return corners.sort(dim=1).values.flatten(1).to(dtype)


def a_batch(counts=(5, 0, 7), truths=(3, 2, 4), classes=4, side=14, dtype=torch.float32):
    """What the loss takes: logits, and for each image proposals, masks, labels and matches."""
    generator = torch.Generator().manual_seed(3)
    proposals = [random_boxes(count, seed=i, dtype=dtype) for i, count in enumerate(counts)]
    masks = [(torch.rand(g, 60, 80, generator=generator) > 0.5).to(torch.uint8) for g in truths]
    labels = [torch.randint(1, classes, (g,), generator=generator) for g in truths]
    matched = [torch.randint(max(g, 1), (n,), generator=generator) for n, g in zip(counts, truths, strict=True)]
    return torch.randn(sum(counts), classes, side, side, generator=generator).to(dtype), proposals, masks, labels, matched


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("counts", "truths"), [((5, 0, 7), (3, 2, 4)), ((1,), (1,)), ((0, 3), (0, 2))])
def test_loss_and_gradient_equal_torchvision(counts, truths, dtype):
    logits, *rest = a_batch(counts, truths, dtype=dtype)
    logits.requires_grad_()
    result, expected = ours.mask_loss(logits, *rest), reference.maskrcnn_loss(logits, *rest)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits) for loss in (result, expected)), rtol=0, atol=tolerance)


def test_only_the_map_of_the_true_class_is_taught():
    logits, proposals, masks, labels, matched = a_batch()
    (gradient,) = torch.autograd.grad(ours.mask_loss(logits.requires_grad_(), proposals, masks, labels, matched), logits)
    taught = gradient.flatten(2).abs().amax(dim=2) > 0
    classes = torch.cat([label[idx] for label, idx in zip(labels, matched, strict=True)])
    assert torch.equal(taught, torch.nn.functional.one_hot(classes, 4).bool())


def test_no_positive_roi_gives_a_loss_of_zero_that_trains():
    logits, *rest = a_batch((0, 0), (2, 0))
    loss = ours.mask_loss(logits.requires_grad_(), *rest)
    assert loss == 0
    assert torch.autograd.grad(loss, logits)[0].shape == (0, 4, 14, 14)
    assert ours.mask_loss(logits, [], [], [], []) == 0


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float32])
def test_projected_masks(kind):
    _, proposals, masks, _, matched = a_batch()
    for boxes, mask, idx in zip(proposals, masks, matched, strict=True):
        result = ours.project_masks(mask.to(kind), boxes, idx, 28)
        torch.testing.assert_close(result, reference.project_masks_on_boxes(mask.to(kind), boxes, idx, 28), rtol=0, atol=1e-6)
        assert result.shape == (len(boxes), 28, 28)
        assert ((result >= 0) & (result <= 1 + 1e-6)).all()


@pytest.mark.parametrize("counts", [(3, 0, 4), (7,), (0, 0), (0,)])
def test_probabilities_equal_torchvision(counts):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(sum(counts), 5, 6, 6, generator=generator)
    labels = [torch.randint(5, (count,), generator=generator) for count in counts]
    result = ours.mask_probabilities(logits, labels)
    torch.testing.assert_close(result, list(reference.maskrcnn_inference(logits, labels)))
    assert ours.mask_probabilities(logits[:0], []) == []


@pytest.mark.parametrize("dtype", [torch.float16, *DTYPES])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 25])
def test_pasting_equals_torchvision(count, padding, dtype):
    masks = torch.rand(count, 1, 14, 14, generator=torch.Generator().manual_seed(0)).to(dtype)
    boxes = random_boxes(count, seed=1)
    boxes[::6] += 20  # over the image's edge
    boxes[1::6] -= 15
    boxes[2::6, 2:] = boxes[2::6, :2]  # without area
    boxes[3::6, 2] = boxes[3::6, 0] + 0.3
    result = ours.paste_masks(masks, boxes, (60, 80), padding)
    expected = reference.paste_masks_in_image(masks, boxes, (60, 80), padding)
    assert result.dtype == dtype
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-6 if dtype != torch.float16 else 1e-3)


def test_pasting_is_exact_in_double_precision_and_differentiable():
    masks = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    boxes = random_boxes(4, (12, 15), seed=1, dtype=torch.float64)
    torch.testing.assert_close(ours.paste_masks(masks, boxes, (12, 15)),
                               reference.paste_masks_in_image(masks, boxes, (12, 15)), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: ours.paste_masks(x, boxes, (12, 15)), masks)


def test_pasting_keeps_its_precision_under_autocast():
    masks, boxes = torch.rand(5, 1, 14, 14, generator=torch.Generator().manual_seed(0)), random_boxes(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ours.paste_masks(masks, boxes, (60, 80))
    assert torch.equal(result, ours.paste_masks(masks, boxes, (60, 80)))


def test_a_mask_outside_the_image_is_empty():
    boxes = torch.tensor([[100.0, 100, 120, 120], [-50.0, -50, -20, -20]])
    assert (ours.paste_masks(torch.ones(2, 1, 7, 7), boxes, (30, 40)) == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(1, 30), st.integers(0, 8), st.integers(0, 8))
def test_a_pasted_mask_moves_with_its_box(x, y, width, height, right, down):
    mask = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[x, y, x + width, y + height]]) + 40.0  # far from 0, towards which half pixels are cut
    here = ours.paste_masks(mask, box, (130, 130))
    there = ours.paste_masks(mask, box + torch.tensor([right, down, right, down]), (130, 130))
    torch.testing.assert_close(there[..., down:, right:], here[..., : 130 - down, : 130 - right])
    assert here.max() <= mask.max() + 1e-6
    outside = torch.ones(130, 130, dtype=torch.bool)
    outside[36 + y : 46 + y + height, 36 + x : 46 + x + width] = False
    assert (here[0, 0][outside] == 0).all()


def test_bad_input_is_named():
    logits, proposals, masks, labels, matched = a_batch()
    with pytest.raises(ValueError, match=r"\[5, 0, 7\] proposals, \[5, 0\] matched"):
        ours.mask_loss(logits, proposals, masks, labels, matched[:2])
    with pytest.raises(ValueError, match="for 11 predictions"):
        ours.mask_loss(logits[1:], proposals, masks, labels, matched)
    with pytest.raises(ValueError, match="matched index -1 is not in 0 ... 2"):
        ours.mask_loss(logits, proposals, masks, labels, [matched[0] * 0 - 1, *matched[1:]])
    with pytest.raises(ValueError, match="label 9 is not in 0 ... 3"):
        ours.mask_loss(logits, proposals, masks, [label * 0 + 9 for label in labels], matched)
    with pytest.raises(ValueError, match="want finite numbers"):
        ours.mask_loss(logits, [boxes * math.nan for boxes in proposals], masks, labels, matched)
    with pytest.raises(ValueError, match="3 labels for 12 masks"):
        ours.mask_probabilities(logits, [torch.ones(3)])
    with pytest.raises(ValueError, match=r"masks of shape \(2, 1, 7, 6\)"):
        ours.paste_masks(torch.zeros(2, 1, 7, 6), torch.zeros(2, 4), (9, 9))
    with pytest.raises(ValueError, match=r"boxes of shape \(1, 4\)"):
        ours.paste_masks(torch.zeros(2, 1, 7, 7), torch.zeros(1, 4), (9, 9))
    with pytest.raises(ValueError, match="padding -1"):
        ours.paste_masks(torch.zeros(2, 1, 7, 7), torch.zeros(2, 4), (9, 9), -1)
    with pytest.raises(ValueError, match="want finite numbers"):
        ours.paste_masks(torch.zeros(1, 1, 7, 7), torch.tensor([[5.0, 0, 4, 9]]), (9, 9))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda():
    logits, *lists = a_batch()
    on_gpu = [[x.cuda() for x in one] for one in lists]
    torch.testing.assert_close(ours.mask_loss(logits.cuda(), *on_gpu).cpu(), ours.mask_loss(logits, *lists))
    masks, boxes = torch.rand(9, 1, 14, 14), random_boxes(9)
    torch.testing.assert_close(ours.paste_masks(masks.cuda(), boxes.cuda(), (60, 80)).cpu(),
                               ours.paste_masks(masks, boxes, (60, 80)), rtol=0, atol=1e-5)
