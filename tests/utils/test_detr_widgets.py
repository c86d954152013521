"""The widgets of the DETR lesson: their numbers are the library's or counted by hand, and odd cases have words."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lessons.backbones.resnet import LastStage, small_resnet
from lessons.detectors.detr import DETR, Transformer, in_parts
from lessons.images import ImagePreparation
from lessons.losses import detr_matching_cost
from lessons.order import seeded
from utils.widgets import AttentionExplorer, MatchingExplorer, QueryExplorer
from utils.widgets.matching import greedy_match
from utils.widgets.queries import KINDS, kinds_of

CLASSES = ("background", "cat", "dog")
QUERIES = 6
IMAGE = torch.rand(3, 60, 100, generator=torch.Generator().manual_seed(0))
TARGET = {"boxes": torch.tensor([[8.0, 8, 40, 40], [48, 16, 88, 56], [4, 40, 30, 58]]), "labels": torch.tensor([1, 2, 1])}


@pytest.fixture(scope="module")
def model():
    """A DETR of 2 encoder and 3 decoder layers, on cells of 16 of its pixels; a picture of 60 x 100 has 3.75 x 6.25."""
    with seeded(0):
        body = LastStage(small_resnet((1, 2, 2, 1)))
        return DETR(body, Transformer(32, 4, 2, 3, 32, 0.0), len(CLASSES), ImagePreparation((60,), 120), QUERIES).eval()


@pytest.fixture(scope="module")
def explorer(model):
    return AttentionExplorer(model, IMAGE, CLASSES)


def said(seed=0, queries=QUERIES):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(queries, 4, generator=generator), 0.1 + 0.5 * torch.rand(queries, 4, generator=generator)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 7), st.lists(st.sampled_from((0.0, 0.5, 1.0, 3.0)), min_size=3, max_size=3))
def test_the_costs_and_the_matching_are_the_librarys(seed, queries, weights):
    logits, boxes = said(seed, queries)
    widget = MatchingExplorer(IMAGE, logits, boxes, TARGET, CLASSES)
    widget.class_weight, widget.l1_weight, widget.giou_weight = weights
    truth = in_parts(TARGET["boxes"], (60, 100))
    expected = detr_matching_cost(logits, boxes, TARGET["labels"], truth, tuple(weights)).double()
    torch.testing.assert_close(widget.cost(), expected, atol=1e-5, rtol=1e-5)
    few = min(queries, 3)
    least = min(sum(expected[q, g].item() for q, g in zip(rows, columns, strict=True))
                for rows in itertools.permutations(range(queries), few) for columns in itertools.combinations(range(3), few))
    assert widget.totals["hungarian"] == pytest.approx(least, abs=1e-4)
    assert widget.totals["greedy"] >= widget.totals["hungarian"] - 1e-9
    assert [[round(cell["value"], 4) for cell in row] for row in widget.cells] == [[round(v, 4) for v in row] for row in widget.cost().tolist()]
    for column in range(3):
        assert set(widget.cost()[:, column].topk(few, largest=False).indices.tolist()) <= set(widget.candidates)
    assert {query for query, _ in widget.pairs} <= set(widget.candidates)
    json.dumps([widget.cells, widget.pairs, widget.objects, widget.queries], allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 6))
def test_greedy_takes_the_cheapest_pair_that_is_left(seed, queries, objects):
    cost = torch.randn(queries, objects, generator=torch.Generator().manual_seed(seed))
    taken = []
    for query, column in sorted(itertools.product(range(queries), range(objects)), key=lambda pair: cost[pair].item()):
        if all(query != q and column != c for q, c in taken):
            taken.append((query, column))
    assert greedy_match(cost) == sorted(taken)


def test_both_ways_of_matching_in_words_and_pictures():
    logits, boxes = said()
    widget = MatchingExplorer(IMAGE, logits, boxes, {key: value[:2] for key, value in TARGET.items()}, CLASSES)
    assert isinstance(widget.static(), Figure)
    widget._costs = {"class": torch.tensor([[-3.0, -2.0], [-2.0, 7.0]]), "L1": torch.zeros(2, 2), "GIoU": torch.zeros(2, 2)}
    widget.class_weight = 2.0
    assert widget.pairs == [(0, 1), (1, 0)]
    assert widget.others == [(0, 0), (1, 1)]
    assert widget.message == "Hungarian: −8.00 in all, greedy: 8.00. They differ at objects 1, 2."
    widget.cell = [1, 0]
    assert widget.equation.replace("\u00a0", " ").endswith("for 1 cat: 2 · (−2.00) + 5 · 0.00 + 2 · 0.00 = −4.00")
    assert isinstance(widget.static(), Figure)
    widget.method = "greedy"
    assert (widget.pairs, widget.others) == ([(0, 0), (1, 1)], [(0, 1), (1, 0)])
    widget.part = "L1"
    assert {cell["value"] for row in widget.cells for cell in row} == {0.0}
    widget.cell = [2, 0]
    assert widget.error == "ValueError: cell [2, 0] lies outside the table of 2 x 2."
    widget.l1_weight = 1.0  # something else must not hide it
    assert "cell [2, 0]" in widget.error
    widget.cell = [0, 0]
    assert widget.error == ""


def test_matching_refuses_what_cannot_be_matched(model):
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    with pytest.raises(ValueError, match="without objects has nothing to match"):
        MatchingExplorer(IMAGE, *said(), nothing, CLASSES)
    with pytest.raises(ValueError, match="boxes"):
        MatchingExplorer(IMAGE, said()[0], torch.rand(3, 4), TARGET, CLASSES)
    for layer in (0, -1):
        widget = MatchingExplorer.from_detector(model, IMAGE, TARGET, CLASSES, layer)
        prediction = model.predict(model.prepare([IMAGE])[0])
        again = MatchingExplorer(IMAGE, prediction.logits[layer, 0], prediction.boxes[layer, 0], TARGET, CLASSES)
        torch.testing.assert_close(widget.cost(), again.cost())
    assert isinstance(MatchingExplorer(IMAGE, *said(queries=2), TARGET, CLASSES).static(), Figure)  # fewer than objects


def test_attention_is_the_models_own_row(model):
    widget = AttentionExplorer(model, IMAGE, CLASSES, threshold=0.0)
    assert (widget.grid, len(widget.objects), widget.error) == ([7, 4], QUERIES, "")
    with torch.no_grad():
        prediction = model.predict(model.prepare([IMAGE])[0], need_weights=True)
    assert prediction.padding.shape[1:] == (4, 8)  # the last column is padding
    for layer, head, cell in ((1, "mean", [0, 0]), (2, "3", [6, 3]), (1, "1", [2, 1])):
        widget.layer, widget.head, widget.cell = layer, head, cell
        table = prediction.encoder_attention[layer - 1][0]
        row = (table.mean(dim=0) if head == "mean" else table[int(head) - 1])[cell[1] * 8 + cell[0]].view(4, 8)
        torch.testing.assert_close(widget.row(), row[:, :7])
        assert row[:, 7].abs().max() == 0
    widget.chosen, widget.layer, widget.head = 2, 3, "4"
    assert (widget.kind, widget.layers) == ("decoder", 3)
    row = prediction.decoder_attention[2][0, 3, widget.objects[2]["query"]].view(4, 8)
    torch.testing.assert_close(widget.row(), row[:, :7])
    assert widget.row().sum() == pytest.approx(1, abs=1e-5)
    assert widget.largest == pytest.approx(row.max().item())
    widget.cell = [3, 3]  # back to the encoder, which has two layers
    assert (widget.kind, widget.layer, widget.layers) == ("encoder", 2, 2)
    (detections,) = model([IMAGE])
    assert [one["score"] for one in widget.objects] == pytest.approx(sorted(detections["scores"].tolist(), reverse=True))
    json.dumps([widget.objects, widget.veils, widget.cell_size], allow_nan=False)
    assert len(json.dumps(widget.veils)) < 4000  # of a page that redraws at every key


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-10, 110), min_size=4, max_size=4))
def test_what_a_box_covers_is_counted_pixel_by_pixel(explorer, box):
    x1, y1, x2, y2 = min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])
    pixels = torch.zeros(64, 112)
    pixels[max(y1, 0):max(y2, 0), max(x1, 0):max(x2, 0)] = 1
    expected = pixels.view(4, 16, 7, 16).mean(dim=(1, 3))
    torch.testing.assert_close(explorer.inside([x1, y1, x2, y2]), expected)


def test_attention_in_words_and_pictures(model):
    widget = AttentionExplorer(model, IMAGE, CLASSES, threshold=0.0)
    widget._tables = {kind: [torch.ones_like(table) / 28 for table in tables] for kind, tables in widget._tables.items()}
    widget.objects = [{"query": 4, "name": "dog", "score": 0.9, "box": [16.0, 0, 64, 32], "colour": "#0072B2"}]
    widget.chosen = 0
    widget.kind = "decoder"
    assert widget.message.startswith("Decoder, layer 2, mean of the heads. Query 4, dog 0.90: 21% of the attention")
    assert "which covers 21% of the picture" in widget.message
    widget.cell = [1, 1]
    assert "From column 1, row 1: 21% of the attention falls into the box of dog" in widget.message
    widget.cell = [6, 3]
    assert "in no detected box: most, 4%, goes to column 0, row 0; 3.6% each would be even" in widget.message
    assert isinstance(widget.static(), Figure)
    for trait, wrong, right, words in (("cell", [7, 0], [0, 0], "cell [7, 0] lies outside the map of 7 x 4 cells"),
                                       ("head", "9", "mean", "head '9': want one of mean, 1, 2, 3, 4"),
                                       ("chosen", 5, 0, "object 5 of 1")):
        setattr(widget, trait, wrong)
        assert words in widget.error
        setattr(widget, trait, right)
        assert widget.error == ""
    widget.layer = 99
    assert (widget.layer, widget.error) == (3, "")


def test_attention_without_objects_and_in_training(model):
    widget = AttentionExplorer(model, IMAGE, CLASSES, threshold=1.1)
    assert (widget.objects, widget.kind, widget.error, widget.cell) == ([], "encoder", "", [3, 2])
    assert "in no detected box" in widget.message
    assert isinstance(widget.static(), Figure)
    widget.kind = "decoder"
    assert "lower the threshold" in widget.error
    assert isinstance(AttentionExplorer(model, IMAGE, CLASSES, threshold=0.0).static(), Figure)
    model.train()
    try:
        with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
            AttentionExplorer(model, IMAGE, CLASSES)
    finally:
        model.eval()


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 1), st.floats(0.01, 1), st.sampled_from(sorted(KINDS)))
def test_kinds_of_boxes_by_hand(width, height, by):
    side, names = math.sqrt(width * height), [name for name, _, _ in KINDS[by]]
    if by == "size":
        name = "small" if side < 0.3 else "large" if side >= 0.4 else "medium"
    elif by == "shape":
        name = "wide" if width >= 1.25 * height else "tall" if height >= 1.25 * width else "square"
    else:
        name = "small" if side < 0.3 else "large and wide" if width >= height else "large and tall"
    kind = kinds_of(torch.tensor([0.5, 0.5, width, height], dtype=torch.float64), by, (0.3, 0.4))
    assert names[int(kind)] == name


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 7), st.sampled_from((0.0, 0.5, 0.9)), st.booleans())
def test_a_querys_numbers_are_counted_one_by_one(seed, pictures, queries, lowest, scored):
    generator = torch.Generator().manual_seed(seed)
    boxes, scores = torch.rand(pictures, queries, 4, generator=generator), torch.rand(pictures, queries, generator=generator)
    widget = QueryExplorer(boxes, scores if scored else None)
    widget.lowest, widget.query = lowest, queries - 1
    kept = [box for box, score in zip(boxes[:, -1].tolist(), scores[:, -1].tolist(), strict=True) if not scored or score >= lowest]
    assert (widget.summary["count"], widget.error) == (len(kept), "")
    assert [len(row) - row.count("-") for row in widget.groups][-1] == len(kept)
    if kept:
        x, y = (sum(box[axis] for box in kept) / len(kept) for axis in (0, 1))
        spread = math.sqrt(sum((box[0] - x) ** 2 + (box[1] - y) ** 2 for box in kept) / len(kept))
        assert (widget.summary["x"], widget.summary["y"], widget.summary["spread"]) == pytest.approx((x, y, spread), abs=1e-6)
        assert sum(widget.summary["shares"].values()) == pytest.approx(1)
        small = sum(math.sqrt(box[2] * box[3]) < 0.3 for box in kept)
        assert widget.summary["shares"]["small"] == pytest.approx(small / len(kept))
    else:
        assert "no box with a score this high" in widget.message
    assert widget.places[0][:2] == [round(part * 1000) for part in boxes[0, 0, :2].double().tolist()]
    json.dumps([widget.places, widget.groups, widget.sides, widget.legend, widget.summary], allow_nan=False)


def test_queries_in_words_and_pictures(model):
    boxes = torch.tensor([[[0.25, 0.5, 0.1, 0.1]], [[0.75, 0.5, 0.6, 0.5]]])
    widget = QueryExplorer(boxes, torch.tensor([[0.9], [0.4]]))
    assert widget.message == "Query 0 on 2 pictures: on average 50% from the left and 50% from the top, ± 25%; 50% small, 0% medium, 50% large."
    assert isinstance(widget.static(), Figure)
    widget.lowest = 0.5
    assert widget.message.startswith("Query 0 reaches this score in 1 of 2 pictures: on average 25% from the left")
    widget.query = 1
    assert widget.error == "ValueError: query 1 of 1: they count from 0."
    widget.colour = "figure 7"  # something else must not hide it
    assert "query 1 of 1" in widget.error
    widget.query = 0
    assert (widget.error, list(widget.summary["shares"])) == ("", ["small", "large and wide", "large and tall"])
    with pytest.raises(ValueError, match=r"boxes of shape \(2, 4\): want"):
        QueryExplorer(boxes[:, 0])
    with pytest.raises(ValueError, match=r"scores of shape \(1, 2\) for boxes"):
        QueryExplorer(boxes, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="limits"):
        QueryExplorer(boxes, limits=(0.4, 0.3))
    with pytest.raises(ValueError, match="query 3 of 1"):
        QueryExplorer(boxes, query=3)


def test_a_detectors_queries(model):
    images = [IMAGE, IMAGE.flip(2), IMAGE[:, :, :60]]
    widget = QueryExplorer.from_detector(model, iter(images), batch_size=2, query=3)
    with torch.no_grad():
        single = model.predict(model.prepare(images[1:2])[0])
    torch.testing.assert_close(widget._boxes[1], single.boxes[-1, 0].double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(widget._scores[2], model([images[2]])[0]["scores"], atol=1e-5, rtol=1e-5)
    assert (len(widget.places), len(widget.places[0]), widget.query) == (QUERIES, 6, 3)
    assert isinstance(widget.static(), Figure)
    with pytest.raises(ValueError, match="no pictures"):
        QueryExplorer.from_detector(model, [])
