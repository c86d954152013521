"""Boxes against torchvision.ops: values and gradients, hostile input, and the properties of IoU."""

import inspect
import math

import pytest
import torch
import torchvision.ops as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons import boxes as ours

FAMILY = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
A_BOX = [10.0, 20.0, 50.0, 100.0]


def random_boxes(*shape, seed=0, dtype=torch.float32, size=100):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * size
    side = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * size / 2 + 1
    return torch.cat([corner, corner + side], dim=-1).to(dtype)


def reference_of(name, a, b):
    """torchvision's result, batch by batch: its older versions know no batches."""
    if a.ndim == 2:
        return getattr(reference, name)(a, b)
    return torch.stack([reference_of(name, one, other) for one, other in zip(a, b, strict=True)])


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shapes", [((7,), (5,)), ((0,), (3,)), ((4,), (0,)), ((1,), (1,)), ((2, 3, 6), (2, 3, 4))])
def test_values(name, dtype, shapes):
    a, b = (random_boxes(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes))
    result, expected = getattr(ours, name)(a, b), reference_of(name, a, b)
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_whole_numbers(dtype):
    a, b = random_boxes(9, size=60).to(dtype), random_boxes(8, seed=1, size=60).to(dtype)
    for name in FAMILY:
        torch.testing.assert_close(getattr(ours, name)(a, b), getattr(reference, name)(a, b), rtol=0, atol=1e-6)
    wide = torch.tensor([[0, 0, 100, 100], [0, 0, 0, 0]], dtype=dtype)  # 10,000 does not fit into int8
    assert ours.box_area(wide).tolist() == [10_000, 0]
    for source in ours.FORMATS:
        for target in ours.FORMATS:
            result, expected = (module.box_convert(a, source, target) for module in (ours, reference))
            torch.testing.assert_close(result, expected, rtol=0, atol=0)
    torch.testing.assert_close(ours.clip_boxes_to_image(a, (40, 30)), reference.clip_boxes_to_image(a, (40, 30)))
    assert torch.equal(ours.remove_small_boxes(a, 10), reference.remove_small_boxes(a, 10))


@pytest.mark.parametrize("name", FAMILY)
def test_gradients(name):
    a = random_boxes(5, dtype=torch.float64).requires_grad_()
    b = random_boxes(4, seed=1, dtype=torch.float64).requires_grad_()
    weight = torch.rand(5, 4, dtype=torch.float64)
    got = torch.autograd.grad((getattr(ours, name)(a, b) * weight).sum(), (a, b))
    expected = torch.autograd.grad((getattr(reference, name)(a, b) * weight).sum(), (a, b))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    if name != "complete_box_iou":  # its alpha is constant in the gradient on purpose
        assert torch.autograd.gradcheck(getattr(ours, name), (a, b))


def test_disjoint_boxes_teach_only_where_they_should():
    a, far = torch.tensor([A_BOX]), torch.tensor([[200.0, 300.0, 260.0, 330.0]], requires_grad=True)
    for name in FAMILY:
        (gradient,) = torch.autograd.grad(getattr(ours, name)(a, far).sum(), far)
        assert (gradient.abs().max() > 0) == (name != "box_iou")


@pytest.mark.parametrize("name", FAMILY)
def test_boxes_without_area(name):
    point = torch.tensor([[5.0, 5, 5, 5], [5, 5, 9, 5]])
    others = torch.cat([point, torch.tensor([[0.0, 0, 10, 10]])])
    result = getattr(ours, name)(point, others)
    torch.testing.assert_close(result, getattr(reference, name)(point, others), equal_nan=True)


@pytest.mark.parametrize("fmt", ["xyxy", "xywh", "cxcywh"])
def test_formats_of_area_and_iou(fmt):
    a, b = random_boxes(6), random_boxes(5, seed=3)
    expected = reference.box_iou(a, b)
    a, b = (reference.box_convert(boxes, "xyxy", fmt) for boxes in (a, b))
    torch.testing.assert_close(ours.box_iou(a, b, fmt=fmt), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.box_area(a, fmt=fmt), reference.box_area(random_boxes(6)), atol=1e-2, rtol=1e-5)
    if "fmt" in inspect.signature(reference.box_area).parameters:  # older versions of torchvision know xyxy only
        assert torch.equal(ours.box_iou(a, b, fmt=fmt), reference.box_iou(a, b, fmt=fmt))
        assert torch.equal(ours.box_area(a.half(), fmt=fmt), reference.box_area(a.half(), fmt=fmt))


@pytest.mark.parametrize("source", ours.FORMATS)
@pytest.mark.parametrize("target", ours.FORMATS)
def test_convert(source, target):
    boxes = reference.box_convert(random_boxes(2, 5), "xyxy", source)
    got = ours.box_convert(boxes, source, target)
    torch.testing.assert_close(got, reference.box_convert(boxes, source, target))
    assert got.data_ptr() != boxes.data_ptr()  # a copy, also where nothing changes
    assert ours.box_convert(torch.zeros(0, 4), source, target).shape == (0, 4)


def test_non_contiguous_boxes():
    boxes = random_boxes(8).flip(0)[::2].T.contiguous().T
    assert not boxes.is_contiguous()
    torch.testing.assert_close(ours.box_iou(boxes, boxes), reference.box_iou(boxes, boxes))


@pytest.mark.parametrize("shape", [(0, 4), (9, 4), (2, 3, 4)])
def test_clip(shape):
    boxes = random_boxes(*shape[:-1]) * 3 - 100
    assert torch.equal(ours.clip_boxes_to_image(boxes, (50, 120)), reference.clip_boxes_to_image(boxes, (50, 120)))


def test_remove_small():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 9.9, 20], [0, 0, 20, 9.9], [5, 5, 5, 5]])
    for size in (0, 5, 10, 10.5):
        assert torch.equal(ours.remove_small_boxes(boxes, size), reference.remove_small_boxes(boxes, size))
    batch = boxes.reshape(2, 2, 4)
    assert ours.remove_small_boxes(batch, 10).tolist() == [0]  # the first numbers, as torchvision's later versions


def test_masks():
    masks = torch.rand(6, 17, 31, generator=torch.Generator().manual_seed(0)) > 0.95
    masks[0] = False
    masks[0, 3, 30] = True
    torch.testing.assert_close(ours.masks_to_boxes(masks), reference.masks_to_boxes(masks))
    assert ours.masks_to_boxes(torch.zeros(0, 5, 5)).shape == (0, 4)
    masks[2] = False  # an older torchvision cannot, the newer gives zeros
    assert ours.masks_to_boxes(masks)[2].tolist() == [0, 0, 0, 0]
    assert ours.masks_to_boxes(masks)[0].tolist() == [30, 3, 30, 3]
    with pytest.raises(ValueError, match=r"masks of shape \(17, 31\)"):
        ours.masks_to_boxes(masks[0])


@pytest.mark.parametrize("bad", [[50.0, 20, 10, 100], [10, 100, 50, 20], [math.nan, 0, 1, 1], [0, 0, math.inf, 1]])
@pytest.mark.parametrize("name", FAMILY)
def test_a_malformed_box_is_named(name, bad):
    boxes = torch.tensor([A_BOX, bad])
    for pair in ((boxes, boxes[:1]), (boxes[:1], boxes)):
        with pytest.raises(ValueError, match=r"box \[.*want finite numbers"):
            getattr(ours, name)(*pair)


def test_a_wrong_shape_or_format_is_named():
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        ours.box_iou(torch.zeros(3, 5), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="'yxyx' is none of"):
        ours.box_convert(torch.zeros(1, 4), "yxyx", "xyxy")
    with pytest.raises(ValueError, match=r"boxes of shape \(2, 3\): the last dimension must be 4"):
        ours.box_convert(torch.zeros(2, 3), "xywh", "xyxy")


SIDES = st.tuples(*[st.integers(-50, 50)] * 2, *[st.integers(1, 60)] * 2)
BOX = SIDES.map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@settings(max_examples=100, deadline=None)
@given(st.lists(BOX, min_size=1, max_size=6), st.lists(BOX, min_size=1, max_size=6), st.integers(-99, 99),
       st.sampled_from([0.25, 2.0, 8.0]))
def test_properties_of_iou(a, b, shift, scale):
    a, b = (torch.tensor(boxes, dtype=torch.float64) for boxes in (a, b))
    iou = ours.box_iou(a, b)
    assert torch.equal(iou, ours.box_iou(b, a).T)
    assert ((iou >= 0) & (iou <= 1)).all()
    torch.testing.assert_close(ours.box_iou(a + shift, b + shift), iou)
    torch.testing.assert_close(ours.box_iou(a * scale, b * scale), iou)
    assert torch.equal(ours.box_iou(a, a).diagonal(), torch.ones(len(a), dtype=torch.float64))
    giou, diou, ciou = (getattr(ours, name)(a, b) for name in FAMILY[1:])
    assert (giou <= iou + 1e-12).all()
    assert (giou > -1).all()
    assert (diou <= iou + 1e-12).all()
    assert (ciou <= diou + 1e-12).all()


def test_half_precision_areas_do_not_overflow():
    large = torch.tensor([[0.0, 0, 1000, 1000]], dtype=torch.float16)
    assert ours.box_area(large).item() == 1e6
    assert ours.box_iou(large, large).item() == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("name", FAMILY)
def test_cuda(name):
    a, b = random_boxes(30), random_boxes(20, seed=1)
    torch.testing.assert_close(getattr(ours, name)(a.cuda(), b.cuda()).cpu(), getattr(ours, name)(a, b))
