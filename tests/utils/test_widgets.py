"""The Python side of the widgets: what they compute, and that mistakes are seen."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lessons.boxes import box_iou
from lessons.metrics import average_precision
from lessons.nms import nms
from lessons.proposals import selective_search_hierarchy
from utils.widgets import BoxPlayground, DetectionThreshold, HierarchyExplorer, NmsPlayer, PrecisionRecallExplorer
from utils.widgets.boxes import MEASURES, descend, pull
from utils.widgets.hierarchy import colour_regions
from utils.widgets.traces import nms_trace

IMAGE = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[0.0, 0, 20, 20], [2, 0, 22, 20], [40, 30, 60, 50], [41, 30, 61, 50]])
SCORES = torch.tensor([0.6, 0.9, 0.8, 0.3])


def test_numbers_are_those_of_the_library():
    widget = BoxPlayground(IMAGE, [0, 0, 20, 20], [10, 0, 30, 20])
    assert widget.values["IoU"] == pytest.approx(1 / 3)
    widget.box_b = [0, 0, 20, 20]
    assert widget.values == pytest.approx(dict.fromkeys(MEASURES, 1.0))
    assert widget.size == [80, 60]


def test_disjoint_boxes_are_pulled_by_all_but_iou():
    a, b = torch.tensor([0.0, 0, 20, 20]), torch.tensor([40.0, 30, 60, 50])
    assert pull(a, b, "IoU").abs().max() == 0
    for name in ("DIoU", "CIoU"):
        x1, y1, x2, y2 = pull(a, b, name).tolist()
        assert x1 + x2 < 0  # the centre goes left and up, towards A
        assert y1 + y2 < 0
    widget = BoxPlayground(IMAGE, a.tolist(), b.tolist(), measure="IoU")
    assert "nothing tells B where to go" in widget.message
    widget.measure = "GIoU"
    assert "pulls B" in widget.message


@pytest.mark.parametrize("measure", ["GIoU", "DIoU", "CIoU"])
def test_descent_arrives(measure):
    a, b = torch.tensor([0.0, 0, 20, 20]), torch.tensor([30.0, 25, 55, 40])
    for _ in range(300):
        b = descend(a, b, measure)
    assert box_iou(a[None], b[None]).item() > 0.75


def test_step_reset_and_presets():
    widget = BoxPlayground(IMAGE, [0, 0, 20, 20], [40, 30, 60, 50])
    start = list(widget.box_b)
    widget.steps += 1
    assert widget.box_b != start
    widget.preset = "start"
    assert widget.box_b == start
    assert widget.preset == ""  # so that the same button works again
    widget.preset = "nested"
    assert widget.values["GIoU"] == pytest.approx(widget.values["IoU"])


def test_an_error_is_shown_and_goes_away():
    widget = BoxPlayground(IMAGE, [0, 0, 20, 20], [10, 0, 30, 20])
    widget.box_b = [30, 0, 10, 20]
    assert widget.error.startswith("ValueError: box [30")
    widget.box_b = [10, 0, 30, 20]
    assert widget.error == ""


ROWS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 40), st.integers(1, 40)), max_size=20)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.floats(0, 1), st.randoms(use_true_random=False))
def test_the_trace_is_nms(rows, threshold, random):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64).reshape(-1, 4)
    scores = torch.tensor([random.randrange(8) / 8 for _ in rows], dtype=torch.float64)
    trace = nms_trace(boxes, scores, threshold)
    assert [step["kept"] for step in trace] == nms(boxes, scores, threshold).tolist()
    seen = [i for step in trace for i in [step["kept"], *(j for j, _ in step["suppressed"])]]
    assert sorted(seen) == list(range(len(rows)))  # every box is kept or suppressed exactly once
    assert all(overlap > threshold for step in trace for _, overlap in step["suppressed"])


def test_player_sorts_and_follows_its_sliders():
    widget = NmsPlayer(IMAGE, BOXES, SCORES, iou_threshold=0.5, step=2)
    assert widget.scores == pytest.approx([0.9, 0.8, 0.6, 0.3])
    assert widget.kept() == [0, 1]
    widget.iou_threshold = 1.0
    assert len(widget.trace) == 4
    widget.score_threshold = 0.7
    assert len(widget.trace) == 2
    with pytest.raises(ValueError, match="4 boxes with 3 scores"):
        NmsPlayer(IMAGE, BOXES, SCORES[:3])


def test_explorer_computes_the_librarys_average_and_flips():
    scores, matched = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, False])
    widget = PrecisionRecallExplorer(scores, matched, 3)
    for protocol, readings in (("voc07", 11), ("voc", 0), ("coco", 101)):
        widget.protocol = protocol
        assert widget.average == pytest.approx(average_precision(scores, matched, 3, protocol).item())
        assert len(widget.readings) == readings
    before = widget.average
    widget.flip = 1
    assert widget.matched == [True, True, True, False]
    assert widget.average > before
    widget.flip = 3
    assert "each can be found once" in widget.error
    assert widget.matched[3] is False


def test_merging_regions():
    hierarchy = selective_search_hierarchy(IMAGE)
    widget = HierarchyExplorer.from_hierarchy(IMAGE, hierarchy, stages=6)
    assert widget.captions[-1].startswith("1 regions")
    assert widget.boxes[0] == []
    assert widget.boxes[-1] == [0, 0, 80, 60]
    assert len(set(widget.frames)) == len(widget.frames)
    with pytest.raises(ValueError, match="1 label maps, 2 boxes"):
        HierarchyExplorer(IMAGE, [hierarchy.segments], [None, None], ["a"])
    painted = colour_regions(IMAGE, hierarchy.segments)
    assert painted.shape == IMAGE.shape
    assert 0 <= painted.min() <= painted.max() <= 1


FOUND = {"boxes": BOXES, "labels": torch.tensor([1, 2, 1, 2]), "scores": SCORES - 0.5}
WIDGETS = [lambda: BoxPlayground(IMAGE, [0, 0, 20, 20], [10, 0, 30, 20]), lambda: NmsPlayer(IMAGE, BOXES, SCORES),
           lambda: PrecisionRecallExplorer(SCORES, SCORES > 0.5, 3),
           lambda: HierarchyExplorer.from_hierarchy(IMAGE, selective_search_hierarchy(IMAGE)),
           lambda: DetectionThreshold(IMAGE, FOUND, ("background", "bird", "fish"), threshold=0.0)]


@pytest.mark.parametrize("make", WIDGETS)
def test_every_widget_has_a_still_picture_and_needs_no_network(make):
    widget = make()
    assert isinstance(widget.static(), Figure)
    assert "still picture" in repr(widget)
    assert "http" not in widget._esm.replace("http://www.w3.org/2000/svg", "")
    assert widget.error == ""


def test_a_picture_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"\(60, 80\): want \(3, H, W\)"):
        BoxPlayground(IMAGE[0], [0, 0, 20, 20], [10, 0, 30, 20])


def test_no_detections():
    empty = {key: value[:0] for key, value in FOUND.items()}
    assert isinstance(DetectionThreshold(IMAGE, empty, ("background",)).static(), Figure)
