"""Rotated boxes against torchvision: all pairs of formats with gradients, and IoU also against polygons cut by hand."""

import inspect
import itertools
import math

import pytest
import torch
import torchvision.ops as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons import boxes as ours
from lessons.rotated import ROTATED, rotated_convert, rotated_iou

PAIRS = list(itertools.product(ROTATED, repeat=2))
UPRIGHT_AND_ROTATED = [pair for a, b in itertools.product(ours.FORMATS, ROTATED) for pair in ((a, b), (b, a))]


def knows_formats():
    try:
        reference.box_convert(torch.zeros(1, 5), "cxcywhr", "xyxyxyxy")
    except ValueError:
        return False
    return True


needs_formats = pytest.mark.skipif(not knows_formats(), reason="this torchvision knows no rotated formats")
needs_iou = pytest.mark.skipif("fmt" not in inspect.signature(reference.box_iou).parameters or not knows_formats(),
                               reason="this torchvision knows no IoU of rotated boxes")


def rotated(*shape, seed=0, dtype=torch.float32, fmt="cxcywhr", size=100.0, side=60.0):
    """Boxes at random places, of all shapes and angles, -360 to 360 degrees."""
    numbers = torch.rand(*shape, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low, high = torch.tensor([[0, 0, 1, 1, -360], [size, size, side, side, 360.0]], dtype=torch.float64)
    return rotated_convert(numbers * (high - low) + low, "cxcywhr", fmt).to(dtype)


@needs_formats
@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_conversion(source, target, dtype):
    boxes = rotated(2, 7, fmt=source, dtype=dtype)
    got, expected = (module.box_convert(boxes, source, target) for module in (ours, reference))
    assert got.dtype == expected.dtype
    assert got.data_ptr() != boxes.data_ptr()
    tolerance = {torch.float16: 0.5, torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
    empty = boxes[:0]
    assert ours.box_convert(empty, source, target).shape == reference.box_convert(empty, source, target).shape


@needs_formats
@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_conversion(source, target, dtype):
    boxes = rotated(6, fmt=source, dtype=dtype).requires_grad_()
    gradients = []
    for module in (ours, reference):
        converted = module.box_convert(boxes, source, target)
        weight = torch.linspace(-1, 2, converted.numel(), dtype=dtype).view_as(converted)
        gradients += torch.autograd.grad((converted * weight).sum(), boxes)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-11)


@needs_formats
@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_whole_numbers_are_rounded_at_each_step(source, target, dtype):
    boxes = rotated(40, fmt=source).round().to(dtype)
    assert torch.equal(ours.box_convert(boxes, source, target), reference.box_convert(boxes, source, target))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_there_and_back(source, target):
    boxes = rotated(20, fmt=source, dtype=torch.float64)
    back = rotated_convert(rotated_convert(boxes, source, target), target, source)
    if source != "xyxyxyxy":  # corners know an angle but for whole turns
        turns = (back[..., 4] - boxes[..., 4]) / 360
        torch.testing.assert_close(turns, turns.round(), rtol=0, atol=1e-9)
        back, boxes = back[..., :4], boxes[..., :4]
    torch.testing.assert_close(back, boxes, rtol=0, atol=1e-9)


def test_a_quarter_turn_by_hand():
    box = torch.tensor([[10.0, 20, 6, 2, 90]])  # stands on its side, its first corner now at the bottom left
    expected = [9.0, 23, 9, 17, 11, 17, 11, 23]
    torch.testing.assert_close(ours.box_convert(box, "cxcywhr", "xyxyxyxy"), torch.tensor([expected]))
    assert ours.box_iou(box, torch.tensor([[10.0, 20, 2, 6, 0]]), "cxcywhr").item() == pytest.approx(1)


@needs_iou
@pytest.mark.parametrize("fmt", ROTATED)
@pytest.mark.parametrize("shapes", [(40, 30), (0, 3), (4, 0), (1, 1)])
@pytest.mark.parametrize("side", [3.0, 60.0, 400.0])
def test_iou(fmt, shapes, side):
    a, b = (rotated(count, seed=seed, fmt=fmt, side=side) for seed, count in enumerate(shapes))
    got, expected = (module.box_iou(a, b, fmt=fmt) for module in (ours, reference))
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


@needs_iou
def test_iou_of_boxes_that_share_edges_corners_or_nothing():
    box = torch.tensor([20.0, 30, 8, 4, 0])
    changes = [[0, 0, 0, 0, 0], [8, 0, 0, 0, 0], [4, 0, 0, 0, 0], [8, 4, 0, 0, 0], [0, 0, -4, -2, 0], [0, 0, 4, 2, 0],
               [0, 0, 0, 0, 180], [0, 0, 0, 0, 45], [100, 0, 0, 0, 30], [0, 0, -8, 0, 0], [0, 0, -8, -4, 0]]
    boxes = box + torch.tensor(changes)
    for angle in (0, 30, 90, 135):
        turned = boxes + torch.tensor([0, 0, 0, 0, angle])
        expected = reference.box_iou(turned, turned, fmt="cxcywhr")
        torch.testing.assert_close(ours.box_iou(turned, turned, fmt="cxcywhr"), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [0, 1e4])
def test_iou_of_upright_boxes_is_that_of_box_iou(shift):
    a, b = (rotated(30, seed=seed, dtype=torch.float64) + shift * torch.tensor([1, 1, 0, 0, 0]) for seed in (0, 1))
    a[:, 4], b[:, 4] = torch.arange(30) % 2 * 180, 0
    expected = ours.box_iou(a[:, :4], b[:, :4], "cxcywh")
    torch.testing.assert_close(rotated_iou(a, b), expected, rtol=0, atol=1e-9)


def clipped_area(polygon, box):
    """Sutherland and Hodgman's way: cut a list of corners by one side of the box after the other."""
    corners = rotated_convert(box, "cxcywhr", "xyxyxyxy").view(4, 2).tolist()
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        sides = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in polygon]
        cut = []
        for k, (p, d) in enumerate(zip(polygon, sides, strict=True)):
            q, e = polygon[k - 1], sides[k - 1]
            if (d >= 0) != (e >= 0):
                cut.append([q[i] + (p[i] - q[i]) * e / (e - d) for i in (0, 1)])
            if d >= 0:
                cut.append(p)
        polygon = cut
    return abs(sum(polygon[k - 1][0] * p[1] - p[0] * polygon[k - 1][1] for k, p in enumerate(polygon))) / 2


SIDES = st.floats(0.5, 60)
BOX = st.tuples(st.floats(-50, 50), st.floats(-50, 50), SIDES, SIDES, st.floats(-400, 400))


@settings(max_examples=200, deadline=None)
@given(BOX, BOX, st.floats(-180, 180))
def test_iou_equals_cutting_and_has_its_properties(first, second, turn):
    a, b = (torch.tensor([box], dtype=torch.float64) for box in (first, second))
    shared = clipped_area(rotated_convert(a, "cxcywhr", "xyxyxyxy").view(4, 2).tolist(), b)
    iou = rotated_iou(a, b).item()
    assert 0 <= iou <= 1
    assert iou == pytest.approx(shared / (first[2] * first[3] + second[2] * second[3] - shared), abs=1e-8)
    assert rotated_iou(b, a).item() == pytest.approx(iou, abs=1e-8)
    assert rotated_iou(a, a).item() == pytest.approx(1, abs=1e-8)
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    for box in (a, b):  # both turned around 0, 0
        x, y = box[0, 0].item(), box[0, 1].item()
        box[0, 0], box[0, 1] = x * cos + y * sin, y * cos - x * sin
        box[0, 4] += turn
    assert rotated_iou(a, b).item() == pytest.approx(iou, abs=1e-8)


def test_batches_and_other_types():
    a, b = rotated(2, 3, 6, dtype=torch.float64), rotated(2, 3, 4, seed=1, dtype=torch.float64)
    expected = torch.stack([rotated_iou(x, y) for x, y in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)])
    torch.testing.assert_close(rotated_iou(a, b), expected.view(2, 3, 6, 4))
    assert rotated_iou(a.half(), b.half()).dtype == torch.float32
    whole = rotated_iou(a.round().int(), b.round().int())
    torch.testing.assert_close(whole, rotated_iou(a.round(), b.round()).float(), rtol=0, atol=1e-5)


def test_gradients_of_iou():
    a, b = (rotated(5, seed=seed, dtype=torch.float64).requires_grad_() for seed in (0, 1))
    assert (rotated_iou(a, b) > 0).any()
    assert torch.autograd.gradcheck(rotated_iou, (a, b))
    flat = torch.tensor([[5.0, 5, 0, 3, 20], [5, 5, 0, 0, 0], [5, 5, 4, 4, 0]], requires_grad=True)
    rotated_iou(flat, flat).sum().backward()
    assert flat.grad.isfinite().all()


@pytest.mark.parametrize("bad", [[0, 0, -1, 2, 0], [0, 0, 1, -2, 0], [0, 0, math.nan, 1, 0], [0, 0, 1, 1, math.inf]])
def test_a_malformed_box_is_named(bad):
    boxes = torch.tensor([[5.0, 5, 4, 2, 30], bad])
    for pair in ((boxes, boxes[:1]), (boxes[:1], boxes)):
        with pytest.raises(ValueError, match=r"box \[.*want finite numbers, width and height >= 0"):
            ours.box_iou(*pair, fmt="cxcywhr")


@pytest.mark.parametrize("fmt", ROTATED)
def test_a_wrong_shape_is_named(fmt):
    for shape in ((3, 4), (2, 6), ()):
        text = rf"boxes of shape {torch.zeros(shape).shape}".replace("torch.Size([", r"\(").replace("])", r",?\)")
        with pytest.raises(ValueError, match=text):
            ours.box_convert(torch.zeros(shape), fmt, "cxcywhr")
        with pytest.raises(ValueError, match=text):
            ours.box_iou(torch.zeros(shape), torch.zeros(1, ROTATED[fmt]), fmt)


@pytest.mark.parametrize(("source", "target"), UPRIGHT_AND_ROTATED)
def test_upright_boxes_do_not_become_rotated_ones(source, target):
    with pytest.raises(ValueError, match=f"no way from '{source}' to '{target}'"):
        ours.box_convert(torch.zeros(1, ROTATED.get(source, 4)), source, target)
    with pytest.raises(ValueError, match="no way from 'cxcywhr' to 'xyxy'"):
        ours.box_area(torch.zeros(1, 5), "cxcywhr")
