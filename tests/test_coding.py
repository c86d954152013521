"""Box coding against torchvision's BoxCoder, by hand, and its properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder

from lessons.coding import MAX_LOG_RATIO, decode_boxes, encode_boxes

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


def pairs(count, dtype=torch.float32):
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(2, count, 2, generator=generator, dtype=torch.float64) * 100
    return torch.cat([corner, corner + torch.rand(2, count, 2, generator=generator) * 80 + 2], dim=-1).to(dtype)  # sizes differ less than 62.5-fold


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("count", [0, 1, 50])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_equal_to_box_coder(weights, count, dtype, atol):
    truth, reference = pairs(count, dtype)
    coder = BoxCoder(weights)
    deltas = encode_boxes(truth, reference, weights)
    torch.testing.assert_close(deltas, coder.encode_single(truth, reference), rtol=1e-5, atol=atol)
    if count:
        several = torch.randn(count, 12, dtype=dtype, generator=torch.Generator().manual_seed(1)) * 3
        expected = coder.decode_single(several, reference)
        torch.testing.assert_close(decode_boxes(several, reference, weights), expected, rtol=1e-5, atol=atol * 100)


def test_by_hand():
    proposal, truth = torch.tensor([[40.0, 40, 80, 120]]), torch.tensor([[50.0, 44, 98, 120]])
    by_hand = [(74 - 60) / 40, (82 - 80) / 80, math.log(48 / 40), math.log(76 / 80)]
    torch.testing.assert_close(encode_boxes(truth, proposal)[0], torch.tensor(by_hand))


def test_width_and_height_have_their_own_deltas():
    """dw must not decode the height (a mistake in lecture notes: exp(dx) for both)."""
    box = decode_boxes(torch.tensor([[0.0, 0, math.log(2), math.log(3)]]), torch.tensor([[0.0, 0, 10, 10]]))
    torch.testing.assert_close(box, torch.tensor([[-5.0, -10, 15, 20]]))


def test_untrained_outputs_do_not_overflow():
    box = decode_boxes(torch.tensor([[0.0, 0, 1e4, 1e4]]), torch.tensor([[0.0, 0, 16, 16]]))
    torch.testing.assert_close(box[0, 2] - box[0, 0], torch.tensor(1000.0))
    assert math.log(1000 / 16) == MAX_LOG_RATIO


def test_gradients():
    truth, reference = pairs(4, torch.float64)
    assert torch.autograd.gradcheck(encode_boxes, (truth.requires_grad_(), reference.requires_grad_()))
    deltas = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(decode_boxes, (deltas, reference))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.sampled_from(WEIGHTS), st.floats(0.1, 8), st.floats(-300, 300))
def test_round_trip_and_invariance(count, weights, scale, shift):
    truth, reference = pairs(count, torch.float64)
    deltas = encode_boxes(truth, reference, weights)
    torch.testing.assert_close(decode_boxes(deltas, reference, weights), truth)
    moved = encode_boxes(truth * scale + shift, reference * scale + shift, weights)
    torch.testing.assert_close(moved, deltas, rtol=1e-7, atol=1e-9)  # the same at every place and scale


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(3, 4\) boxes against \(2, 4\)"):
        encode_boxes(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"deltas of shape \(2, 6\)"):
        decode_boxes(torch.zeros(2, 6), torch.zeros(2, 4))
