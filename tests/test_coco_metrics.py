"""CocoMetrics against pycocotools: all twelve numbers, on data made to provoke every rule."""

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lessons.data.sample import coco_annotations
from lessons.metrics import CocoMetrics

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "datasets" / "coco_mini_cc"


def official(detections, targets, labels):
    """The twelve numbers of pycocotools for the same input."""
    annotations = []
    for target in targets:
        annotations += coco_annotations(target, len(annotations) + 1)
    rows = [{"image_id": target["image_id"], "category_id": int(label), "score": float(score),
             "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for detection, target in zip(detections, targets, strict=True)
            for (x1, y1, x2, y2), label, score in zip(*(detection[k].tolist() for k in ("boxes", "labels", "scores")),
                                                      strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": t["image_id"]} for t in targets], "annotations": annotations,
                         "categories": [{"id": label} for label in labels]}
        truth.createIndex()
        found = COCO()
        if rows:
            found = truth.loadRes(rows)
        else:
            found.dataset = {"images": truth.dataset["images"], "annotations": [],
                             "categories": truth.dataset["categories"]}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def random_boxes(generator, count, size=200):
    corner = torch.rand(count, 2, generator=generator) * size
    side = 4 ** (torch.rand(count, 2, generator=generator) * 3.3 + 0.5)
    return torch.cat([corner, corner + side], dim=1)


def random_image(generator, image_id, labels=3, crowds=True, tied=False):
    """Objects, some of them crowds, and detections: jittered objects, doubles and noise; often nothing of one kind."""
    objects = int(torch.randint(0, 8, (1,), generator=generator))
    boxes = random_boxes(generator, objects)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1) * (0.4 + 0.6 * torch.rand(objects, generator=generator))
    crowd = (torch.rand(objects, generator=generator) < 0.25).long() if crowds else torch.zeros(objects).long()
    target = {"boxes": boxes, "labels": torch.randint(1, labels + 1, (objects,), generator=generator), "area": area,
              "iscrowd": crowd, "image_id": image_id}
    jitter = torch.rand(3 * objects, 4, generator=generator) * 0.25
    near = boxes.repeat(3, 1)
    side = (near[:, 2:] - near[:, :2]).repeat(1, 2)
    near = near + jitter * side * torch.tensor([1, 1, -1, -1])
    noise = random_boxes(generator, int(torch.randint(0, 9, (1,), generator=generator)))
    found = torch.cat([near, noise])
    label = torch.cat([target["labels"].repeat(3), torch.randint(1, labels + 1, (len(noise),), generator=generator)])
    scores = torch.rand(len(found), generator=generator)
    keep = torch.rand(len(found), generator=generator) < 0.8
    scores = (scores * 8).round() / 8 if tied else scores
    return {"boxes": found[keep], "labels": label[keep], "scores": scores[keep]}, target


def assert_equal_to_official(detections, targets, labels=(1, 2, 3)):
    metrics = CocoMetrics()
    metrics.update(detections, targets)
    ours = metrics.compute()
    np.testing.assert_allclose(list(ours.values()), official(detections, targets, labels), rtol=0, atol=1e-9)
    return ours


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_equal_to_pycocotools_on_random_images(seed, tied):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randperm(25, generator=generator).tolist()
    pairs = [random_image(generator, image_id, tied=tied) for image_id in ids]
    ours = assert_equal_to_official(*zip(*pairs, strict=True))
    assert 0 < ours["AP"] < 1


def test_more_than_a_hundred_detections_in_an_image():
    generator = torch.Generator().manual_seed(1)
    detection, target = random_image(generator, 0)
    extra = random_boxes(generator, 400)
    detection = {"boxes": torch.cat([extra, detection["boxes"]]),
                 "labels": torch.cat([torch.ones(400).long(), detection["labels"]]),
                 "scores": torch.cat([torch.rand(400, generator=generator), detection["scores"]])}
    assert_equal_to_official([detection], [target])


def test_areas_on_the_borders_of_the_ranges_belong_to_both():
    boxes = torch.tensor([[0.0, 0, 32, 32], [50, 50, 146, 146]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 1]), "area": torch.tensor([32.0**2, 96.0**2]),
              "iscrowd": torch.zeros(2).long(), "image_id": 3}
    detection = {"boxes": boxes, "labels": target["labels"], "scores": torch.tensor([0.9, 0.8])}
    ours = assert_equal_to_official([detection], [target], labels=(1,))
    assert [ours[f"AP_{size}"] for size in ("small", "medium", "large")] == pytest.approx([1, 1, 1])


NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}


def nothing(image_id):
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "area": torch.zeros(0),
            "iscrowd": torch.zeros(0).long(), "image_id": image_id}


def test_images_without_objects_and_without_detections():
    generator = torch.Generator().manual_seed(5)
    detections, targets = map(list, zip(*(random_image(generator, i) for i in range(6)), strict=True))
    detections[0], targets[1], detections[2], targets[2] = NONE, nothing(1), NONE, nothing(2)
    assert_equal_to_official(detections, targets)


def test_no_detection_at_all_gives_zero_and_no_object_gives_minus_one():
    target = random_image(torch.Generator().manual_seed(3), 0, crowds=False)[1]
    assert len(target["boxes"])
    assert assert_equal_to_official([NONE], [target])["AP"] == 0
    metrics = CocoMetrics()
    metrics.update([NONE], [nothing(0)])
    assert set(metrics.compute().values()) == {-1.0}
    assert set(CocoMetrics().compute().values()) == {-1.0}


def test_only_crowds_leave_nothing_to_measure():
    detection, target = random_image(torch.Generator().manual_seed(2), 0)
    target["iscrowd"] = torch.ones_like(target["iscrowd"])
    assert set(assert_equal_to_official([detection], [target]).values()) == {-1.0}


def test_a_class_found_but_not_there_changes_nothing():
    detection, target = random_image(torch.Generator().manual_seed(4), 0)
    before = assert_equal_to_official([detection], [target], labels=(1, 2, 3, 9))
    more = {"boxes": torch.cat([detection["boxes"], torch.tensor([[0.0, 0, 50, 50]])]),
            "labels": torch.cat([detection["labels"], torch.tensor([9])]),
            "scores": torch.cat([detection["scores"], torch.tensor([1.0])])}
    assert assert_equal_to_official([more], [target], labels=(1, 2, 3, 9)) == before


def test_a_detection_without_area():
    detection, target = random_image(torch.Generator().manual_seed(6), 0)
    detection["boxes"][0, 2:] = detection["boxes"][0, :2]
    assert_equal_to_official([detection], [target])


def test_batches_in_any_order_give_the_same():
    generator = torch.Generator().manual_seed(7)
    pairs = [random_image(generator, i, tied=True) for i in range(10)]
    whole, parts = CocoMetrics(), CocoMetrics()
    whole.update(*zip(*pairs, strict=True))
    for pair in reversed(pairs):
        parts.update([pair[0]], [pair[1]])
        parts.compute()
    assert whole.compute() == parts.compute()


def test_per_class_and_curve_mean_to_the_whole():
    generator = torch.Generator().manual_seed(8)
    metrics = CocoMetrics()
    metrics.update(*zip(*(random_image(generator, i) for i in range(20)), strict=True))
    classes = metrics.per_class()
    assert np.mean([c["AP"] for c in classes.values()]) == pytest.approx(metrics.compute()["AP"])
    recalls, precision = metrics.precision_at_recalls(1, 0.75)
    assert len(recalls) == 101
    assert precision.mean() == pytest.approx(classes[1]["AP75"])
    with pytest.raises(ValueError, match="label 7 at IoU 0.5"):
        metrics.precision_at_recalls(7)


def test_bad_input_is_named():
    detection, target = random_image(torch.Generator().manual_seed(1), 5)
    with pytest.raises(ValueError, match="1 images for targets of 2"):
        CocoMetrics().update([detection], [target, target])
    with pytest.raises(ValueError, match="image 5 was given before"):
        CocoMetrics().update([detection, detection], [target, target])
    with pytest.raises(ValueError, match="image 5: boxes"):
        CocoMetrics().update([{**detection, "scores": detection["scores"][1:]}], [target])
    with pytest.raises(ValueError, match="NaN"):
        CocoMetrics().update([{**detection, "scores": detection["scores"] * math.nan}], [target])


@pytest.mark.skipif(not SHARED.exists(), reason="no sample of COCO at ../shared/datasets/coco_mini_cc")
def test_equal_to_pycocotools_on_photographs():
    data = json.loads((SHARED / "annotations" / "instances_train2017.json").read_text())
    generator = torch.Generator().manual_seed(0)
    detections, targets = [], []
    for image in data["images"]:
        rows = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        boxes = torch.tensor([a["bbox"] for a in rows]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        targets.append({"boxes": boxes, "labels": torch.tensor([a["category_id"] for a in rows], dtype=torch.long),
                        "area": torch.tensor([float(a["area"]) for a in rows]), "image_id": image["id"],
                        "iscrowd": torch.tensor([a["iscrowd"] for a in rows], dtype=torch.long)})
        found = boxes.repeat(2, 1)
        side = (found[:, 2:] - found[:, :2]).repeat(1, 2)
        found = found + torch.randn(found.shape, generator=generator) * side * 0.08
        found = torch.cat([torch.min(found[:, :2], found[:, 2:]), torch.max(found[:, :2], found[:, 2:])], dim=1)
        detections.append({"boxes": found, "labels": targets[-1]["labels"].repeat(2),
                           "scores": torch.rand(len(found), generator=generator)})
    assert_equal_to_official(detections, targets, sorted({c["id"] for c in data["categories"]}))
