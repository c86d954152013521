"""Detectors that learn all at once: their recipes in miniature, the files that they write, and what is shipped."""

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from lessons import detection_training, zoo
from lessons.boxes import box_iou
from lessons.checkpoints import CheckpointError, data_hash
from lessons.data.scenes import CLASSES, Scenes
from lessons.detection_training import Plan, open_for_measuring, open_for_training, random_mirrors
from lessons.plans import PHOTOGRAPHS, Photographs, side_of
from lessons.recipes import small_resnet

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "datasets"
NAMES = ("faster_rcnn", "fpn", "mask_rcnn", "keypoint_rcnn", "retinanet", "fcos", "centernet", "detr")
SHIPPED = ("faster_rcnn", "fpn", "mask_rcnn", "keypoint_rcnn", "retinanet", "fcos", "centernet", "detr")
REACHED = {"centernet": 0.5}  # AP50 on known objects where it is not 0.6: the card says 0.530
SURE = {"centernet": 0.1}  # score from which a detection counts where it is not 0.3, which few of its boxes reach
TINY = Plan(images=4, steps=3, measured=2, batch_size=2)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Miniature profiles; the lessons' own checkpoints go into a folder of the test, the body comes from where it is."""
    monkeypatch.setattr(detection_training, "CHECKPOINTS", tmp_path)
    for name in NAMES:
        plans = importlib.import_module(f"lessons.recipes.{name}").PLANS
        for profile in plans:
            monkeypatch.setitem(plans, profile, TINY)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_writes_a_checkpoint_that_the_zoo_loads(name, tiny):
    recipe = importlib.import_module(f"lessons.recipes.{name}")
    model = recipe.train(profile="full", device="cpu", folder=tiny / "run")
    card = json.loads((tiny / f"{name}.json").read_text())
    more = {"mask_rcnn": ["val masks", "val_unknown masks"], "keypoint_rcnn": ["val keypoints", "val_unknown keypoints"]}
    assert set(card["metrics"]) == {"val", "val_unknown", *more.get(name, [])}
    assert card["steps"] == 3
    assert not model.training
    loaded = zoo.load(name, tiny / f"{name}.safetensors")
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=1e-3, atol=1e-4, check_dtype=False)
    assert (tiny / f"{name}.safetensors").stat().st_size <= 6e6


def test_an_interrupted_training_resumes_to_the_same(tiny, monkeypatch):
    from lessons.recipes import faster_rcnn
    from lessons.training import Trainer

    whole = faster_rcnn.train(device="cpu", folder=tiny / "whole")
    step = Trainer.train_step

    def interrupted(self, batch):
        if self.done == 2:
            raise KeyboardInterrupt
        step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    monkeypatch.setattr(Trainer, "save_every", 1)
    with pytest.raises(KeyboardInterrupt):
        faster_rcnn.train(device="cpu", folder=tiny / "parts")
    monkeypatch.setattr(Trainer, "train_step", step)
    resumed = faster_rcnn.train(device="cpu", folder=tiny / "parts", resume=True)
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_a_plan_may_fall_straight_and_keep_averaged_weights(tiny, monkeypatch):
    from lessons.recipes import faster_rcnn

    plan = replace(TINY, steps=8, learning_rate=1e-3, straight=True, ema_decay=0.9)
    monkeypatch.setitem(faster_rcnn.PLANS, "short", plan)
    trainers, fit = [], detection_training.fit
    monkeypatch.setattr(detection_training, "fit", lambda *given, **named: trainers.append(fit(*given, **named)) or trainers[0])
    model = faster_rcnn.train(device="cpu", folder=tiny / "run")
    trainer, = trainers
    rates = [rate / 1e-3 for rate in trainer.history["lr"]]
    assert rates == pytest.approx([1 / 2, 1, *(k / 6 for k in range(6, 0, -1))])  # two steps of rise, then a line
    last, averaged = trainer.model.state_dict(), trainer.average.tensors
    assert any(not torch.equal(value, last[key].cpu()) for key, value in averaged.items())
    for key, value in model.state_dict().items():
        assert torch.equal(value, averaged[key]), key
    saved = zoo.load("faster_rcnn", tiny / "run/faster_rcnn.safetensors").state_dict()
    for key, value in averaged.items():
        torch.testing.assert_close(saved[key], value, rtol=1e-3, atol=1e-4, check_dtype=False)


def test_a_straight_fall_has_no_restarts():
    with pytest.raises(ValueError, match=r"does not start again, but restarts are \(2,\)"):
        replace(TINY, straight=True, restarts=(2,))


def test_detrs_losses_weigh_otherwise_in_its_last_turns(tiny, monkeypatch):
    """The recipe's own steps, at which the rate is full again, moved into a training of three steps; the card says."""
    from lessons.detectors.detr import DETR
    from lessons.recipes import detr

    assert len(detr.NO_OBJECT_WEIGHTS) == len(detr.CLASS_WEIGHTS) == len(detr.TURNS) + 1  # those before the first, too
    weights = []
    losses = DETR.losses
    monkeypatch.setattr(DETR, "losses", lambda model, *given: (weights.append((model.no_object_weight, model.loss_weights)),
                                                               losses(model, *given))[1])
    monkeypatch.setattr(detr, "TURNS", (0, 0, 1, 2, 3))
    detr.train(device="cpu", folder=tiny / "turns")
    assert weights == [(0.4, (1, 5, 2)), (1.0, (1, 5, 2)), (1.0, (5, 5, 2))]
    assert json.loads((tiny / "turns/detr.json").read_text())["no_object_weights"] == [0.1, 0.1, 0.4, 1.0, 1.0, 1.0]
    assert DETR.loss_weights == (1, 5, 2)


@pytest.mark.parametrize("name", NAMES)
def test_built_twice_from_a_seed_is_the_same_and_leaves_the_generator_alone(name):
    build = importlib.import_module(f"lessons.recipes.{name}").build
    state = torch.get_rng_state()
    first, second, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    layer = next(key for key in first.state_dict() if not key.startswith("backbone") and key.endswith("weight"))
    weights = [model.state_dict()[layer] for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_body_may_have_a_rate_of_its_own():
    from lessons.recipes import detr

    model, plan = detr.build(), Plan(4, 4, 2, learning_rate=2.0, body_rate=0.25)
    rest, body = detection_training.parameter_groups(model, plan)
    assert body["lr"] == 0.5
    assert "lr" not in rest
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {id(p) for p in body["params"]} == {id(p) for name, p in named.items() if name.startswith("backbone.body.")}
    assert len(rest["params"]) + len(body["params"]) == len(named)
    alone, = detection_training.parameter_groups(model, Plan(4, 4, 2))
    assert {id(p) for p in alone["params"]} == {id(p) for p in named.values()}


def test_every_detector_begins_with_the_pre_trained_body():
    wanted = small_resnet.build(seed=3)
    small_resnet.start_from_pre_trained(wanted)
    single = small_resnet.build(seed=4, steps=(1, 2, 1))  # one stage less, and another step
    small_resnet.start_from_pre_trained(single)
    for key, value in single.state_dict().items():
        assert torch.equal(value, wanted.state_dict()[key]), key


def test_a_detector_goes_on_from_a_finished_lesson():
    build = importlib.import_module("lessons.recipes.mask_rcnn").build
    model, finished = build(), zoo.load("fpn", "lesson").state_dict()
    detection_training.start_from_lesson(model, "fpn")
    for key, value in finished.items():
        assert torch.equal(model.state_dict()[key], value), key
    with pytest.raises(CheckpointError, match=r"MaskRCNN has no \S+, which the lesson's small_resnet has"):
        detection_training.start_from_lesson(model, "small_resnet")


def test_masks_take_longer_than_boxes_on_nuclei():
    steps = {name: importlib.import_module(f"lessons.recipes.{name}").train.__self__.plan("nuclei", "full").steps
             for name in ("faster_rcnn", "fpn", "mask_rcnn")}
    assert steps["faster_rcnn"] == steps["fpn"] == PHOTOGRAPHS["nuclei"].plan.steps
    assert steps["mask_rcnn"] == PHOTOGRAPHS["nuclei"].mask_steps > steps["fpn"]
    assert PHOTOGRAPHS["bccd"].plan_for(draws_masks=True) == PHOTOGRAPHS["bccd"].plan


@pytest.mark.parametrize("name", ["fast_rcnn", "faster_rcnn", "fpn", "mask_rcnn", "keypoint_rcnn"])
def test_other_classes_begin_as_the_mean_of_the_known_objects(name):
    build = importlib.import_module(f"lessons.recipes.{name}").build
    model, finished = build(num_classes=4), zoo.load(name, "lesson").state_dict()
    num_known = zoo.load(name, "lesson").box_head.num_classes
    detection_training.start_from_lesson(model, name)
    changed = {key for key, value in model.state_dict().items() if value.shape != finished[key].shape}
    per_class = {layer for layer in detection_training.PER_CLASS if f"{layer}.weight" in finished}
    assert {key.rpartition(".")[0] for key in changed} == per_class
    for key, value in model.state_dict().items():
        known = finished[key]
        if key in changed:
            background, *objects = value.chunk(4)
            first, *rest = known.chunk(num_known)
            assert torch.equal(background, first), key
            for one in objects:
                torch.testing.assert_close(one, torch.stack(rest).mean(dim=0))
        else:
            assert torch.equal(value, known), key


def test_weights_for_other_classes_must_fit_the_known_ones():
    rows = torch.arange(12.0).reshape(12, 1)
    to_background = detection_training.for_other_classes(rows, 3, 1)
    assert torch.equal(to_background, rows[:4])
    for num_known in (0, 1, 5):
        with pytest.raises(ValueError, match=f"12 rows of weights are not those of {num_known} classes"):
            detection_training.for_other_classes(rows, num_known, 2)


def test_photographs_are_measured_one_at_a_time(monkeypatch):
    class Blind(torch.nn.Module):
        def forward(self, images):
            seen.append(len(images))
            return [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
                    for _ in images]

    monkeypatch.setattr(detection_training, "open_for_measuring", lambda *_: Scenes("val", length=3))
    for dataset, wanted in (("nuclei", [1, 1, 1]), ("scenes", [3, 3])):  # of the scenes there are two splits
        seen = []
        found = detection_training.measure(Blind(), dataset, 3)
        assert seen == wanted
        assert all(numbers["AP"] == 0 for numbers in found.values())


def test_a_detector_whose_classes_lie_otherwise_keeps_its_new_layers():
    build = importlib.import_module("lessons.recipes.retinanet").build
    model, finished = build(num_classes=3), zoo.load("retinanet", "lesson").state_dict()
    untrained = {key: value.clone() for key, value in model.state_dict().items()}
    detection_training.start_from_lesson(model, "retinanet")
    others = {key for key, value in finished.items() if value.shape != untrained[key].shape}
    assert others
    for key, value in model.state_dict().items():
        assert torch.equal(value, untrained[key] if key in others else finished[key]), key


def test_without_the_pre_trained_body_a_sentence_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(small_resnet, "LESSON", tmp_path / "small_resnet.safetensors")
    with pytest.raises(CheckpointError, match=r"There is no .*small_resnet\.safetensors"):
        small_resnet.start_from_pre_trained(small_resnet.build())


def test_the_body_learns_crops_and_refuses_other_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(small_resnet, "PLANS", {"short": small_resnet.Plan(64, 12, 30)})
    small_resnet.train(device="cpu", folder=tmp_path)
    card = json.loads((tmp_path / "small_resnet.json").read_text())
    assert set(card["metrics"]) == {"val", "val_unknown"}
    with pytest.raises(ValueError, match="not on bccd"):
        small_resnet.train(dataset="bccd")


def test_other_sets_are_seen_at_the_lessons_size(monkeypatch):
    if not (SHARED / "dsb2018_nuclei").is_dir():
        pytest.skip("no nuclei beside the repository")
    monkeypatch.setenv("LESSONS_DATA", str(SHARED))
    assert side_of("nuclei") == 512
    image, target = open_for_measuring("nuclei", "val")[0]
    assert min(image.shape[1:]) == 512
    mirrored = [open_for_training("nuclei", 10)[0][0] for _ in range(12)]
    assert any(not torch.equal(picture, mirrored[0]) for picture in mirrored), "some are mirrored"


def test_small_sets_are_read_once_and_masks_only_for_detectors_that_use_them(tmp_path, monkeypatch):
    from lessons.recipes import fpn, keypoint_rcnn, mask_rcnn

    for name in "abcdefgh":  # some of them belong to the training split
        for file in (f"images/{name}.png", "masks/0.png"):
            path = tmp_path / "nuclei/stage1_train" / name / file
            path.parent.mkdir(parents=True)
            Image.new("RGB" if file[0] == "i" else "L", (30, 20), "white").save(path)
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    recipes = {module: module.train.__self__ for module in (fpn, mask_rcnn, keypoint_rcnn)}
    sets = {module: recipe.open("nuclei", recipe.plan("nuclei", "full")) for module, recipe in recipes.items()}
    assert "masks" not in sets[fpn][0][1]
    assert sets[mask_rcnn][0][1]["masks"].shape[1:] in ((512, 768), (768, 512))
    assert "keypoints" in sets[keypoint_rcnn][0][1]
    shutil.rmtree(tmp_path / "nuclei")
    assert all(len(data[0][1]["boxes"]) == 1 for data in sets.values()), "remembered"


def test_photographs_have_plans_of_their_own():
    from lessons.recipes import fpn

    recipe = detection_training.Recipe("fpn", fpn.build, fpn.PLANS)
    assert recipe.plan("scenes", "full") is fpn.PLANS["full"]
    assert recipe.plan("scenes", "short") is recipe.plan("bccd", "short") is fpn.PLANS["short"]
    assert recipe.plan("bccd", "full").steps < fpn.PLANS["full"].steps
    assert recipe.plan("coco2017", "full") is fpn.PLANS["full"]


def test_on_photographs_numbers_of_regions_and_thresholds_are_those_of_the_set():
    from lessons.recipes import faster_rcnn, fcos, fpn

    built = {name: detection_training.Recipe("x", fpn.build, fpn.PLANS).build_for(name, 2) for name in ("scenes", "nuclei")}
    assert built["nuclei"].rpn.sizes == built["scenes"].rpn.sizes == fpn.ANCHOR_SIZES
    assert built["nuclei"].box_head.batch_size == PHOTOGRAPHS["nuclei"].regions > built["scenes"].box_head.batch_size
    allowed = PHOTOGRAPHS["nuclei"]
    assert built["nuclei"].rpn.after_nms == {True: allowed.proposals_train, False: allowed.proposals_test}
    assert built["nuclei"].box_head.nms_threshold == PHOTOGRAPHS["nuclei"].nms_threshold > built["scenes"].box_head.nms_threshold
    assert built["nuclei"].prepare.min_sizes == (512,)
    for key, value in built["scenes"].state_dict().items():
        assert torch.equal(value, built["nuclei"].state_dict()[key]), key
    one = detection_training.Recipe("x", faster_rcnn.build, {}).build_for("nuclei", 2)
    assert one.rpn.sizes == (faster_rcnn.ANCHOR_SIZES,)
    assert one.rpn.before_nms == {True: 2 * allowed.proposals_train, False: 2 * allowed.proposals_test}
    detection_training.Recipe("x", fcos.build, {}).build_for("nuclei", 2)  # which has no such numbers


def test_only_photographs_that_allow_it_are_turned():
    image = torch.arange(6.0).reshape(1, 3, 2).expand(3, 3, 2)
    target = {"boxes": torch.zeros(0, 4), "image_id": 1}
    seen = {name: {tuple(random_mirrors(name)(image, target)[0][0, :, 0].tolist()) for _ in range(40)}
            for name in ("scenes", "bccd", "coco2017")}
    lying = {random_mirrors("nuclei")(image, target)[0].shape for _ in range(40)}
    assert lying == {(3, 3, 2), (3, 2, 3)}
    assert seen["bccd"] == {(0, 2, 4), (1, 3, 5), (4, 2, 0), (5, 3, 1)}
    assert seen["scenes"] == seen["coco2017"] == {(0, 2, 4), (1, 3, 5)}


def test_on_photographs_a_detector_goes_on_from_its_own_lesson(tmp_path, monkeypatch):
    if not (SHARED / "bccd").is_dir():
        pytest.skip("no bccd beside the repository")
    from lessons.recipes import fpn

    monkeypatch.setenv("LESSONS_DATA", str(SHARED))
    still = Plan(images=4, steps=1, measured=1, batch_size=1, learning_rate=0.0)
    monkeypatch.setitem(detection_training.PHOTOGRAPHS, "bccd", Photographs(still, 64, regions=99))
    model = fpn.train(dataset="bccd", profile="full", device="cpu", folder=tmp_path)
    card = json.loads((tmp_path / "fpn.json").read_text())
    assert (card["begins_with"], card["steps"], list(card["metrics"])) == ("fpn", 1, ["val"])
    finished = zoo.load("fpn", "lesson").state_dict()
    assert torch.equal(model.state_dict()["rpn.conv.weight"], finished["rpn.conv.weight"])
    assert model.box_head.num_classes == 4  # red cells, white cells, platelets
    assert model.box_head.batch_size == 99
    monkeypatch.setattr(detection_training, "CHECKPOINTS", tmp_path / "none")
    fpn.train(dataset="bccd", profile="full", device="cpu", folder=tmp_path)
    assert json.loads((tmp_path / "fpn.json").read_text())["begins_with"] == "small_resnet"


# --- what is shipped ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_detector_finds_the_objects_of_a_few_scenes(name):
    """Far below its recall on 200 scenes, so that another torch version cannot fail it."""
    model, data = zoo.load(name, "lesson"), Scenes("val", 8)
    found = total = 0
    for index in range(8):
        image, target = data[index]
        with torch.no_grad():
            detection = model([image])[0]
        sure = detection["scores"] > SURE.get(name, 0.3)
        overlap = box_iou(target["boxes"], detection["boxes"][sure])
        right = (overlap > 0.5) & (target["labels"][:, None] == detection["labels"][sure])
        found += int(right.any(1).sum())
        total += len(overlap)
    assert found / total > 0.5


@pytest.mark.parametrize("name", ["small_resnet", *SHIPPED])
def test_the_shipped_files_are_small_and_say_how_they_were_made(name):
    path = zoo.CHECKPOINTS / f"{name}.safetensors"
    card = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size <= 6e6
    assert card["command"].startswith(f"python -m lessons.training {name} --profile full")
    assert card["seed"] == 0
    if name in SHIPPED:
        scenes = Scenes("train", card["plan"]["images"])
        assert card["data"] == data_hash(scenes), "the scenes changed since the checkpoint was trained"
        assert card["metrics"]["val"]["AP50"] >= REACHED.get(name, 0.6)
        assert card["metrics"]["val"]["AP"] > card["metrics"]["val_unknown"]["AP"]
    assert len(CLASSES) == 7
