"""What a detector is given and cannot look at or learn from: one sentence says what was wrong, with the value."""

import importlib
import math

import pytest
import torch

from lessons.data.scenes import Scenes
from lessons.detectors.faster_rcnn import RegionProposalNetwork
from lessons.images import ImagePreparation, resize
from lessons.keypoints import keypoint_loss

NAMES = ("fast_rcnn", "faster_rcnn", "fpn", "mask_rcnn", "keypoint_rcnn", "retinanet", "fcos", "centernet", "detr")
PICTURE, BOXES = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([[4.0, 6.0, 30.0, 40.0]])


def target(**changes):
    whole = {"boxes": BOXES, "labels": torch.tensor([2]), "masks": torch.ones(1, 48, 64, dtype=torch.bool),
             "keypoints": torch.tensor([[[10.0, 20.0, 2.0]] * 4]), "proposals": BOXES + 2}
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return importlib.import_module(f"lessons.recipes.{request.param}").build().train()


PICTURES = [
    ([], "there are no pictures to look at"),
    ([torch.rand(1, 48, 64)], r"image 0 of shape \(1, 48, 64\).* want \(3, H, W\)"),
    ([PICTURE, torch.rand(48, 64, 3)], r"image 1 of shape \(48, 64, 3\)"),
    ([torch.rand(4, 48, 64)], r"image 0 of shape \(4, 48, 64\)"),
    ([torch.rand(3, 0, 64)], r"image 0 of shape \(3, 0, 64\)"),
    ([torch.zeros(3, 48, 64, dtype=torch.uint8)], "image 0 .* torch.uint8: want .* floats"),
    ([torch.full((3, 48, 64), math.nan)], "image 0 has the value nan; want numbers from 0 to 1"),
    ([torch.full((3, 48, 64), -math.inf)], "image 0 has the value -inf"),
    ([torch.rand(3, 1, 5000)], "a picture of 1 x 5000 pixels, shrunk to a long side of 320"),
]


@pytest.mark.parametrize(("images", "message"), PICTURES)
def test_pictures_that_are_none(images, message):
    with pytest.raises(ValueError, match=message):
        ImagePreparation((160,), 320)(images)


@pytest.mark.parametrize("images", [[], [torch.rand(1, 48, 64)], [torch.full((3, 48, 64), math.nan)]])
def test_every_detector_refuses_pictures_that_are_none(model, images):
    with pytest.raises(ValueError, match=r"no pictures|image 0"):
        model.eval()(images)
    model.train()


TARGETS = [
    (target(boxes=None), "a target has no boxes, only labels, masks, keypoints"),
    (target(boxes=torch.zeros(0)), r"boxes are of shape \(0,\); want \(N, 4\)"),
    (target(boxes=torch.zeros(0, 4)), r"labels are of shape \(1,\) for 0 boxes"),
    (target(boxes=torch.zeros(1, 4)), r"a target has the box \[0.0, 0.0, 0.0, 0.0\]"),
    (target(labels=torch.tensor([1, 1])), r"labels are of shape \(2,\) for 1 boxes"),
    (target(masks=torch.ones(1, 24, 32)), r"masks are of shape \(1, 24, 32\).* 48 x 64; want \(1, 48, 64\)"),
    (target(masks=torch.ones(1, 1, 48, 64)), r"masks are of shape \(1, 1, 48, 64\)"),
    (target(keypoints=torch.ones(2, 4, 3)), r"keypoints are of shape \(2, 4, 3\) for 1 boxes"),
]


@pytest.mark.parametrize(("wrong", "message"), TARGETS)
def test_every_detector_refuses_targets_that_do_not_fit(model, wrong, message):
    with pytest.raises(ValueError, match=message):
        model([PICTURE, PICTURE], [target(), wrong])


def test_every_detector_wants_one_target_for_each_picture(model):
    for targets, given in ((None, "none"), ([target()], "1"), ([target()] * 3, "3")):
        with pytest.raises(ValueError, match=f"training needs targets, one for each of 2 pictures.* given: {given}"):
            model([PICTURE, PICTURE], targets)


@pytest.mark.parametrize("label", [-1, 0, 7, 90])
@pytest.mark.parametrize("name", ["fast_rcnn", "faster_rcnn", "fpn", "mask_rcnn", "keypoint_rcnn"])
def test_labels_that_a_head_has_no_row_for(name, label):
    model = importlib.import_module(f"lessons.recipes.{name}").build(num_classes=7).train()
    with pytest.raises(ValueError, match=f"a target has the label {label}; this detector's objects have 1 to 6"):
        model([PICTURE], [target(labels=torch.tensor([label]))])


@pytest.mark.parametrize(("name", "key"), [("mask_rcnn", "masks"), ("keypoint_rcnn", "keypoints"),
                                           ("faster_rcnn", "labels")])
def test_what_a_detector_learns_from_must_be_there(name, key):
    model = importlib.import_module(f"lessons.recipes.{name}").build().train()
    with pytest.raises(ValueError, match=f"a target has no {key}, only .*; this detector learns from them"):
        model([PICTURE], [target(**{key: None})])


def test_another_number_of_keypoints_than_maps():
    with pytest.raises(ValueError, match=r"gt_keypoints of shapes \[\(1, 4, 3\)\] for 5 maps .* want \(G, 5, 3\)"):
        keypoint_loss(torch.zeros(1, 5, 8, 8), [BOXES], [target()["keypoints"]], [torch.tensor([0])])


def test_a_step_without_any_sample_costs_nothing():
    """Neither proposals nor objects: a mean over nothing would be NaN and stop the training."""
    model = importlib.import_module("lessons.recipes.fast_rcnn").build().train()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "proposals": torch.zeros(0, 4)}
    losses = model([PICTURE], [nothing])
    assert {name: loss.item() for name, loss in losses.items()} == dict.fromkeys(losses, 0.0)
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_numbers_of_proposals_are_an_instances_own():
    first, second = (RegionProposalNetwork(8, ((16,), (32,))) for _ in range(2))
    first.after_nms[False] = 7
    first.before_nms[True] = 9
    assert second.after_nms[False] == RegionProposalNetwork.after_nms[False] == 1000
    assert second.before_nms[True] == RegionProposalNetwork.before_nms[True] == 2000


@pytest.mark.parametrize("sizes", [(), ((),), ((16,), (32, 64))])
def test_anchors_that_differ_in_number_from_map_to_map(sizes):
    with pytest.raises(ValueError, match="anchor sizes .* equally many sizes"):
        RegionProposalNetwork(8, sizes)


def test_pictures_a_pixel_thin_are_still_seen():
    assert resize(torch.rand(3, 2, 320), 160, 320).shape == (3, 2, 320)
    model = importlib.import_module("lessons.recipes.faster_rcnn").build().eval()
    with torch.no_grad():
        found, = model([torch.rand(3, 1, 300)])
    assert found["boxes"].isfinite().all()


def test_good_scenes_are_not_refused(model):
    image, whole = Scenes("train", 1)[0]
    points = torch.ones(len(whole["boxes"]), 4, 3)
    losses = model([image], [{**whole, "keypoints": points, "proposals": whole["boxes"] + 1}])
    assert all(loss.isfinite() for loss in losses.values())
