"""The kinds of mistakes on pictures made by hand, and what must hold for any."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons.error_breakdown import KINDS, error_breakdown, kinds_of

OBJECTS = {"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10], [80, 0, 90, 10]]),
           "labels": torch.tensor([1, 2, 1, 1, 2]), "iscrowd": torch.tensor([0, 0, 0, 1, 0]), "image_id": 0}
FOUND = [  # box, label, score, kind
    ([0.0, 0, 10, 9], 1, 0.9, "correct"),
    ([0.0, 0, 10, 10], 1, 0.8, "duplicate"),  # fits better, comes later
    ([20.0, 0, 30, 10], 1, 0.7, "class"),
    ([40.0, 0, 44, 10], 1, 0.6, "localisation"),  # IoU 0.4
    ([80.0, 0, 84, 10], 1, 0.5, "both"),
    ([0.0, 50, 10, 60], 2, 0.4, "background"),
    ([60.0, 0, 70, 10], 1, 0.3, ""),  # on an ignored object
    ([49.5, 0, 59.5, 10], 1, 0.2, "background")]  # IoU below 0.1


def detections(rows):
    return {"boxes": torch.tensor([row[0] for row in rows]).reshape(-1, 4), "labels": torch.tensor([row[1] for row in rows]).long(),
            "scores": torch.tensor([row[2] for row in rows])}


def test_one_of_every_kind():
    kinds, missed = kinds_of(detections(FOUND), OBJECTS)
    assert kinds == [row[3] for row in FOUND]
    assert missed.tolist() == [False, False, False, False, True]  # the last has only an error of both kinds
    counts = error_breakdown([detections(FOUND)] * 2, [OBJECTS] * 2)
    assert counts == {"correct": 2, "localisation": 2, "class": 2, "both": 2, "duplicate": 2, "background": 4, "missed": 2}


def test_nothing_found_and_nothing_there():
    nothing = {**OBJECTS, "boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "iscrowd": torch.zeros(0).long()}
    assert error_breakdown([detections([])], [OBJECTS]) == {**dict.fromkeys(KINDS, 0), "missed": 4}
    counts = error_breakdown([detections(FOUND)], [nothing])
    assert counts == {**dict.fromkeys(KINDS, 0), "background": len(FOUND), "missed": 0}
    only_ignored = {**OBJECTS, "iscrowd": torch.ones(5).long()}
    assert error_breakdown([detections(FOUND[:1])], [only_ignored]) == {**dict.fromkeys(KINDS, 0), "missed": 0}


BOX = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20), st.integers(1, 20), st.integers(1, 2))


@settings(max_examples=60, deadline=None)
@given(st.lists(BOX, max_size=6), st.lists(BOX, max_size=8))
def test_every_detection_and_object_is_counted_once(objects, found):
    boxes, others = (torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in rows]).float().reshape(-1, 4) for rows in (objects, found))
    target = {"boxes": boxes, "labels": torch.tensor([row[4] for row in objects]).long(),
              "iscrowd": torch.zeros(len(objects)).long()}
    detection = {"boxes": others, "labels": torch.tensor([row[4] for row in found]).long(),
                 "scores": torch.linspace(1, 0.1, len(found))}
    counts = error_breakdown([detection], [target])
    assert sum(counts[kind] for kind in KINDS) == len(found)
    assert counts["correct"] + counts["missed"] <= len(objects)
    assert counts["correct"] + counts["missed"] + counts["class"] + counts["localisation"] >= len(objects)
    perfect = error_breakdown([{**target, "scores": torch.linspace(1, 0.1, len(objects))}], [target])
    assert perfect["missed"] == 0 or len(boxes.unique(dim=0)) < len(boxes)  # of two in one place only one can be found


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="1 images for targets of 2"):
        error_breakdown([detections(FOUND)], [OBJECTS] * 2)
    with pytest.raises(ValueError, match=r"foreground 0.1, background 0.5"):
        error_breakdown([], [], 0.1, 0.5)
