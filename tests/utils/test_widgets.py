"""The Python side of the widgets: what they compute, and that mistakes are seen."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lessons.boxes import box_iou
from lessons.metrics import average_precision, precision_recall
from lessons.nms import batched_nms, nms
from lessons.proposals import selective_search_hierarchy
from utils.widgets import BoxPlayground, DetectionThreshold, HierarchyExplorer, NmsPlayer, PrecisionRecallExplorer
from utils.widgets.base import decimals, slider_range
from utils.widgets.boxes import MEASURES, PRESETS, descend, preset_box, pull
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
@pytest.mark.parametrize("start", [(30, 25, 55, 40), (20, 0, 40, 20), (1, 1, 4, 60), (5, 5, 9, 9)])
def test_descent_arrives(measure, start):
    a, b = torch.tensor([0.0, 0, 20, 20]), torch.tensor(start, dtype=torch.float32)
    for _ in range(200):
        b = descend(a, b, measure)
    assert box_iou(a[None], b[None]).item() > 0.99


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("preset", PRESETS)
def test_descent_from_each_preset_ends_at_the_best_value(measure, preset):
    """181 steps were once not enough, for a constant step jumps about the target."""
    ends = []
    for _ in range(2):
        widget = BoxPlayground(IMAGE, [10, 10, 38, 34], [20, 20, 40, 40], measure=measure)
        widget.preset = preset
        best = 0 if measure == "IoU" and widget.values["IoU"] == 0 else 1  # IoU has no gradient where it is 0
        while not widget.at_rest and widget.steps < 181:
            widget.steps += 1
        assert widget.error == ""
        assert widget.at_rest
        if (preset, measure) != ("touching", "IoU"):  # where max(0, x) bends, versions of torch choose a slope
            assert widget.values[measure] == pytest.approx(best, abs=2e-3)
        ends.append(widget.box_b)
    assert ends[0] == ends[1]


POINT, LINE = [10, 10, 10, 10], [10, 5, 10, 25]


@pytest.mark.parametrize(("a", "b", "undefined"), [(POINT, POINT, list(MEASURES)), (LINE, LINE, list(MEASURES)), (LINE, POINT, list(MEASURES)),
                                                   ([0, 0, 20, 20], POINT, ["CIoU"]), ([0, 0, 20, 20], LINE, [])])
def test_boxes_without_area_have_words_and_no_nan(a, b, undefined):
    widget = BoxPlayground(IMAGE, a, b, measure="CIoU")
    assert [name for name, value in widget.values.items() if value is None] == undefined
    assert widget.error == ""
    assert "no area" in widget.message
    assert ("not defined" in widget.message) == bool(undefined)
    assert widget.pull == [0, 0, 0, 0]
    widget.steps += 1
    assert widget.box_b == b
    json.dumps(widget.get_state(["values", "pull", "message"]), allow_nan=False)  # NaN is not JSON
    assert isinstance(widget.static(), Figure)


def test_descent_of_iou_stays_where_there_is_no_gradient():
    a, b = torch.tensor([0.0, 0, 20, 20]), torch.tensor([30.0, 25, 55, 40])
    assert descend(a, b, "IoU").equal(b)


def test_play_ends_at_rest():
    widget = BoxPlayground(IMAGE, [20, 20, 40, 40], [50, 30, 70, 50], measure="DIoU")
    assert not widget.at_rest
    for _ in range(200):
        widget.steps += 1
        if widget.at_rest:
            break
    assert widget.at_rest
    assert widget.values["IoU"] > 0.99
    assert "where it wants to be" in widget.message
    widget.preset = "disjoint"
    assert not widget.at_rest
    widget.measure = "IoU"
    assert widget.at_rest  # for want of a gradient


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(PRESETS)), st.integers(0, 76), st.integers(0, 56), st.integers(4, 40), st.integers(4, 30))
def test_presets_stay_in_the_picture(name, x, y, w, h):
    a = [x, y, min(x + w, 80), min(y + h, 60)]
    b = preset_box(name, a, (80, 60))
    assert 0 <= b[0] < b[2] <= 80
    assert 0 <= b[1] < b[3] <= 60
    if name in ("disjoint", "touching"):
        assert box_iou(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)).item() == 0


@pytest.mark.parametrize("box", [[1, 2, 3], [9, 0, 5, 5], [0, 0, float("nan"), 5]])
def test_a_malformed_box_is_named(box):
    with pytest.raises(ValueError, match=r"box \[.*want four finite numbers"):
        BoxPlayground(IMAGE, [0, 0, 20, 20], box)


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
    widget.box_a = [0, 0, 80, 60]
    widget.preset = "disjoint"
    assert "leaves no room for a disjoint box B" in widget.error
    assert widget.preset == ""


def test_all_that_a_change_brings_about_reaches_the_page_in_one_message(monkeypatch):
    """Otherwise a reader sees a new number beside an old sentence, for as long as Python takes."""
    widget = BoxPlayground(IMAGE, [0, 0, 20, 20], [10, 0, 30, 20])
    sent = []
    monkeypatch.setattr(widget, "_send", lambda message, buffers=None: sent.append(message))
    for change, answers in (({"box_b": [40.0, 30, 60, 50]}, {"values", "pull", "message"}),
                            ({"preset": "touching"}, {"preset", "box_b", "values", "pull", "message"}),
                            ({"box_b": [30.0, 0, 10, 20]}, {"error"})):
        sent.clear()
        widget.set_state(change)  # as when it comes from the page
        (update,) = (message["state"] for message in sent if message["method"] == "update")
        assert answers <= update.keys()
    widget.set_state({"box_b": [40.0, 30, 60, 50]})
    assert widget.error == ""


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


@settings(max_examples=60, deadline=None)
@given(ROWS, st.floats(0, 1), st.randoms(use_true_random=False))
def test_the_trace_inside_classes_is_batched_nms(rows, threshold, random):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float64).reshape(-1, 4)
    scores = torch.tensor([random.randrange(8) / 8 for _ in rows], dtype=torch.float64)
    labels = torch.tensor([random.randrange(3) for _ in rows], dtype=torch.int64)
    trace = nms_trace(boxes, scores, threshold, labels)
    assert [step["kept"] for step in trace] == batched_nms(boxes, scores, labels, threshold).tolist()
    assert all(labels[j] == labels[step["kept"]] for step in trace for j, _ in step["suppressed"])


@pytest.mark.parametrize("labels", [torch.tensor([1, 2, 1, 1]), ["cat", "dog", "cat", "cat"]])
def test_player_with_classes_suppresses_inside_a_class_only(labels):
    assert len(NmsPlayer(IMAGE, BOXES, SCORES).trace) == 2
    widget = NmsPlayer(IMAGE, BOXES, SCORES, labels=labels)
    assert [step["kept"] for step in widget.trace] == [0, 1, 2]  # 0 and 2 overlap, a dog and a cat
    assert widget.names == ([f"class {i}" for i in (2, 1, 1, 1)] if isinstance(labels, torch.Tensor) else ["dog", "cat", "cat", "cat"])
    assert len(set(widget.colours)) == 2
    assert widget.colours[1] == widget.colours[2] == widget.colours[3]
    assert isinstance(widget.static(), Figure)
    with pytest.raises(ValueError, match="4 boxes with 3 labels"):
        NmsPlayer(IMAGE, BOXES, SCORES, labels=labels[:3])


def test_the_lowest_score_of_all_takes_part_and_none_above_the_highest():
    widget = NmsPlayer(IMAGE, BOXES, torch.tensor([0.1, 0.7, 0.3, 0.2]), iou_threshold=1.0)
    assert len(widget.trace) == 4
    widget.score_threshold = 0.7  # 0.7 in float32 is a little less than 0.7
    assert len(widget.trace) == 1
    widget.score_threshold = widget.highest
    assert widget.trace == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_scores_become_the_numbers_one_reads(dtype):
    assert decimals(torch.tensor([0.7, 0.3, 2.5, -1.0, 0.0], dtype=dtype)) == [0.7, 0.3, 2.5, -1.0, 0.0]
    scores = torch.rand(50, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.tensor(decimals(scores), dtype=dtype).equal(scores)
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="is not finite"):
            decimals(torch.tensor([0.5, wrong]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4).map(lambda value: round(value, 3)), min_size=1, max_size=9))
def test_a_slider_spans_its_scores(values):
    ends = slider_range(values)
    low, high, step = ends["lowest"], ends["highest"], ends["score_step"]
    assert low <= min(values) + 1e-6 * step
    assert min(values) - low < 1.001 * step
    assert max(values) < high
    assert high - max(values) < 1.001 * step
    steps = (high - low) / step
    assert abs(steps - round(steps)) < 1e-3  # the end can be reached
    assert steps <= 320


def test_a_score_equal_to_the_threshold_counts():
    scores, matched = torch.tensor([0.9, 0.7, 0.3]), torch.tensor([True, True, False])
    widget = PrecisionRecallExplorer(scores, matched, 3, threshold=0.7)
    assert widget.scores == [0.9, 0.7, 0.3]
    assert widget.shown() == 2
    margins = PrecisionRecallExplorer(torch.tensor([3.0, -2.0]), matched[:2], 3, threshold=0.0)
    assert margins.lowest <= -2
    assert margins.highest > 3


def test_explorer_counts_as_the_library():
    generator = torch.Generator().manual_seed(1)
    scores, matched = torch.rand(30, generator=generator), torch.rand(30, generator=generator) > 0.5
    widget = PrecisionRecallExplorer(scores, matched, 40)
    precision, recall = precision_recall(scores, matched, 40)
    ranked = matched[scores.argsort(descending=True)]
    assert widget.counts[0] == {"tp": 0, "fp": 0, "fn": 40, "precision": None, "recall": 0}
    for seen in range(1, 31):
        right = int(ranked[:seen].sum())
        assert widget.counts[seen] == {"tp": right, "fp": seen - right, "fn": 40 - right,
                                       "precision": precision[seen - 1].item(), "recall": recall[seen - 1].item()}
    widget.flip = 0
    assert widget.counts[1]["tp"] == 1 - int(ranked[0])


@pytest.mark.parametrize("protocol", ["voc07", "voc", "coco"])
def test_no_objects_have_words_and_no_nan(protocol):
    widget = PrecisionRecallExplorer(torch.tensor([0.9, 0.8]), torch.tensor([False, False]), 0, protocol=protocol)
    assert widget.error == ""
    assert widget.message.startswith("There are no objects")
    assert widget.average is None
    assert widget.counts[2] == {"tp": 0, "fp": 2, "fn": 0, "precision": 0, "recall": None}
    json.dumps(widget.get_state(["precision", "recall", "readings", "counts", "average"]), allow_nan=False)
    assert isinstance(widget.static(), Figure)
    nothing = PrecisionRecallExplorer(torch.zeros(0), torch.zeros(0, dtype=torch.bool), 3, protocol=protocol)
    assert nothing.average == 0
    assert isinstance(nothing.static(), Figure)


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


def test_merging_without_boxes_and_captions():
    maps = [torch.zeros(60, 80, dtype=torch.int64), torch.ones(60, 80, dtype=torch.int64)]
    widget = HierarchyExplorer(IMAGE, maps)
    assert widget.captions == ["stage 1 of 2", "stage 2 of 2"]
    assert widget.boxes == [[], []]
    assert isinstance(widget.static(), Figure)
    assert HierarchyExplorer(IMAGE, maps, captions=["a", "b"]).captions == ["a", "b"]
    assert HierarchyExplorer(IMAGE, maps, [None, [0, 0, 9, 9]]).boxes == [[], [0, 0, 9, 9]]
    with pytest.raises(ValueError, match="0 label maps"):
        HierarchyExplorer(IMAGE, [])


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


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_without_a_name_is_named(label):
    wrong = FOUND | {"labels": torch.tensor([1, 2, label, 2])}
    with pytest.raises(ValueError, match=f"label {label} has no name: there are 3 names"):
        DetectionThreshold(IMAGE, wrong, ("background", "bird", "fish"))


def test_no_detections():
    empty = {key: value[:0] for key, value in FOUND.items()}
    assert isinstance(DetectionThreshold(IMAGE, empty, ("background",)).static(), Figure)
