"""Box coding against torchvision's BoxCoder and BoxLinearCoder, by hand, and its properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder

from lessons.coding import MAX_LOG_RATIO, decode_boxes, decode_ltrb, encode_boxes, encode_ltrb

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
    several = torch.randn(count, 12, dtype=dtype, generator=torch.Generator().manual_seed(1)) * 3
    expected = coder.decode_single(several, reference)
    torch.testing.assert_close(decode_boxes(several, reference, weights), expected, rtol=1e-5, atol=atol * 100)


@pytest.mark.parametrize("columns", [0, 4, 8, 364])
def test_nothing_to_decode(columns):
    decoded = decode_boxes(torch.zeros(0, columns, requires_grad=True), torch.zeros(0, 4))
    assert decoded.shape == BoxCoder(WEIGHTS[0]).decode_single(torch.zeros(0, columns), torch.zeros(0, 4)).shape
    decoded.sum().backward()
    assert decode_boxes(torch.zeros(3, 0), torch.zeros(3, 4)).shape == (3, 0)  # no class


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


def squares(count, dtype=torch.float32):
    """Points as FCOS has them: squares of a stride's side."""
    centre = torch.rand(count, 2, generator=torch.Generator().manual_seed(count + 1)) * 100
    half = torch.tensor([4.0, 8, 16]).repeat(count)[:count, None]
    return torch.cat([centre - half, centre + half], dim=1).to(dtype)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ltrb_equal_to_box_linear_coder(normalize, batch, count, dtype):
    """torchvision's encode has the references first, ours the ground truth."""
    generator = torch.Generator().manual_seed(2)
    reference = squares(count, dtype).expand(*batch, count, 4)
    truth = (torch.rand(*batch, count, 4, generator=generator).cumsum(-1) * 60).to(dtype)
    deltas = torch.randn(*batch, count, 4, generator=generator).to(dtype)
    coder = BoxLinearCoder(normalize_by_size=normalize)
    for ours in (reference, reference[(0,) * len(batch)] if 0 not in batch else reference):  # one for the whole batch
        assert torch.equal(encode_ltrb(truth, ours, normalize), coder.encode(reference, truth))
        assert torch.equal(decode_ltrb(deltas, ours, normalize), coder.decode(deltas, reference))


def test_ltrb_takes_the_precision_of_the_deltas_and_any_number():
    reference = squares(5, torch.float64)
    deltas = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(decode_ltrb(deltas, reference), BoxLinearCoder().decode(deltas, reference))
    assert decode_ltrb(torch.full((5, 4), math.inf), reference)[0].tolist() == [-math.inf] * 2 + [math.inf] * 2


def test_ltrb_by_hand():
    square, truth = torch.tensor([[40.0, 20, 60, 30]]), torch.tensor([[45.0, 0, 90, 26]])  # its centre is (50, 25)
    assert encode_ltrb(truth, square, normalize_by_size=False).tolist() == [[5, 25, 40, 1]]
    torch.testing.assert_close(encode_ltrb(truth, square), torch.tensor([[5 / 20, 25 / 10, 40 / 20, 1 / 10]]))


@pytest.mark.parametrize("normalize", [True, False])
def test_ltrb_gradients(normalize):
    truth, reference = pairs(4, torch.float64)
    inputs = truth.requires_grad_(), reference.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: encode_ltrb(a, b, normalize), inputs)
    assert torch.autograd.gradcheck(lambda a, b: decode_ltrb(a - 50, b, normalize), inputs)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.booleans(), st.floats(0.1, 8), st.floats(-300, 300))
def test_ltrb_round_trip_and_invariance(count, normalize, scale, shift):
    truth, reference = pairs(count, torch.float64)
    deltas = encode_ltrb(truth, reference, normalize)
    torch.testing.assert_close(decode_ltrb(deltas, reference, normalize), truth)
    moved = encode_ltrb(truth * scale + shift, reference * scale + shift, normalize)
    torch.testing.assert_close(moved, deltas * (1 if normalize else scale), rtol=1e-7, atol=1e-9)
    width, height = (reference[:, 2:] - reference[:, :2]).unbind(1) if normalize else (1, 1)
    torch.testing.assert_close((deltas[:, 0] + deltas[:, 2]) * width, truth[:, 2] - truth[:, 0])  # left and right
    torch.testing.assert_close((deltas[:, 1] + deltas[:, 3]) * height, truth[:, 3] - truth[:, 1])


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(3, 4\) boxes against \(2, 4\)"):
        encode_boxes(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"deltas of shape \(2, 6\)"):
        decode_boxes(torch.zeros(2, 6), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"deltas of shape \(0, 8\) for boxes of shape \(2, 4\)"):
        decode_boxes(torch.zeros(0, 8), torch.zeros(2, 4))
    for values, reference in (((3, 4), (2, 4)), ((2, 3, 4), (2, 1, 4)), ((3, 4), (2, 3, 4)), ((3, 5), (3, 5)), ((4,), ())):
        for coding in (encode_ltrb, decode_ltrb):
            with pytest.raises(ValueError, match="against .* references"):
                coding(torch.zeros(values), torch.zeros(reference))


@pytest.mark.parametrize("bad", [[50.0, 20, 10, 100], [math.nan, 0, 1, 1], [0, 0, math.inf, 1]])
def test_a_malformed_box_is_named(bad):
    bad, good = torch.tensor([bad]), torch.tensor([[0.0, 0, 5, 5]])
    for coding, place in ((encode_boxes, 0), (encode_boxes, 1), (decode_boxes, 1), (encode_ltrb, 0), (encode_ltrb, 1),
                          (decode_ltrb, 1)):
        with pytest.raises(ValueError, match=r"box \[.*want finite numbers"):
            coding(*((bad, good) if place == 0 else (good, bad)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda():
    truth, reference = pairs(30)
    for encode, decode in ((encode_boxes, decode_boxes), (encode_ltrb, decode_ltrb)):
        deltas = encode(truth.cuda(), reference.cuda())
        torch.testing.assert_close(deltas.cpu(), encode(truth, reference))
        torch.testing.assert_close(decode(deltas, reference.cuda()).cpu(), truth, rtol=1e-5, atol=1e-4)
