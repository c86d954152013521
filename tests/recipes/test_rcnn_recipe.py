"""The training of R-CNN's lesson: every stage in miniature, the files it writes, and what is shipped."""

import json
from pathlib import Path

import pytest
import torch

from lessons import zoo
from lessons.checkpoints import CheckpointError, data_hash, load_checkpoint
from lessons.data.crops import Crops
from lessons.data.proposed import WithProposals
from lessons.data.sample import DetectionDataset
from lessons.data.scenes import Scenes, compose_crop, compose_scene
from lessons.recipes import rcnn
from lessons.recipes.rcnn import Plan, adapt, build, first, fit, pre_train, start_from_pre_trained, train

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "datasets"
TINY = Plan(crops=40, pre_training_steps=2, images=3, fine_tuning_steps=2, fitted=3, measured=2)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Miniature profiles, and files in a folder of the test."""
    monkeypatch.setattr(rcnn, "PLANS", {"short": Plan(0, 0, 3, 2, 3, 2), "full": TINY})
    monkeypatch.setattr(rcnn, "PRE_TRAINED", tmp_path / "rcnn_pretrained.safetensors")
    monkeypatch.setattr(rcnn, "LESSON", tmp_path / "rcnn.safetensors")
    return tmp_path


def test_crops_are_those_of_the_scenes_made_once():
    crops = Crops(5, 64, seed=3)
    image, label = crops[2]
    want, want_label = compose_crop("train", 2, 3, 64)
    torch.testing.assert_close(image, want, atol=1e-7, rtol=0)
    assert label == want_label
    assert torch.equal(crops[2][0], image)
    assert len(crops) == 5


def test_the_full_profile_writes_the_lesson_and_resumes_to_the_same(tiny):
    folder = tiny / "run"
    first = train(profile="full", device="cpu", folder=folder)
    card = json.loads((tiny / "rcnn.json").read_text())
    assert {"command", "seed", "data", "steps", "seconds", "device", "metrics", "plan"} <= card.keys()
    assert set(card["metrics"]) == {"val", "val_unknown"}
    assert not first.training
    shipped = zoo.load("rcnn", tiny / "rcnn.safetensors")
    for name, value in first.state_dict().items():
        torch.testing.assert_close(shipped.state_dict()[name], value, rtol=1e-3, atol=1e-4, check_dtype=False)
    again = train(profile="full", device="cpu", folder=folder, resume=True)
    for name, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert (folder / "rcnn.safetensors").is_file()


def test_the_short_profile_begins_with_the_pre_trained_cnn(tiny):
    with pytest.raises(CheckpointError, match="rcnn_pretrained"):
        train(profile="short", device="cpu")
    train(profile="full", device="cpu")
    model = train(profile="short", device="cpu", folder=tiny / "short")
    assert (model.mean == load_checkpoint(tiny / "rcnn_pretrained.safetensors")[0]["mean"]).all()
    assert (tiny / "short" / "rcnn.safetensors").is_file()


def test_pre_training_teaches(tiny):
    model = build()
    history = pre_train(model, Plan(48, 25, 0, 0, 0, 0), device="cpu")
    assert sum(history["loss_crops"][-5:]) < 0.8 * sum(history["loss_crops"][:5])
    assert model.mean.std() > 0


def test_the_pre_trained_cnn_fits_any_number_of_classes(tiny):
    pre_train(source := build(), TINY, device="cpu")
    rcnn.save_pre_trained(source, {"seed": 0})
    model = build(num_classes=4)
    last = model.backbone.fc8.weight.clone()
    start_from_pre_trained(model)
    assert torch.equal(model.backbone.fc8.weight, last)
    torch.testing.assert_close(model.backbone.fc6.weight, source.backbone.fc6.weight, rtol=1e-3, atol=1e-6)


class TwoClasses(DetectionDataset):
    """Bright and dark squares, an image without any, and a class that never occurs."""

    name, split, classes = "squares", "train", ("background", "bright", "dark", "absent")

    def __len__(self) -> int:
        return 4

    def load(self, index):
        image = torch.full((3, 100, 120), 0.5)
        boxes = torch.tensor([[10.0, 20, 50, 60], [70, 30, 100, 80]])[: 0 if index == 3 else 2]
        for value, (x1, y1, x2, y2) in zip((0.9, 0.1), boxes.int().tolist(), strict=False):
            image[:, y1:y2, x1:x2] = value
        labels = torch.tensor([1, 2])[: len(boxes)]
        return image, {"boxes": boxes, "labels": labels, "area": boxes[:, 2] * 0 + 1600, "image_id": index,
                       "iscrowd": torch.zeros_like(labels)}


def test_adapting_to_another_set():
    model = adapt(WithProposals(TwoClasses(), count=50), steps=12, device="cpu")
    assert model.max_proposals == 50
    image, target = TwoClasses()[0]
    boxes, scores = model.candidates(image)
    assert scores.shape == (len(boxes), 3)
    truth = model.regions(image, target["boxes"])[1]
    assert truth[0, 0] > truth[1, 0], "the first SVM prefers the bright square"
    assert truth[1, 1] > truth[0, 1], "the second the dark one"
    assert (scores[:, 2] == -1).all(), "a class that never occurs is never found"


def test_fitting_needs_no_more_than_asked(tiny):
    data = WithProposals(Scenes("train", 5, size=96), count=20)
    model = build()
    fit(model, data, 2, progress=False)
    assert len(data.samples) == 2
    assert model.svm_weight.any()


# --- what is shipped ---------------------------------------------------------------------------------------------


def test_the_shipped_detector_finds_the_objects_of_a_few_scenes():
    """Far below its AP50 on 200 scenes, so that another torch version cannot fail it."""
    model = zoo.load("rcnn", "lesson")
    found = total = 0
    for index in range(6):
        image, target = compose_scene("val", index)
        detection = model([image])[0]
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            right = (detection["labels"] == label) & (detection["scores"] > -0.5)
            overlap = rcnn.RCNN.overlaps(model, detection["boxes"][right], {"boxes": box[None], "labels": label[None]})
            found += bool((overlap >= 0.5).any())
            total += 1
    assert found / total > 0.5


def test_the_shipped_files_are_small_and_say_how_they_were_made():
    for path in (rcnn.LESSON, rcnn.PRE_TRAINED):
        assert path.stat().st_size <= 6e6
        card = json.loads(path.with_suffix(".json").read_text())
        assert card["command"].startswith("python -m lessons.training rcnn --profile full")
        assert card["seed"] == 0
    card = json.loads(rcnn.LESSON.with_suffix(".json").read_text())
    trained_on = first(Scenes("train"), card["plan"]["images"])
    assert card["data"] == data_hash(trained_on), "the scenes changed since the checkpoint was trained"
    assert card["metrics"]["val"]["AP50"] > card["metrics"]["val_unknown"]["AP50"] > 0.1


def test_bccd_photographs(monkeypatch):
    if not (SHARED / "bccd").is_dir():
        pytest.skip("no bccd photographs beside the repository")
    monkeypatch.setenv("LESSONS_DATA", str(SHARED))
    data = WithProposals(rcnn.open_small("bccd", "train"), 2, count=60)
    model = adapt(data, steps=2, device="cpu")
    image, _ = data[0]
    assert image.shape == (3, 240, 320)
    assert len(model([image])[0]["boxes"]) > 0
