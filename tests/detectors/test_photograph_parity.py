"""All five reference-size detectors on photographs, as the benchmark `parity` compares them, in single precision."""

import os

import pytest
import torch

from benchmarks.alive import NAMES, coco_pictures, cut, embedded_pictures, limit_regions, model_pair
from benchmarks.parity import COLUMNS, batch_of, detection_differences, largest, main, step_differences
from lessons.data.catalogue import open_dataset


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_single_precision(name):
    """Every layer's output, in units of its largest, within 1e-4, and what is found within a hundredth of a pixel."""
    samples = embedded_pictures(2, 170)
    mine, theirs = model_pair(name, 128)
    if "rcnn" in name:
        limit_regions(mine, theirs, 8)
    images, targets = batch_of(samples, name, torch.float32)
    found = detection_differences(mine, theirs, images, whole=True)
    assert found["layers"] < 1e-4
    assert found["boxes"] < 1e-2
    assert max(found["scores"], found.get("masks", 0)) < 1e-4
    assert min(found["found 0"], found["found 1"]) >= 8
    step = step_differences(mine, theirs, images, targets)
    assert max(step.values()) < 2e-3


def test_photographs_of_coco():
    """Where a folder of COCO's photographs is there, its pictures and objects go in as they are."""
    try:
        data = open_dataset("coco2017", "train", os.environ.get("LESSONS_DATA", ".") + "/coco_mini_cc")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    name = "retinanet_resnet50_fpn"
    samples = coco_pictures(data, 2)
    mine, theirs = model_pair(name, 96)
    images, targets = batch_of(samples, name, torch.float32)
    assert detection_differences(mine, theirs, images)["boxes"] < 1e-2
    assert step_differences(mine, theirs, images, targets)["losses"] < 1e-5


def test_embedded_pictures_differ_in_shape_and_keep_their_objects():
    samples = embedded_pictures(3, 120)
    assert [tuple(image.shape) for image, _ in samples] == [(3, 90, 120), (3, 120, 80), (3, 108, 120)]
    for image, target in samples:
        height, width = image.shape[1:]
        assert target["masks"].shape == (len(target["labels"]), height, width)
        assert (target["boxes"] <= torch.tensor([width, height, width, height])).all()
        for mask, (x1, y1, x2, y2) in zip(target["masks"], target["boxes"].int().tolist(), strict=True):
            assert mask.any(0).nonzero().aminmax() == (x1, x2 - 1)
            assert mask.any(1).nonzero().aminmax() == (y1, y2 - 1)
        points = target["keypoints"][..., :2]
        assert ((points >= target["boxes"][:, None, :2]) & (points <= target["boxes"][:, None, 2:])).all()


def test_a_difference_is_seen():
    """The comparison notices one changed weight, and another number of objects."""
    name = "fasterrcnn_resnet50_fpn"
    mine, theirs = model_pair(name, 96)
    images, targets = batch_of(embedded_pictures(1, 128), name, torch.float32)
    limit_regions(mine, theirs, 8)
    with torch.no_grad():
        mine.box_head.cls_score.bias[targets[0]["labels"][0]] += 0.1
    assert detection_differences(mine, theirs, images)["layers"] > 1e-3
    assert step_differences(mine, theirs, images, targets)["losses"] > 1e-3
    mine.box_head.max_detections = 5
    with pytest.raises(ValueError, match="picture 0: the models find 5 and 8 objects"):
        detection_differences(mine, theirs, images)
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\) differ"):
        largest(torch.zeros(2), torch.zeros(3))


def test_a_cut_leaves_out_what_is_no_longer_there():
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[0, 5:25, 3:30] = masks[1, 30:, 30:] = True
    found = cut({"masks": masks, "labels": torch.tensor([4, 5]), "boxes": torch.zeros(2, 4)}, 20, 40)
    assert found["labels"].tolist() == [4]
    assert found["boxes"].tolist() == [[3, 5, 30, 20]]


def test_the_table(capsys):
    main(["--only", "nothing", "--short-side", "96"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "float64, short side 96, pictures of 96x128, 128x85"
    assert lines[1].split() == ["model", "names", "found", *COLUMNS]
