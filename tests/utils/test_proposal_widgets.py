"""The widgets on anchors, proposals and pyramid levels: their numbers are the library's, and empty cases have words."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lessons.anchors import anchor_grid
from lessons.backbones.resnet import BasicBlock, ResNet
from lessons.boxes import box_iou
from lessons.detectors.fast_rcnn import FastRCNNHead
from lessons.detectors.faster_rcnn import FasterRCNN, RegionProposalNetwork
from lessons.images import ImagePreparation
from lessons.matching import match_boxes
from lessons.proposals import proposal_recall
from lessons.roi import pyramid_levels
from utils.widgets import AnchorExplorer, LevelExplorer, ProposalExplorer
from utils.widgets.anchors import MOST, RATIOS
from utils.widgets.levels import covered_cells

IMAGE = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
TRUTH = torch.tensor([[10.0, 8, 42, 40], [50, 20, 60, 29], [70, 2, 90, 60]])
NAMES = ["bird", "cherry", "bottle"]


def explorer(**options):
    return AnchorExplorer(IMAGE, TRUTH, NAMES, **options)


def loop_counts(widget):
    """Positive, ignored and negative anchors, one anchor at a time."""
    anchors = anchor_grid((math.ceil(64 / int(widget.stride)), math.ceil(96 / int(widget.stride))), int(widget.stride),
                          widget.sizes, [RATIOS[name] for name in widget.ratios])
    overlap = box_iou(torch.tensor(widget.truth), anchors)
    counts = {"positive": 0, "ignored": 0, "negative": 0}
    for column in overlap.T:
        is_best = widget.best_rule and any(column[g] == overlap[g].max() for g in range(len(overlap)))
        best = column.max()
        counts["positive" if best >= widget.high or is_best else "negative" if best < widget.low else "ignored"] += 1
    return counts


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["8", "16", "32"]), st.lists(st.sampled_from([16, 32, 64, 128]), min_size=1, unique=True),
       st.lists(st.sampled_from(sorted(RATIOS)), min_size=1, unique=True), st.integers(0, 20), st.integers(0, 20),
       st.booleans())
def test_anchors_are_counted_as_one_by_one(stride, sizes, ratios, one, other, rule):
    low, high = sorted((one / 20, other / 20))
    widget = explorer(stride=int(stride), sizes=sizes, ratios=ratios, high=high, low=low, best_rule=rule)
    assert widget.error == ""
    assert widget.state["counts"] == loop_counts(widget)
    assert len(widget.state["cells"]) == math.prod(widget.state["grid"])
    for kind, boxes in widget.state["boxes"].items():
        assert len(boxes) == min(MOST, widget.state["counts"][kind])
    json.dumps(widget.state, allow_nan=False)


def test_anchors_follow_thresholds_and_rule():
    widget = explorer()
    assert widget.state["counts"]["positive"] >= widget.state["rescued"] > 0
    assert "cherry" in widget.message
    assert "all the same" in widget.message
    widget.best_rule = False
    assert widget.state["rescued"] == 0
    assert "learnt by no anchor" in widget.message
    assert next(row for row in widget.state["objects"] if row["name"] == "cherry")["anchors"] == 0
    before = widget.state["counts"]["positive"]
    widget.high, widget.low = 0.3, 0.3
    assert widget.state["counts"]["ignored"] == 0
    assert widget.state["counts"]["positive"] > before
    widget.sizes, widget.ratios, widget.stride = [8, 32], ["square"], "4"
    assert sum(widget.state["counts"].values()) == 16 * 24 * 2


def test_the_best_iou_of_each_object_is_the_librarys():
    widget = explorer(stride=8, sizes=[32], ratios=["square", "tall"])
    overlap = box_iou(TRUTH, anchor_grid((8, 12), 8, [32], [1.0, 2.0]))
    assert [row["best"] for row in widget.state["objects"]] == pytest.approx(overlap.amax(dim=1).tolist())
    matches = match_boxes(overlap, 0.7, 0.3, True)
    assert [row["anchors"] for row in widget.state["objects"]] == [int((matches == g).sum()) for g in range(3)]


def test_a_cell_shows_the_highest_kind_of_its_anchors():
    widget = explorer(stride=32, sizes=[32], ratios=["square", "wide"])
    overlap = box_iou(TRUTH, anchor_grid((2, 3), 32, [32], [1.0, 0.5]))
    matches = match_boxes(overlap, 0.7, 0.3, True).reshape(6, 2)
    expected = [2 if (row >= 0).any() else 1 if (row == -2).any() else 0 for row in matches]
    assert widget.state["cells"] == expected


def test_anchor_words_in_empty_cases_and_mistakes():
    nothing = AnchorExplorer(IMAGE, torch.zeros(0, 4), [])
    assert nothing.message == "There is no object: every anchor is negative."
    assert nothing.state["counts"] == {"negative": 4 * 6 * 6, "ignored": 0, "positive": 0}
    assert isinstance(nothing.static(), Figure)
    widget = explorer()
    widget.sizes = []
    assert widget.message == "No anchor: choose at least one size and one shape."
    assert widget.error == ""
    assert isinstance(widget.static(), Figure)
    widget.sizes = [32]
    widget.low = 0.9
    assert widget.error == "ValueError: the lower threshold 0.90 is above the upper one 0.70."
    with pytest.raises(ValueError, match="3 boxes with 1 names"):
        AnchorExplorer(IMAGE, TRUTH, ["bird"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 95), st.integers(0, 63), st.integers(0, 96), st.integers(0, 64),
       st.sampled_from([4, 8, 16, 32]))
def test_covered_cells_are_those_that_the_box_touches(x, y, width, height, stride):
    box = [x, y, min(x + width, 96), min(y + height, 64)]
    left, top, right, bottom = covered_cells(box, stride, (96, 64))
    touched = [[i for i in range(size // stride) if box[axis] < (i + 1) * stride and box[axis + 2] > i * stride]
               for axis, size in ((0, 96), (1, 64))]
    for (first, last), cells, start in (((left, right), touched[0], box[0]), ((top, bottom), touched[1], box[1])):
        assert list(range(first, last)) == (cells or [start // stride])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 40), st.integers(1, 36), st.integers(1, 24), st.integers(16, 448))
def test_the_level_is_the_one_that_pools(x, y, width, height, canonical):
    widget = LevelExplorer(IMAGE, [x, y, x + width, y + height], canonical_size=canonical)
    level = pyramid_levels(torch.tensor([[x, y, x + width, y + height]], dtype=torch.float64), (4, 8, 16, 32), canonical)
    assert widget.level == f"P{int(level) + 2}"
    assert [row["chosen"] for row in widget.levels].index(True) == int(level)
    exact = math.floor(4 + math.log2(math.sqrt(width * height) / canonical) + 1e-6)
    assert f"= {exact}".replace("-", "−") in widget.equation
    assert ("limited to" in widget.equation) == (exact not in (2, 3, 4, 5))


def test_the_equation_has_the_numbers_in_it():
    widget = LevelExplorer(IMAGE, [0, 0, 64, 64], canonical_size=64)
    assert widget.equation == "k = ⌊4 + log₂(√(64 · 64) / 64)⌋ = ⌊4 + log₂(64.0 / 64)⌋ = ⌊4.00⌋ = 4"
    assert widget.message == "The box goes to P4, stride 16: it touches 4 × 4 cells there."
    widget.box = [0, 0, 32, 32]
    assert widget.level == "P3"
    widget.canonical_size = 448
    assert widget.equation.endswith("⌊0.19⌋ = 0, limited to P2")
    widget.box = [5, 5, 5, 9]
    assert "no area" in widget.equation
    assert widget.level == "P2"
    widget.box = [9, 0, 5, 5]
    assert "want four finite numbers" in widget.error
    with pytest.raises(ValueError, match=r"strides \[4, 16\]"):
        LevelExplorer(IMAGE, [0, 0, 9, 9], strides=(4, 16))


def proposals_widget(**options):
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(40, 2, generator=generator) * torch.tensor([70.0, 40])
    boxes = torch.cat([corner, corner + 6 + 20 * torch.rand(40, 2, generator=generator)], dim=1)
    boxes = torch.cat([boxes[:9], TRUTH[:1] + 2, boxes[9:], TRUTH])
    return boxes, ProposalExplorer(IMAGE, boxes, {"32 px square": torch.rand(8, 12, generator=generator)}, TRUTH, **options)


@pytest.mark.parametrize("threshold", ["0.5", "0.7"])
def test_recall_is_the_librarys_for_every_number(threshold):
    boxes, widget = proposals_widget()
    expected = proposal_recall([boxes], [TRUTH], range(len(boxes) + 1), float(threshold))
    torch.testing.assert_close(torch.tensor(widget.recall[threshold]) / 3, expected)
    for box, rank in zip(TRUTH, widget.first[threshold], strict=True):
        hits = box_iou(box[None], boxes)[0] >= float(threshold)
        assert rank == int(hits.nonzero()[0])
    widget.kept, widget.iou_threshold = len(boxes), threshold
    assert widget.shown() == (3, 3)


def test_proposals_in_empty_cases():
    _, widget = proposals_widget(kept=1000)
    assert widget.kept == 44
    nothing = ProposalExplorer(IMAGE, torch.zeros(0, 4), {}, TRUTH)
    assert nothing.recall == {"0.5": [0], "0.7": [0]}
    assert nothing.first == {"0.5": [0] * 3, "0.7": [0] * 3}
    assert isinstance(nothing.static(), Figure)
    nobody = ProposalExplorer(IMAGE, TRUTH, {}, torch.zeros(0, 4))
    assert nobody.recall["0.5"] == [0, 0, 0, 0]
    assert isinstance(nobody.static(), Figure)


class LastMap(ResNet):
    """The map of stride 8 alone."""

    def forward(self, images):
        return super().forward(images)[1:2]


def tiny_detector(divisor):
    torch.manual_seed(0)
    backbone = LastMap(BasicBlock, (1, 1, 1, 1), widths=(4, 8, 8, 8))
    rpn = RegionProposalNetwork(8, [(16, 32)])
    return FasterRCNN(backbone, rpn, FastRCNNHead(8, 3, (8,), hidden=8), ImagePreparation((64,), 200, divisor=divisor)).eval()


@pytest.mark.parametrize("divisor", [32, 64])
def test_heat_maps_are_the_networks_objectness(divisor):
    detector = tiny_detector(divisor)
    widget = ProposalExplorer.from_detector(detector, IMAGE, TRUTH)
    assert list(widget.heats) == [f"{side} px {name}" for name in ("wide", "square", "tall") for side in (16, 32)]
    with torch.no_grad():
        batch, _ = detector.prepare([IMAGE])
        features = detector.backbone(batch.pixels)
        objectness = detector.rpn.predict(features)[0][0].sigmoid()
        proposals = detector.rpn(features, batch)[0][0]
    anchors = torch.cat(detector.rpn.anchors(features, batch))
    index = int((anchors == torch.tensor([40 - 16.0, 24 - 16, 40 + 16, 24 + 16])).all(dim=1).nonzero())  # row 3, column 5
    assert widget._heats["32 px square"].shape == (8, 12)  # without what was added to fill the batch
    assert widget._heats["32 px square"][3, 5] == pytest.approx(objectness[index].item())
    torch.testing.assert_close(torch.tensor(widget.proposals), proposals)
    assert isinstance(widget.static(), Figure)


@pytest.mark.parametrize("make", [explorer, lambda: LevelExplorer(IMAGE, [4, 4, 50, 50]), lambda: proposals_widget()[1]])
def test_every_widget_has_a_still_picture_needs_no_network_and_starts_complete(make):
    widget = make()
    assert isinstance(widget.static(), Figure)
    assert "still picture" in repr(widget)
    assert "http" not in widget._esm.replace("http://www.w3.org/2000/svg", "")
    assert widget.error == ""
    json.dumps(widget.get_state([key for key in widget.keys if not key.startswith("_") and key not in ("layout", "tabbable", "tooltip")]),
               allow_nan=False)
