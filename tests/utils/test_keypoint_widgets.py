"""The widgets on corner pooling and on triplets: their numbers are the library's, and empty cases have words."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lessons.boxes import box_iou
from lessons.corners import KeypointMaps, decode_corners, decode_triplets
from lessons.recipes.centernet import build
from utils.widgets import PoolingExplorer, TripletExplorer
from utils.widgets.pooling import POOLINGS, look, looks

IMAGE = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
MAP = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
CLASSES = ("background", "cat", "dog")
TARGET = {"boxes": torch.tensor([[8.0, 8, 40, 40], [48, 16, 88, 60]]), "labels": torch.tensor([1, 2])}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(POOLINGS)), st.integers(0, 11), st.integers(0, 7), st.integers(0, 5), st.integers(0, 99), st.booleans())
def test_the_looks_add_up_to_what_the_library_pools(pooling, column, row, step, seed, ties):
    values = torch.randn(8, 12, generator=torch.Generator().manual_seed(seed))
    widget = PoolingExplorer(IMAGE, values.round() if ties else values, stride=8)
    widget.pooling, widget.cell, widget.step = pooling, [column, row], step
    assert widget.error == ""
    assert sum(one["value"] for one in widget.looks) == pytest.approx(widget.result, abs=1e-9)
    assert len(widget.looks) == (4 if "cascade" in pooling else 2)
    assert widget.step == min(step, len(widget.looks))
    for one in widget.looks:
        (y1, x1), (y2, x2) = one["span"]
        y, x = one["found"]
        assert min(y1, y2) <= y <= max(y1, y2)
        assert min(x1, x2) <= x <= max(x1, x2)
        assert one["value"] == pytest.approx(widget._map[y, x].item())
    if pooling == "centre pooling":
        assert [one["span"] for one in widget.looks] == [[[row, 0], [row, 11]], [[0, column], [7, column]]]
    json.dumps([widget.looks, widget.veil], allow_nan=False)


def test_looks_by_hand():
    values = torch.tensor([[0.0, 5, 0], [1, 0, 7], [0, 2, 0]])
    found = looks(values, (0, 0), "cascade, top-left")
    assert [(one["value"], one["found"]) for one in found] == [(5, [0, 1]), (5, [0, 1]), (1, [1, 0]), (7, [1, 2])]
    assert look(torch.tensor([[1.0, 3, 3, 2]]), (0, 3), "right")["found"] == [0, 2]  # of equal ones the nearest
    assert look(torch.tensor([[1.0, 3, 3, 2]]), (0, 0), "left")["found"] == [0, 1]


def test_pooling_in_words_and_pictures():
    widget = PoolingExplorer(IMAGE, MAP, stride=8, cell=(2, 3))
    assert widget.message.startswith(f"The cell holds {MAP[3, 2]:.2f}. Next: along the row to the right")
    widget.step = 1
    assert widget.message.startswith(f"Along the row to the right the largest value is {MAP[3, 2:].max():.2f}")
    widget.step = 2
    assert f"= {widget.result:.2f}" in widget.message
    assert isinstance(widget.static(), Figure)
    widget.cell = [12, 0]
    assert widget.error == "ValueError: cell [12, 0] lies outside the map of 12 x 8 cells."
    widget.cell = [0, 0]
    assert widget.error == ""
    with pytest.raises(ValueError, match=r"feature_map of shape \(2, 3, 4\)"):
        PoolingExplorer(IMAGE, torch.zeros(2, 3, 4))
    assert isinstance(PoolingExplorer(IMAGE, torch.zeros(1, 1)).static(), Figure)


def random_maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {kind: KeypointMaps(torch.rand(1, 2, 16, 24, generator=generator), torch.rand(1, 2, 16, 24, generator=generator),
                               None if kind == "centre" else 2 * torch.rand(1, 1, 16, 24, generator=generator))
            for kind in ("top_left", "bottom_right", "centre")}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 50), st.floats(0, 2), st.floats(0, 1), st.booleans())
def test_pairs_and_their_verdicts_are_the_librarys(seed, distance, lowest, central):
    maps = random_maps(seed)
    widget = TripletExplorer(IMAGE, maps, TARGET, CLASSES, large=20.0)
    widget.distance, widget.lowest, widget.central = distance, lowest, central
    assert widget.error == ""
    corners = maps["top_left"], maps["bottom_right"]
    (pairs,), (triplets,) = decode_corners(*corners, 70, distance), decode_triplets(*corners, maps["centre"], 70, distance, 5.0)

    def key(box, label):
        return (*box, label)

    confirmed = {key(b, n) for b, n in zip(triplets["boxes"].tolist(), triplets["labels"].tolist(), strict=True)}
    expected = []
    for box, label, score in zip(pairs["boxes"], pairs["labels"].tolist(), pairs["scores"], strict=True):
        if score >= lowest:
            overlap = box_iou(TARGET["boxes"], box[None] * 4)[:, 0]
            right = any(o >= 0.5 and n == label + 1 for o, n in zip(overlap, TARGET["labels"], strict=True))
            expected.append((right, key(box.tolist(), label) in confirmed))
    assert [(one["right"], one["kept"]) for one in widget.pairs] == expected[:60]
    assert widget.counts["right kept"] == expected.count((True, True))
    assert widget.counts["wrong rejected"] == expected.count((False, False))
    json.dumps([widget.pairs, widget.keypoints], allow_nan=False)


def test_triplets_in_words_and_pictures():
    widget = TripletExplorer(IMAGE, random_maps(), TARGET, CLASSES)
    assert "Corners alone make" in widget.message
    assert "A centre in the middle" not in widget.message
    assert isinstance(widget.static(), Figure)
    widget.central = True
    assert "A centre in the middle keeps" in widget.message
    before = widget.message
    widget.chosen = 1
    assert widget.message != before
    widget.lowest = 1.0
    assert widget.message == "No pair of corners: raise the difference of tags, or lower the lowest score."
    assert widget.chosen == 0
    assert isinstance(widget.static(), Figure)
    with pytest.raises(ValueError, match="maps of top_left: want top_left, bottom_right, centre"):
        TripletExplorer(IMAGE, {"top_left": random_maps()["top_left"]}, TARGET, CLASSES)


def test_a_detectors_own_maps():
    detector = build().eval()
    widget = TripletExplorer.from_detector(detector, torch.rand(3, 160, 160, generator=torch.Generator().manual_seed(2)), TARGET, CLASSES + ("a", "b", "c", "d"))
    widget.lowest, widget.distance = 0.0, 3.0
    assert widget.error == ""
    assert widget.truth == TARGET["boxes"].tolist()
