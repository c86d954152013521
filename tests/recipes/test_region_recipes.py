"""The trainings of SPPnet's and Fast R-CNN's lessons in miniature, and what is shipped of them."""

import json

import pytest
import torch

from lessons import zoo
from lessons.boxes import box_iou
from lessons.checkpoints import data_hash
from lessons.data.scenes import Scenes, compose_scene
from lessons.data.transforms import RandomMirror
from lessons.detection_training import Plan, open_with_proposals
from lessons.recipes import fast_rcnn, small_resnet, sppnet
from lessons.recipes.rcnn import fit, measure

RECIPES = {"sppnet": sppnet, "fast_rcnn": fast_rcnn}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Miniature profiles, and files in a folder of the test."""
    monkeypatch.setattr(sppnet, "PLANS", {"full": sppnet.Plan(3, 2, 2, 2)})
    monkeypatch.setitem(fast_rcnn.PLANS, "full", Plan(3, 2, 2, batch_size=2))
    monkeypatch.setattr(sppnet, "LESSON", tmp_path / "sppnet.safetensors")
    monkeypatch.setattr("lessons.detection_training.CHECKPOINTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", RECIPES)
def test_the_full_profile_writes_the_lesson_and_resumes_to_the_same(name, tiny):
    folder = tiny / "run"
    first = RECIPES[name].train(profile="full", device="cpu", folder=folder, resume=True)
    assert (folder / "proposals.safetensors").is_file()
    card = json.loads((tiny / f"{name}.json").read_text())
    assert {"command", "seed", "data", "steps", "seconds", "device", "metrics", "plan"} <= card.keys()
    assert card["data"] == data_hash(Scenes("train", 3)), "the same pictures, however they were mirrored"
    assert not first.training
    shipped = zoo.load(name, tiny / f"{name}.safetensors")
    again = RECIPES[name].train(profile="full", device="cpu", folder=folder, resume=True)
    for key, value in first.state_dict().items():
        torch.testing.assert_close(shipped.state_dict()[key], value, rtol=1e-3, atol=1e-3, check_dtype=False)
        assert torch.equal(again.state_dict()[key], value), key


def test_they_begin_with_the_pre_trained_body(tiny):
    """SPPnet's convolutions also end with it."""
    model = sppnet.train(profile="full", device="cpu")
    body = small_resnet.build(steps=(1, 2, 1))
    small_resnet.start_from_pre_trained(body)
    for name, value in body.state_dict().items():
        assert torch.equal(model.backbone.body.state_dict()[name], value), name
    assert not (tiny / "run").exists()


def test_proposals_are_mirrored_with_their_picture():
    data = open_with_proposals("scenes", 2, 60)
    assert isinstance(data.transform, RandomMirror)
    image, target = data.load(0)
    data.transform = RandomMirror(1)
    mirrored, changed = data[0]
    assert torch.equal(mirrored, image.flip(-1))
    before, after = box_iou(target["proposals"], target["boxes"]), box_iou(changed["proposals"], changed["boxes"])
    assert before.amax() > 0.5
    torch.testing.assert_close(before, after)


def test_svms_are_fitted_to_pyramids():
    data = open_with_proposals("scenes", 2, 40)
    data.transform = None
    model = sppnet.build()
    fit(model, data, progress=False)
    assert model.svm_weight.any()
    assert model.box_weight.shape == (6, 4, 50 * 144)
    assert measure(model, "scenes", 1).keys() == {"val", "val_unknown"}


# --- what is shipped ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "threshold", "share"), [("sppnet", -0.5, 0.3), ("fast_rcnn", 0.3, 0.5)])
def test_the_shipped_detector_finds_the_objects_of_a_few_scenes(name, threshold, share):
    """Far below its AP50 on 200 scenes, so that another torch version cannot fail it."""
    model = zoo.load(name, "lesson")
    found = total = 0
    for index in range(6):
        image, target = compose_scene("val", index)
        detection = model([image])[0]
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            right = (detection["labels"] == label) & (detection["scores"] > threshold)
            found += bool((box_iou(detection["boxes"][right], box[None]) >= 0.5).any())
            total += 1
    assert found / total > share


@pytest.mark.parametrize("name", RECIPES)
def test_the_shipped_files_are_small_and_say_how_they_were_made(name):
    path = zoo.CHECKPOINTS / f"{name}.safetensors"
    assert path.stat().st_size <= 6e6
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["command"].startswith(f"python -m lessons.training {name} --profile full")
    assert card["seed"] == 0
    assert card["plan"]["images"] == RECIPES[name].PLANS["full"].images
    assert card["data"] == data_hash(Scenes("train", card["plan"]["images"])), "the scenes changed since the training"
    assert card["metrics"]["val"]["AP50"] > card["metrics"]["val_unknown"]["AP50"] > 0.1
