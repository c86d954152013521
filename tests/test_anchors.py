"""Anchor grids against torchvision's AnchorGenerator, by hand, and what must hold for any grid."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from lessons.anchors import anchor_grid, by_anchor, pyramid_anchors

RATIOS = (0.5, 1.0, 2.0)
RETINANET = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))


def generated(sizes, ratios, image_size, feature_sizes, dtype=torch.float32):
    """All levels' anchors of one image, by torchvision."""
    images = ImageList(torch.zeros(1, 3, *image_size), [image_size])
    features = [torch.zeros(1, 1, *size, dtype=dtype) for size in feature_sizes]
    return AnchorGenerator(sizes, (ratios,) * len(sizes))(images, features)[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [((128, 256, 512),), ((7, 33, 90.5),), ((1,),)])
@pytest.mark.parametrize("ratios", [RATIOS, (1.0,), (0.3, 3.3)])
@pytest.mark.parametrize(("image", "feature"), [((64, 64), (4, 4)), ((100, 170), (6, 10)), ((37, 200), (1, 13))])
def test_one_level(image, feature, sizes, ratios, dtype):
    expected = generated(sizes, ratios, image, [feature], dtype)
    stride = image[0] // feature[0], image[1] // feature[1]
    got = anchor_grid(feature, stride, sizes[0], ratios, dtype=dtype)
    assert got.dtype == dtype
    assert torch.equal(got, expected)


@pytest.mark.parametrize("image", [(256, 256), (800, 1088), (333, 500)])
def test_retinanets_levels(image):
    features = [(math.ceil(image[0] / stride), math.ceil(image[1] / stride)) for stride in (8, 16, 32, 64, 128)]
    levels = [anchor_grid(size, (image[0] // size[0], image[1] // size[1]), sizes, RATIOS)
              for size, sizes in zip(features, RETINANET, strict=True)]
    assert torch.equal(torch.cat(levels), generated(RETINANET, RATIOS, image, features))


def test_by_hand():
    """One cell after the other along a row, sizes before ratios; ratio 4 is a standing box, 4 times as high as wide."""
    anchors = anchor_grid((2, 2), (10, 20), (8, 16), (1.0, 4.0))
    cell = [[-4, -4, 4, 4], [-8, -8, 8, 8], [-2, -8, 2, 8], [-4, -16, 4, 16]]
    by_hand = [[x1 + x, y1 + y, x2 + x, y2 + y] for y in (0, 10) for x in (0, 20) for x1, y1, x2, y2 in cell]
    assert anchors.tolist() == by_hand


def test_halves_round_to_even():
    assert anchor_grid((1, 1), 8, (5, 7), (1.0,)).tolist() == [[-2, -2, 2, 2], [-4, -4, 4, 4]]


def test_empty_grid_and_torch_size():
    assert anchor_grid((0, 5), 8, (32,), RATIOS).shape == (0, 4)
    feature = torch.zeros(1, 2, 3, 5)
    assert torch.equal(anchor_grid(feature.shape[-2:], 8, [32], list(RATIOS)), anchor_grid((3, 5), (8, 8), (32,), RATIOS))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.tuples(st.integers(1, 40), st.integers(1, 40)),
       st.lists(st.floats(1, 600), min_size=1, max_size=3), st.lists(st.floats(0.1, 10), min_size=1, max_size=3))
def test_properties(height, width, stride, sizes, ratios):
    anchors = anchor_grid((height, width), stride, sizes, ratios, dtype=torch.float64)
    assert anchors.shape == (height * width * len(sizes) * len(ratios), 4)
    grid = anchors.reshape(height, width, len(sizes) * len(ratios), 4)
    assert torch.equal(grid[1:] - grid[:-1], torch.tensor([0.0, stride[0]] * 2).double().expand_as(grid[1:]))
    assert torch.equal(grid[:, 1:] - grid[:, :-1], torch.tensor([stride[1], 0.0] * 2).double().expand_as(grid[:, 1:]))
    if height and width:
        sides = grid[0, 0, :, 2:] - grid[0, 0, :, :2]
        exact = torch.tensor([[s / r**0.5, s * r**0.5] for r in ratios for s in sizes], dtype=torch.float64)
        assert ((sides - exact).abs() <= 1.001).all()  # two corners, each rounded by at most half a pixel
        assert torch.equal(grid[0, 0, :, :2], -grid[0, 0, :, 2:])


@pytest.mark.parametrize(("arguments", "message"), [
    (((4, 4), 8, (), RATIOS), r"sizes \(\)"),
    (((4, 4), 8, (32, -1), RATIOS), r"sizes \(32, -1\)"),
    (((4, 4), 8, (32,), (0.0,)), r"aspect_ratios \(0.0,\)"),
    (((4, 4), 8, (32,), (math.nan,)), r"aspect_ratios \(nan,\)"),
    (((4, 4), 8, (math.inf,), (1.0,)), r"sizes \(inf,\)"),
    (((4, -4), 8, (32,), RATIOS), r"feature_size \(4, -4\)"),
    (((4.5, 4), 8, (32,), RATIOS), r"feature_size \(4.5, 4\)"),
    (((4, 4), 0, (32,), RATIOS), r"stride \(0, 0\)"),
    (((4, 4), (8, math.nan), (32,), RATIOS), r"stride \(8, nan\)"),
])
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        anchor_grid(*arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda():
    for sizes in RETINANET:
        got = anchor_grid((13, 17), (8, 9), sizes, RATIOS, device="cuda")
        assert torch.equal(got.cpu(), anchor_grid((13, 17), (8, 9), sizes, RATIOS))


def test_a_pyramid_is_its_levels_one_after_the_other():
    generator = AnchorGenerator(((16, 20), (40, 48)), ((0.5, 1.0),) * 2)
    maps = [torch.zeros(1, 3, 12, 20, dtype=torch.float64), torch.zeros(1, 3, 6, 10, dtype=torch.float64)]
    expected = generator(ImageList(torch.zeros(1, 3, 96, 160), [(96, 160)]), maps)[0]
    levels = pyramid_anchors(maps, (96, 160), ((16, 20), (40, 48)), (0.5, 1.0))
    assert [len(level) for level in levels] == [12 * 20 * 4, 6 * 10 * 4]
    assert torch.equal(torch.cat(levels), expected)
    with pytest.raises(ValueError, match="1 feature maps for anchors of 2 levels"):
        pyramid_anchors(maps[:1], (96, 160), ((16,), (40,)), (1.0,))


def test_predictions_come_in_the_order_of_the_anchors():
    """Number n of anchor a at row y and column x, by its place among the channels."""
    prediction = torch.arange(2 * 6 * 4 * 5).view(2, 6, 4, 5)
    rows = by_anchor(prediction, 2)
    assert rows.shape == (2, 4 * 5 * 3, 2)
    for image, y, x, a, n in itertools.product(range(2), range(4), range(5), range(3), range(2)):
        assert rows[image, (y * 5 + x) * 3 + a, n] == prediction[image, 2 * a + n, y, x]
    with pytest.raises(ValueError, match="6 channels are no multiple of 4"):
        by_anchor(prediction, 4)
