"""Targets of keypoint networks: radii against a search over all shifted boxes, bumps against a loop over cells."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons.boxes import box_iou
from lessons.heatmaps import gaussian_radius, keypoint_heat


def worst_iou(width, height, radius):
    """The smallest IoU of a box with one whose corners are each moved by up to `radius`, left or right, up or down."""
    box = torch.tensor([[0.0, 0, width, height]], dtype=torch.float64)
    moves = torch.tensor(list(itertools.product((-radius, 0, radius), repeat=4)), dtype=torch.float64)
    moved = box + moves
    fits = (moved[:, 2:] >= moved[:, :2]).all(dim=1)
    return 0.0 if not fits.all() else box_iou(box, moved).min().item()


@settings(max_examples=60, deadline=None)
@given(st.floats(0.5, 300), st.floats(0.5, 300), st.floats(0.05, 0.95))
def test_the_radius_is_how_far_both_corners_may_be_off(width, height, min_iou):
    (radius,) = gaussian_radius(torch.tensor([[width, height]], dtype=torch.float64), min_iou).tolist()
    assert worst_iou(width, height, radius) >= min_iou - 1e-6
    assert worst_iou(width, height, radius * 1.001 + 1e-9) < min_iou


def test_radii_by_hand():
    sizes = torch.tensor([[10.0, 10], [20, 20], [0, 7], [0, 0]])
    # 10 x 10 both inwards by r: (10 - 2r)^2 = 30, the smallest of the three
    torch.testing.assert_close(gaussian_radius(sizes), torch.tensor([(10 - 30**0.5) / 2, 10 - 30**0.5, 0, 0]))
    assert gaussian_radius(sizes, 1.0).abs().max() < 1e-4  # the box itself
    assert gaussian_radius(sizes[:0]).shape == (0,)
    torch.testing.assert_close(gaussian_radius(sizes[:, [1, 0]]), gaussian_radius(sizes))
    for min_iou in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match=f"min_iou {min_iou}"):
            gaussian_radius(sizes, min_iou)
    for wrong in (torch.rand(3), torch.rand(3, 3), torch.tensor([[1.0, -1]]), torch.tensor([[1.0, math.nan]])):
        with pytest.raises(ValueError, match=r"want \(N, 2\), >= 0"):
            gaussian_radius(wrong)


def heat_by_loop(cells, labels, radii, shape):
    heat = torch.zeros(shape, dtype=torch.float64)
    for (column, row), label, radius in zip(cells.tolist(), labels.tolist(), radii.tolist(), strict=True):
        r = int(radius)
        sigma = (2 * r + 1) / 6
        for i in range(max(row - r, 0), min(row + r + 1, shape[1])):
            for j in range(max(column - r, 0), min(column + r + 1, shape[2])):
                value = math.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * sigma**2))
                heat[label, i, j] = max(heat[label, i, j].item(), value)
    return heat


@pytest.mark.parametrize(("count", "shape"), [(0, (3, 5, 7)), (1, (1, 1, 1)), (6, (3, 9, 14)), (30, (2, 12, 6))])
@pytest.mark.parametrize("seed", range(3))
def test_heat_equals_the_loop(count, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.stack([torch.randint(shape[2], (count,), generator=generator),
                         torch.randint(shape[1], (count,), generator=generator)], dim=1)
    labels = torch.randint(shape[0], (count,), generator=generator)
    radii = torch.rand(count, generator=generator, dtype=torch.float64) * 5
    heat = keypoint_heat(cells, labels, radii, shape)
    torch.testing.assert_close(heat, heat_by_loop(cells, labels, radii, shape))
    assert torch.equal(heat == 1, heat_by_loop(cells, labels, radii * 0, shape) == 1)  # exactly 1 at keypoints alone


def test_heat_keeps_precision_and_takes_whole_radii():
    cells, labels = torch.tensor([[1, 2]]), torch.tensor([0])
    for radius, dtype in (([2], torch.float32), ([2.9], torch.float32)):
        heat = keypoint_heat(cells, labels, torch.tensor(radius), (1, 4, 4))
        assert heat.dtype == dtype
        assert heat[0, 2, 2] == pytest.approx(math.exp(-1 / (2 * (5 / 6) ** 2)))
    assert keypoint_heat(cells, labels, torch.tensor([0.5]), (1, 4, 4)).sum() == 1


def test_what_does_not_fit_is_shown():
    cells, labels, radii = torch.tensor([[1, 2], [3, 0]]), torch.tensor([0, 1]), torch.tensor([1.0, 0.0])
    for wrong, message in (((cells[:1], labels, radii), r"cells \(1, 2\)"), ((cells, labels, radii[:1]), r"radii \(1,\)"),
                           ((cells, labels, -radii), "radius -1.0"), ((cells, labels, radii / 0), "radius (inf|nan)"),
                           ((cells + 1, labels, radii), r"row and column \[\[0, 3, 2\]\]"),
                           ((cells, labels - 1, radii), r"row and column \[\[-1, 2, 1\]\]"),
                           ((cells.float(), labels, radii), "of torch.float32")):
        with pytest.raises(ValueError, match=message):
            keypoint_heat(*wrong, (2, 3, 4))
