"""The Python side of the widgets of notebook 07: pooled regions and pasted masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lessons.masks import paste_masks
from lessons.roi import roi_align, roi_pool
from utils.widgets import MaskPaste, RoiPoolingExplorer
from utils.widgets.roi import rounded_bins, sampling_points

MAP = torch.rand(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IMAGE = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
FOUND = {"boxes": torch.tensor([[4.0, 6, 30, 34], [20, 0, 60, 20]]), "labels": torch.tensor([1, 2])}
SQUARES = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(1))
CLASSES = ("background", "bird", "fish")
corner = st.floats(0, 4)
side = st.floats(0.5, 3)


@settings(max_examples=60, deadline=None)
@given(corner, corner, side, side, st.integers(1, 4), st.integers(1, 3))
def test_what_is_drawn_is_what_is_pooled(x, y, w, h, bins, samples):
    """The largest value of each drawn bin is RoIPool's, the mean at each bin's drawn points is RoIAlign's."""
    box = torch.tensor([x, y, min(x + w, 8), min(y + h, 6)], dtype=torch.float64)
    drawn = [MAP[y1:y2, x1:x2].max() if y2 > y1 and x2 > x1 else torch.tensor(0.0)
             for x1, y1, x2, y2 in rounded_bins(box, bins, (6, 8)).tolist()]
    pooled = roi_pool(MAP[None, None], [box[None]], bins, 1.0)[0, 0].flatten()
    torch.testing.assert_close(torch.stack(drawn).to(pooled), pooled)
    points = sampling_points(box, bins, samples).view(bins, samples, bins, samples, 2)
    places = (points - 0.5).clamp(min=0)  # aligned: cell i has its middle at i + 0.5
    px, py = places[..., 0].clamp(max=7), places[..., 1].clamp(max=5)
    x0, y0 = px.floor().long().clamp(max=6), py.floor().long().clamp(max=4)
    fx, fy = px - x0, py - y0
    read = (MAP[y0, x0] * (1 - fx) * (1 - fy) + MAP[y0, x0 + 1] * fx * (1 - fy)
            + MAP[y0 + 1, x0] * (1 - fx) * fy + MAP[y0 + 1, x0 + 1] * fx * fy)
    torch.testing.assert_close(read.mean(dim=(1, 3)), roi_align(MAP[None, None], [box[None]], bins, 1.0, samples, True)[0, 0])


def test_a_region_on_whole_cells_is_off_by_half_a_cell_only():
    widget = RoiPoolingExplorer(MAP, [32, 16, 64, 48], stride=16)
    assert widget.size == [128, 96]
    assert widget.window == [2, 1, 5, 4]  # both corners belong to RoIPool's region
    assert "0.50 cells = 8.0 px off" in widget.message
    widget.box = [25.6, 36.8, 91.2, 86.4]
    assert widget.window == [2, 2, 7, 6]
    assert "RoIPool looks at 5 × 4 whole cells; their middle is up to 0.85 cells = 13.6 px off" in widget.message
    widget.bins = 3
    assert (len(widget.edges), len(widget.points)) == (9, 36)
    assert [len(rows) for rows in widget.results.values()] == [3, 3]
    assert widget.error == ""
    assert isinstance(widget.static(), Figure)


def test_a_malformed_region_is_said_in_the_widget():
    widget = RoiPoolingExplorer(MAP, [20, 10, 40, 30])
    widget.box = [50, 10, 40, 30]
    assert "x1 <= x2" in widget.error
    with pytest.raises(ValueError, match="four finite numbers"):
        RoiPoolingExplorer(MAP, [2, 1, 4])
    with pytest.raises(ValueError, match=r"feature_map of shape \(0, 3\)"):
        RoiPoolingExplorer(torch.zeros(0, 3), [0, 0, 1, 1])


def test_a_flat_map_has_one_colour():
    widget = RoiPoolingExplorer(torch.zeros(3, 3), [0, 0, 2, 2])
    assert len({colour for row in widget.cells for colour in row}) == 1
    assert isinstance(widget.static(), Figure)


def test_pixels_and_iou_are_those_of_the_library():
    truth = torch.zeros(2, 40, 60, dtype=torch.bool)
    truth[0, 10:30, 5:28] = True
    widget = MaskPaste(IMAGE, SQUARES, FOUND, CLASSES, truth)
    mask = paste_masks(SQUARES[:, None], FOUND["boxes"], (40, 60))[0, 0] >= 0.5
    assert widget.counts["pixels"] == int(mask.sum()) > 0
    assert widget.counts["iou"] == pytest.approx(float((mask & truth[0]).sum() / (mask | truth[0]).sum()))
    assert "bird: 7 × 7 numbers stretched over a box of 26 × 28 pixels" in widget.message
    before = widget.counts["pixels"]
    widget.threshold = 0.8
    assert widget.counts["pixels"] < before
    widget.chosen = 1
    assert widget.message.startswith("fish")
    assert widget.counts["iou"] == 0
    assert isinstance(widget.static(), Figure)


def test_at_threshold_0_the_mask_fills_its_box_and_no_more():
    widget = MaskPaste(IMAGE, torch.full((2, 7, 7), 0.3), FOUND, CLASSES)
    assert widget.counts == {"pixels": 0, "iou": None}
    widget.threshold = 0.0
    assert 26 * 28 <= widget.counts["pixels"] < 33 * 35  # the border of zeros lets a mask reach a cell beyond its box


def test_no_detections_and_wrong_numbers():
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    widget = MaskPaste(IMAGE, torch.zeros(0, 28, 28), nothing, CLASSES)
    assert "no detections" in widget.message
    assert isinstance(widget.static(), Figure)
    with pytest.raises(ValueError, match="for 2 boxes and 2 labels"):
        MaskPaste(IMAGE, SQUARES[:1], FOUND, CLASSES)
    with pytest.raises(ValueError, match="as many true masks"):
        MaskPaste(IMAGE, SQUARES, FOUND, CLASSES, torch.zeros(1, 40, 60))
    with pytest.raises(ValueError, match="label 2 has no name"):
        MaskPaste(IMAGE, SQUARES, FOUND, CLASSES[:2])
    widget = MaskPaste(IMAGE, SQUARES, FOUND, CLASSES)
    widget.chosen = 2
    assert "detection 2 is not in 0 ... 1" in widget.error
