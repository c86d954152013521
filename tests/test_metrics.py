"""Average precision: by hand, against a plain re-implementation of the VOC development kit, and its properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons.metrics import average_precision, match_detections, precision_recall, voc_average_precision

TEN = (torch.tensor([0.98, 0.95, 0.91, 0.84, 0.80, 0.72, 0.61, 0.55, 0.43, 0.30]),
       torch.tensor([1, 1, 0, 1, 0, 0, 1, 0, 0, 1]).bool(), 6)


def test_ten_detections_by_hand():
    precision, recall = precision_recall(*TEN)
    right = torch.tensor([1, 2, 2, 3, 3, 3, 4, 4, 4, 5]).double()
    torch.testing.assert_close(precision, right / torch.arange(1, 11))
    torch.testing.assert_close(recall, right / 6)
    # the envelope is 1 up to recall 2/6, 3/4 up to 3/6, 4/7 up to 4/6, 1/2 up to 5/6, then 0
    by_hand = {"voc07": (4 * 1 + 2 * 3 / 4 + 1 * 4 / 7 + 2 / 2) / 11, "voc": (2 + 3 / 4 + 4 / 7 + 1 / 2) / 6,
               "coco": (34 * 1 + 17 * 3 / 4 + 16 * 4 / 7 + 17 / 2) / 101}
    for protocol, value in by_hand.items():
        assert average_precision(*TEN, protocol=protocol).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("protocol", ["voc07", "voc", "coco"])
def test_a_wrong_one_at_the_top_by_hand(protocol):
    scores, matched = torch.tensor([0.7, 0.9, 0.8]), torch.tensor([True, False, True])
    # by score: wrong, right, right; precision 0, 1/2, 2/3 is raised to 2/3 everywhere
    assert average_precision(scores, matched, 2, protocol).item() == pytest.approx(2 / 3, abs=1e-12)


def kit_average_precision(scores, matched, objects, points):
    """The VOC kit's own steps, in plain Python."""
    rows = sorted(zip(scores, matched, range(len(scores)), strict=True), key=lambda row: (-row[0], row[2]))
    right, curve = 0, []
    for rank, (_, hit, _) in enumerate(rows, start=1):
        right += hit
        curve.append((right / objects, right / rank))
    if points == 11:
        return sum(max((p for r, p in curve if r >= i / 10), default=0) for i in range(11)) / 11
    area, last = 0.0, 0.0
    for i, (r, _) in enumerate(curve):
        area += (r - last) * max(p for _, p in curve[i:])
        last = r
    return area


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=25), st.integers(0, 4))
def test_equal_to_the_kit_with_ties(rows, missed):
    scores = torch.tensor([s / 4 for s, _ in rows])
    matched = torch.tensor([m for _, m in rows], dtype=torch.bool)
    objects = int(matched.sum()) + missed
    if objects == 0:
        assert average_precision(scores, matched, 0).isnan()
        return
    for protocol, points in (("voc07", 11), ("voc", 0)):
        expected = kit_average_precision(scores.tolist(), matched.tolist(), objects, points)
        assert average_precision(scores, matched, objects, protocol).item() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 3))
def test_order_is_all_that_counts_and_a_wrong_box_at_the_end_costs_nothing(hits, missed):
    matched = torch.tensor(hits)
    scores = torch.linspace(1, 0.1, len(hits))
    objects = int(matched.sum()) + missed
    for protocol in ("voc07", "voc", "coco"):
        value = average_precision(scores, matched, objects, protocol)
        assert 0 <= value <= 1 + 1e-12
        assert average_precision(scores**3, matched, objects, protocol).item() == pytest.approx(value.item())
        more = torch.cat([scores, torch.zeros(5)]), torch.cat([matched, torch.zeros(5, dtype=torch.bool)])
        assert average_precision(*more, objects, protocol).item() == pytest.approx(value.item())


def test_a_perfect_detector_and_none_at_all():
    for protocol in ("voc07", "voc", "coco"):
        assert average_precision(torch.rand(7), torch.ones(7).bool(), 7, protocol).item() == pytest.approx(1)
        assert average_precision(torch.zeros(0), torch.zeros(0).bool(), 7, protocol) == 0


def test_bad_input_is_named():
    scores, matched, _ = TEN
    with pytest.raises(ValueError, match="'voc12' is none of"):
        average_precision(scores, matched, 6, "voc12")
    with pytest.raises(ValueError, match="5 matches among 4 objects"):
        average_precision(scores, matched, 4)
    with pytest.raises(ValueError, match=r"\(10,\), matched of \(9,\)"):
        precision_recall(scores, matched[1:], 6)
    with pytest.raises(ValueError, match="score 0 is NaN"):
        precision_recall(scores * math.nan, matched, 6)
    with pytest.raises(ValueError, match=r"2 boxes with scores of shape \(10,\)"):
        match_detections(OBJECTS, scores, OBJECTS)
    with pytest.raises(ValueError, match="detections of 1 images for targets of 0"):
        voc_average_precision([{"boxes": OBJECTS, "labels": torch.ones(2), "scores": scores[:2]}], [])


OBJECTS = torch.tensor([[0.0, 0, 100, 100], [20, 0, 120, 100]])


def test_an_object_is_found_once_and_a_duplicate_is_wrong():
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 98], [500, 0, 600, 100]])
    matched, ignored = match_detections(boxes, torch.tensor([0.8, 0.9, 1.0]), OBJECTS[:1])
    assert matched.tolist() == [False, True, False]  # the better-scored one, although it fits less well
    assert not ignored.any()


def test_a_second_detection_does_not_get_the_neighbour():
    boxes = torch.tensor([[1.0, 0, 101, 100], [2, 0, 102, 100]])  # both fit the first best, the second well
    assert match_detections(boxes, torch.tensor([0.9, 0.8]), OBJECTS)[0].tolist() == [True, False]


def test_difficult_objects_are_neither_right_nor_wrong():
    matched, ignored = match_detections(OBJECTS, torch.tensor([0.9, 0.8]), OBJECTS, ignore=torch.tensor([True, False]))
    assert matched.tolist() == [False, True]
    assert ignored.tolist() == [True, False]


def test_one_more_pixel_changes_who_is_right():
    pixels = torch.tensor([[0.0, 0, 9, 9]])
    other = torch.tensor([[3.0, 0, 13, 9]])  # IoU 6 / 13 by edges, 7 / 14 by pixels
    assert not match_detections(other, torch.ones(1), pixels)[0].item()
    assert match_detections(other, torch.ones(1), pixels, plus_one=True)[0].item()


def test_the_threshold_itself_is_enough():
    half = torch.tensor([[0.0, 0, 100, 50]])
    assert match_detections(half, torch.ones(1), OBJECTS[:1], iou_threshold=0.5)[0].item()
    assert not match_detections(half, torch.ones(1), OBJECTS[:1], iou_threshold=0.501)[0].item()


def sample(boxes, labels, crowd):
    return {"boxes": boxes, "labels": torch.tensor(labels), "iscrowd": torch.tensor(crowd), "image_id": 0}


def test_voc_pools_images_and_keeps_classes_apart():
    targets = [sample(OBJECTS, [1, 2], [0, 0]), sample(OBJECTS, [1, 3], [0, 1])]
    found = [{"boxes": OBJECTS, "labels": torch.tensor([1, 1]), "scores": torch.tensor([0.9, 0.95])},
             {"boxes": OBJECTS, "labels": torch.tensor([1, 3]), "scores": torch.tensor([0.5, 0.9])}]
    result = voc_average_precision(found, targets)
    # class 1: IoU of the two objects is 2/3, so the box on the class-2 object takes the class-1 object first
    assert result == {1: pytest.approx(0.5 + 0.5 * 2 / 3), 2: 0.0}  # class 3 has only an object that does not count


def test_voc_equals_the_kit_on_random_images():
    generator = torch.Generator().manual_seed(0)
    detections, targets, rows, objects = [], [], [], 0
    for _ in range(30):
        corner = torch.randint(0, 60, (5, 2), generator=generator).float()
        boxes = torch.cat([corner, corner + torch.randint(10, 50, (5, 2), generator=generator)], 1)
        crowd = (torch.rand(5, generator=generator) < 0.3).long()
        found = (boxes.repeat(2, 1) + torch.randint(-4, 5, (10, 4), generator=generator)).clamp(min=0)
        found = torch.cat([torch.min(found[:, :2], found[:, 2:]), torch.max(found[:, :2], found[:, 2:])], 1)
        scores = torch.rand(10, generator=generator)
        detections.append({"boxes": found, "labels": torch.ones(10).long(), "scores": scores})
        targets.append(sample(boxes, [1] * 5, crowd.tolist()))
        rows += kit_rows(found.tolist(), scores.tolist(), boxes.tolist(), crowd.tolist())
        objects += int((crowd == 0).sum())
    for protocol, points in (("voc07", 11), ("voc", 0)):
        expected = kit_average_precision(*zip(*rows, strict=True), objects, points)
        ours = voc_average_precision(detections, targets, protocol=protocol, plus_one=True)
        assert ours == {1: pytest.approx(expected)}


def kit_rows(found, scores, boxes, difficult):
    """(score, matched) of one image's detections that count, with the kit's pixel arithmetic."""
    rows, taken = [], set()
    for i in np.argsort(-np.array(scores), kind="stable"):
        x1, y1, x2, y2 = found[i]
        best, best_iou = -1, -1.0
        for j, (gx1, gy1, gx2, gy2) in enumerate(boxes):
            width, height = min(x2, gx2) - max(x1, gx1) + 1, min(y2, gy2) - max(y1, gy1) + 1
            if width > 0 and height > 0:
                union = (x2 - x1 + 1) * (y2 - y1 + 1) + (gx2 - gx1 + 1) * (gy2 - gy1 + 1) - width * height
                if width * height / union > best_iou:
                    best, best_iou = j, width * height / union
        if best_iou >= 0.5 and difficult[best]:
            continue
        rows.append((scores[i], best_iou >= 0.5 and best not in taken))
        if best_iou >= 0.5:
            taken.add(best)
    return rows
