"""What the experiments on CenterNet count: against loops, on maps that are known."""

import math

import pytest
import torch

from experiments import centernet_pooling, centernet_regions
from lessons.boxes import box_iou
from lessons.corners import KeypointMaps, decode_corners, decode_triplets
from lessons.data.scenes import Scenes
from lessons.recipes.centernet import build

TARGET = {"boxes": torch.tensor([[10.0, 10, 30, 38], [60, 50, 140, 130], [62, 52, 90, 81]]), "labels": torch.tensor([1, 3, 1])}


def maps_of(boxes, labels, heat=0.9, size=40):
    """Maps of one picture with a corner and a centre for each box, tags all alike."""
    maps = {kind: KeypointMaps(torch.zeros(1, 6, size, size), torch.zeros(1, 2, size, size), torch.zeros(1, 1, size, size)) for kind in ("top_left", "bottom_right", "centre")}
    for box, label in zip(boxes, labels, strict=True):
        low, high = box[:2] / 4, box[2:] / 4
        for kind, place in (("top_left", low), ("bottom_right", high), ("centre", (low + high) / 2)):
            column, row = (min(int(part), size - 1) for part in place)
            maps[kind].heat[0, label - 1, row, column] = heat
            maps[kind].offsets[0, :, row, column] = place - torch.tensor([column, row])
    return maps


def tally_by_loop(model, maps, target, large):
    corners = maps["top_left"], maps["bottom_right"]
    (found,) = decode_corners(*corners, 70) if large is None else decode_triplets(*corners, maps["centre"], 70, large=large)
    counts = [[0, 0, 0], [0, 0, 0]]
    for box, label in zip(found["boxes"] * 4, found["labels"] + 1, strict=True):
        overlaps = [box_iou(box[None], true[None]).item() for true, own in zip(target["boxes"], target["labels"], strict=True) if own == label]
        if not any(overlap >= 0.5 for overlap in overlaps):
            counts[int((box[2] - box[0]) * (box[3] - box[1]) >= 1024)][0] += 1
    for true, own in zip(target["boxes"], target["labels"], strict=True):
        size = int((true[2] - true[0]) * (true[3] - true[1]) >= 1024)
        counts[size][1] += 1
        counts[size][2] += any(box_iou(box[None], true[None]) >= 0.5 and label == own for box, label in zip(found["boxes"] * 4, found["labels"] + 1, strict=True))
    return counts


def test_wrong_boxes_and_covered_objects_are_counted_as_by_a_loop():
    model, maps = build(), maps_of(TARGET["boxes"], TARGET["labels"])
    tallies = {large: centernet_regions.tally(model, maps, TARGET, large).tolist() for large in (None, math.inf, 0.0)}
    for large, counts in tallies.items():
        assert counts == tally_by_loop(model, maps, TARGET, large)
    assert tallies[None][1][0] == 1, "the first object's corner with the third's: a wrong box"
    assert tallies[math.inf][1][0] == 0
    assert [counts[2] for counts in tallies[math.inf]] == [2, 1], "all are covered"
    unsure = maps_of(TARGET["boxes"], TARGET["labels"], heat=0.05)
    assert centernet_regions.tally(model, unsure, TARGET, None)[:, [0, 2]].sum() == 0


def test_true_centres_confirm_true_boxes_alone():
    model, maps = build(), maps_of(TARGET["boxes"], TARGET["labels"])
    noise = maps | {"centre": KeypointMaps(torch.rand(1, 6, 40, 40), torch.rand(1, 2, 40, 40))}
    told = centernet_regions.with_true_centres(model, noise, TARGET)
    torch.testing.assert_close(told["centre"].heat, (maps["centre"].heat > 0).float())
    torch.testing.assert_close(told["centre"].offsets, maps["centre"].offsets)
    assert told["top_left"] is noise["top_left"]
    assert centernet_regions.tally(model, told, TARGET, math.inf)[:, 0].sum() == 0


@pytest.mark.parametrize("large", [None, 0.0])
def test_regions_are_measured_without_a_trace(large):
    model, scenes = build().eval(), Scenes("val", 2)
    samples = [scenes[i] for i in range(2)]
    seen = [(maps_of(target["boxes"], target["labels"], heat=1.0), batch) for (_, batch), (_, target)
            in zip(centernet_regions.look(model, samples), samples, strict=True)]
    numbers = centernet_regions.measure(model, seen, samples, large)
    assert "decode" not in vars(model)
    assert numbers["covered, small"] + numbers["covered, larger"] > 0
    if large == 0.0:
        assert numbers["AP50"] > 0.9, "perfect maps"


def test_corners_are_found_by_class_and_place():
    model, maps = centernet_pooling.build("no pooling", 0), maps_of(TARGET["boxes"], TARGET["labels"])
    for corner, kind in (("top_left", "top_left"), ("bottom_right", "bottom_right")):
        assert centernet_pooling.corners_found(model, maps[kind], TARGET, corner).tolist() == [True, True, True]
    moved = {"boxes": TARGET["boxes"] + torch.tensor([7.9, 0, 8.1, 0]), "labels": TARGET["labels"]}
    assert centernet_pooling.corners_found(model, maps["top_left"], moved, "top_left").tolist() == [True, True, True]
    assert centernet_pooling.corners_found(model, maps["bottom_right"], moved, "bottom_right").tolist() == [False, False, False]
    other = {"boxes": TARGET["boxes"], "labels": torch.tensor([2, 3, 1])}
    assert centernet_pooling.corners_found(model, maps["top_left"], other, "top_left").tolist() == [False, True, True]


def test_pooling_costs_no_weights_but_cascades_do():
    counts = {name: sum(p.numel() for p in centernet_pooling.build(name, 0).parameters()) for name in centernet_pooling.POOLINGS}
    assert counts["no pooling"] == counts["corner pooling"] < counts["cascade corner pooling"]


@pytest.mark.slow
def test_pooling_runs_short():
    numbers = centernet_pooling.run(0, short=True)
    assert set(numbers) == set(centernet_pooling.POOLINGS)
    assert all(0 <= value <= 1 for row in numbers.values() for value in row.values())
