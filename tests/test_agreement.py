"""CocoMetrics of masks and keypoints against pycocotools: all twelve and all ten numbers."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lessons.data import open_dataset
from lessons.data.sample import coco_annotations
from lessons.metrics import CocoMetrics

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "datasets"


def official(detections, targets, kind, labels, sigmas=None):
    annotations = []
    for target in targets:
        annotations += coco_annotations(target, len(annotations) + 1)
    rows = []
    for detection, target in zip(detections, targets, strict=True):
        for i, score in enumerate(detection["scores"].tolist()):
            row = {"image_id": target["image_id"], "category_id": int(detection["labels"][i]), "score": score}
            if kind == "segm":
                row["segmentation"] = rle.encode(np.asfortranarray(detection["masks"][i].numpy().astype(np.uint8)))
            else:
                row["keypoints"] = detection["keypoints"][i].double().flatten().tolist()
            rows.append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": t["image_id"], "height": 1000, "width": 1000} for t in targets],
                         "annotations": annotations, "categories": [{"id": label} for label in labels]}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(rows), kind)
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def assert_equal_to_official(detections, targets, kind, labels=(1, 2), sigmas=None):
    metrics = CocoMetrics(kind, sigmas)
    metrics.update(detections, targets)
    ours = metrics.compute()
    expected = official(detections, targets, {"masks": "segm", "keypoints": "keypoints"}[kind], labels, sigmas)
    assert len(ours) == len(expected) == {"masks": 12, "keypoints": 10}[kind]
    np.testing.assert_allclose(list(ours.values()), expected, rtol=0, atol=1e-9)
    return ours


def ellipses(centres, radii, size):
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    grid = torch.stack([x, y]).float()  # (2, H, W)
    return (((grid - centres[:, :, None, None]) / radii[:, :, None, None]) ** 2).sum(1) <= 1


def random_masks(seed, image_id, size=(150, 190)):
    """Round objects, some of them crowds; detections that cover most of one, doubled, and some elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(0, 6, (1,), generator=generator))
    centres = torch.rand(count, 2, generator=generator) * 140
    radii = 4 + torch.rand(count, 2, generator=generator) ** 2 * 60
    labels = torch.randint(1, 3, (count,), generator=generator)
    masks = ellipses(centres, radii, size)
    area = masks.flatten(1).sum(1).float()
    target = {"boxes": torch.cat([centres - radii, centres + radii], 1), "masks": masks, "area": area, "labels": labels,
              "iscrowd": (torch.rand(count, generator=generator) < 0.2).long(), "image_id": image_id}
    around = centres.repeat(3, 1) + torch.randn(3 * count, 2, generator=generator) * 3
    sizes = radii.repeat(3, 1) * (0.7 + 0.6 * torch.rand(3 * count, 2, generator=generator))
    around = torch.cat([around, torch.rand(4, 2, generator=generator) * 140])
    sizes = torch.cat([sizes, 3 + torch.rand(4, 2, generator=generator) * 30])
    found = ellipses(around, sizes, size)
    detection = {"masks": found, "boxes": torch.cat([around - sizes, around + sizes], 1),
                 "labels": torch.cat([labels.repeat(3), torch.randint(1, 3, (4,), generator=generator)]),
                 "scores": torch.rand(len(found), generator=generator)}
    return detection, target


@pytest.mark.parametrize("seed", range(6))
def test_masks(seed):
    pairs = [random_masks(100 * seed + i, i) for i in range(12)]
    ours = assert_equal_to_official(*zip(*pairs, strict=True), "masks")
    assert 0 < ours["AP"] < 1


def test_masks_as_a_detector_gives_them():
    """Probabilities (N, 1, H, W) count as filled above one half."""
    pairs = [random_masks(i, i) for i in range(5)]
    soft = [({**d, "masks": d["masks"][:, None] * 0.2 + 0.4}, t) for d, t in pairs]
    results = []
    for detections, targets in (zip(*pairs, strict=True), zip(*soft, strict=True)):
        metrics = CocoMetrics("masks")
        metrics.update(detections, targets)
        results.append(metrics.compute())
    assert results[0] == results[1]


def random_people(seed, image_id, people=None):
    """People as clouds of 17 points, some unlabelled, some people without any; detections near, doubled and elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(0, 5, (1,), generator=generator)) if people is None else people
    corner, side = torch.rand(count, 2, generator=generator) * 300, 20 + torch.rand(count, 2, generator=generator) * 150
    points = corner[:, None] + torch.rand(count, 17, 2, generator=generator) * side[:, None]
    visible = torch.randint(0, 3, (count, 17), generator=generator) * (torch.rand(count, 1, generator=generator) > 0.25)
    target = {"boxes": torch.cat([corner, corner + side], 1), "area": side.prod(1) * 0.6,
              "labels": torch.ones(count).long(), "image_id": image_id,
              "iscrowd": (torch.rand(count, generator=generator) < 0.15).long(),
              "keypoints": torch.cat([points * (visible > 0)[..., None], visible[..., None]], 2).float()}
    found = points.repeat(2, 1, 1) + torch.randn(2 * count, 17, 2, generator=generator) * torch.rand(2 * count, 1, 1, generator=generator) * 15
    found = torch.cat([found, torch.rand(2, 17, 2, generator=generator) * 300])
    detection = {"boxes": torch.cat([found.min(1).values, found.max(1).values], 1), "labels": torch.ones(len(found)).long(),
                 "scores": torch.rand(len(found), generator=generator),
                 "keypoints": torch.cat([found, torch.ones(len(found), 17, 1)], 2)}
    return detection, target


@pytest.mark.parametrize(("kind", "example"), [("masks", random_masks), ("keypoints", random_people)])
@pytest.mark.parametrize("empty", ["detections", "objects", "both"])
def test_images_without_detections_or_without_objects(kind, example, empty):
    """Half of the images have none; also masks of one channel, as detectors give them."""
    pairs = [example(seed, seed) for seed in range(10)]
    for number, (detection, target) in enumerate(pairs):
        if kind == "masks":
            detection["masks"] = detection["masks"][:, None]
        if number % 2:
            for thing in (detection, target) if empty == "both" else (target,) if empty == "objects" else (detection,):
                thing.update({key: value[:0] for key, value in thing.items() if isinstance(value, torch.Tensor)})
    detections, targets = map(list, zip(*pairs, strict=True))
    metrics = CocoMetrics(kind)
    metrics.update(detections, targets)
    if kind == "masks":
        detections = [{**detection, "masks": detection["masks"][:, 0]} for detection in detections]
    expected = official(detections, targets, {"masks": "segm"}.get(kind, kind), (1, 2))
    np.testing.assert_allclose(list(metrics.compute().values()), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_keypoints(seed):
    pairs = [random_people(100 * seed + i, i) for i in range(15)]
    ours = assert_equal_to_official(*zip(*pairs, strict=True), "keypoints", labels=(1,))
    assert 0 < ours["AP"] < 1


def test_keypoints_with_tolerances_of_their_own():
    """Four points instead of seventeen."""
    images = [random_people(seed, seed) for seed in range(15)]
    four = [[{**thing, "keypoints": thing["keypoints"][:, :4]} for thing in image] for image in images]
    detections, targets = map(list, zip(*four, strict=True))
    loose = assert_equal_to_official(detections, targets, "keypoints", (1,), (0.05, 0.1, 0.2, 0.4))
    strict = assert_equal_to_official(detections, targets, "keypoints", (1,), (0.03,) * 4)
    assert loose["AP"] > strict["AP"] > 0
    with pytest.raises(ValueError, match=r"sigmas \[0.1, 0\] for keypoints"):
        CocoMetrics("keypoints", (0.1, 0))
    with pytest.raises(ValueError, match=r"sigmas \[0.1\] for boxes"):
        CocoMetrics("boxes", (0.1,))


def test_at_most_twenty_people_in_a_picture_count():
    pairs = [random_people(5, 0, people=30)]
    assert_equal_to_official(*zip(*pairs, strict=True), "keypoints", labels=(1,))


@pytest.mark.skipif(not SHARED.exists(), reason="no sample of COCO at ../shared/datasets")
@pytest.mark.parametrize(("task", "kind"), [("instances", "masks"), ("keypoints", "keypoints")])
def test_on_photographs(task, kind):
    dataset = open_dataset("coco2017", "train", SHARED, task=task)
    generator = torch.Generator().manual_seed(0)
    detections, targets = [], []
    for i in range(len(dataset)):
        target = dataset.annotation(i)[0]
        targets.append(target)
        found = {"boxes": target["boxes"], "labels": target["labels"],
                 "scores": torch.rand(len(target["labels"]), generator=generator)}
        if kind == "masks":  # every mask moved to the side, each by another distance
            found["masks"] = torch.stack([mask.roll(int(torch.randint(0, 25, (1,), generator=generator)), 1)
                                          for mask in target["masks"]]) if len(target["masks"]) else target["masks"]
        else:
            noise = torch.randn(target["keypoints"].shape, generator=generator) * 6
            found["keypoints"] = target["keypoints"] + noise * torch.tensor([1, 1, 0])
        detections.append(found)
    labels = range(1, len(dataset.classes))
    assert 0.2 < assert_equal_to_official(detections, targets, kind, labels)["AP"] < 1


def test_bad_input_is_named():
    detection, target = random_masks(3, 7)
    with pytest.raises(ValueError, match="kind 'outlines' is none of boxes, masks, keypoints"):
        CocoMetrics("outlines")
    with pytest.raises(ValueError, match=r"image 7: masks of \(150, 189\) pixels for objects of \(150, 190\)"):
        CocoMetrics("masks").update([{**detection, "masks": detection["masks"][..., 1:]}], [target])
    detection, target = random_people(3, 7, people=2)
    with pytest.raises(ValueError, match=r"image 7: keypoints \(6, 16, 3\) and \(2, 17, 3\); want"):
        CocoMetrics("keypoints").update([{**detection, "keypoints": detection["keypoints"][:, 1:]}], [target])
