"""The embedded scenes: what a sample promises, at every size, on every split; and that its bytes never change."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lessons.data import compose, paint, pictures
from lessons.data.sample import collate
from lessons.data.scenes import (
    CLASSES,
    LENGTHS,
    SEMANTIC_CLASSES,
    SPLITS,
    STUFF_CLASSES,
    Scenes,
    compose_crop,
    compose_scene,
)

SPLIT = st.sampled_from(list(SPLITS))
INDEX = st.integers(0, 10_000)

# (split, index, seed, size): first 16 hex digits of the sha256 over everything that a sample holds. They were found
# equal on Python 3.10 to 3.13 with numpy 1.24 to 2.5 and Pillow 10.0 to 13.0. A change of the pictures or of the
# composition changes them; then every published figure has to be measured anew.
DIGESTS = {
    ("train", 0, 0, 160): "dbabf85965ced59e",
    ("train", 1999, 0, 160): "7e0c9ebeda69d70f",
    ("train", 7, 3, 96): "8ca4d20aa67982bd",
    ("val", 0, 0, 160): "013499bca5b9c14f",
    ("val", 12, 0, 333): "bd1b99beced92d96",
    ("val_unknown", 5, 0, 160): "202c1110e5b6f627",
    ("val_unknown", 0, 1, 512): "08b8e885921b1e08",
    ("test", 3, 0, 160): "5a3dfa7ca4793140",
    ("test_unknown", 8, 2, 131): "f0a6b7ef391963fb",
    ("test_unknown", 0, 0, 1024): "7d4fda5ea09f82a4",
}
CROP_DIGEST = "4cd524dd0d9c1790"


def digest(sample) -> str:
    image, target = sample
    total = hashlib.sha256((image * 255).round().byte().numpy().tobytes())
    for key in sorted(target):
        value = target[key]
        total.update(key.encode())
        total.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else str(value).encode())
    return total.hexdigest()[:16]


def same(a, b) -> bool:
    return digest(a) == digest(b)


# ---- the same bytes everywhere -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", DIGESTS, ids=str)
def test_scenes_are_the_published_ones(key):
    assert digest(compose_scene(*key)) == DIGESTS[key]


def test_crops_are_the_published_ones():
    total = hashlib.sha256()
    for index in range(40):
        image, label = compose_crop("train", index, size=48)
        total.update((image * 255).round().byte().numpy().tobytes() + bytes([label]))
    assert total.hexdigest()[:16] == CROP_DIGEST


def test_the_image_is_bytes_over_255():
    image, _ = compose_scene("val", 0)
    assert image.dtype == torch.float32
    assert torch.equal((image * 255).round() / 255, image)


@settings(max_examples=15, deadline=None)
@given(SPLIT, INDEX, st.integers(0, 5))
def test_a_scene_does_not_depend_on_what_was_composed_before(split, index, seed):
    first = compose_scene(split, index, seed)
    compose_scene("train", index + 1, seed + 1, 200)
    compose_crop(split, index)
    paint.render_look.cache_clear()
    pictures.cutout.cache_clear()
    pictures.background.cache_clear()
    assert same(first, compose_scene(split, index, seed))


def test_the_global_generators_are_left_alone():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    compose_scene("train", 5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_index_seed_and_split_each_change_the_scene():
    scenes = [compose_scene(*key) for key in (("train", 0, 0), ("train", 1, 0), ("train", 0, 1), ("val", 0, 0),
                                              ("val_unknown", 0, 0), ("test", 0, 0), ("test_unknown", 0, 0))]
    assert len({digest(scene) for scene in scenes}) == len(scenes)


def test_two_hundred_scenes_of_a_split_all_differ():
    assert len({compose.plan_scene("train", index) for index in range(200)}) == 200


# ---- what a target promises --------------------------------------------------------------------------------------


def check_sample(image, target, size):
    boxes, masks, count = target["boxes"], target["masks"], len(target["labels"])
    assert image.shape == (3, size, size)
    assert 0 <= image.min() <= image.max() <= 1
    assert 1 <= count <= compose.MAX_OBJECTS
    for key, kind, shape in (("boxes", torch.float32, (count, 4)), ("labels", torch.int64, (count,)),
                             ("area", torch.float32, (count,)), ("visibility", torch.float32, (count,)),
                             ("iscrowd", torch.int64, (count,)), ("masks", torch.bool, (count, size, size)),
                             ("semantic", torch.int64, (size, size)), ("panoptic", torch.int64, (size, size))):
        assert target[key].dtype == kind, key
        assert target[key].shape == shape, key
    assert ((target["labels"] >= 1) & (target["labels"] < len(CLASSES))).all()
    assert (target["iscrowd"] == 0).all()
    assert masks.sum(0).max() <= 1, "a pixel belongs to one object"
    assert torch.equal(target["area"], masks.flatten(1).sum(1).float())
    assert ((target["visibility"] > 0) & (target["visibility"] <= 1)).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= size).all()
    for box, mask in zip(boxes.int().tolist(), masks, strict=True):
        rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
        assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def check_maps(target):
    masks, semantic, panoptic = target["masks"], target["semantic"], target["panoptic"]
    segments = dict(target["segments"].tolist())
    things = len(target["labels"])
    assert list(segments)[:things] == list(range(1, things + 1))
    assert set(panoptic.unique().tolist()) - {0} == set(segments)
    for segment, category in segments.items():
        assert (semantic[panoptic == segment] == category).all()
        assert (category < len(CLASSES)) == (segment <= things)
    for number, (mask, label) in enumerate(zip(masks, target["labels"].tolist(), strict=True), start=1):
        assert torch.equal(panoptic == number, mask)
        assert segments[number] == label
    assert ((semantic == 0) == (panoptic == 0)).all()
    stuff = [category for segment, category in segments.items() if segment > things]
    assert len(set(stuff)) == len(stuff)
    assert all(len(CLASSES) <= category < len(SEMANTIC_CLASSES) for category in stuff)


@settings(max_examples=60, deadline=None)
@given(SPLIT, INDEX, st.integers(0, 3), st.sampled_from([96, 97, 131, 160, 160, 160, 255, 333]))
def test_every_sample_keeps_its_promises(split, index, seed, size):
    image, target = compose_scene(split, index, seed, size)
    assert target["image_id"] == index
    check_sample(image, target, size)
    check_maps(target)


@pytest.mark.parametrize("size", [96, 512, 1024])
def test_the_sizes_at_the_ends(size):
    for index in range(3):
        image, target = compose_scene("val", index, 0, size)
        check_sample(image, target, size)
        check_maps(target)


@pytest.mark.parametrize("split", SPLITS)
def test_the_rule_of_visibility(split):
    shares = torch.cat([compose_scene(split, index)[1]["visibility"] for index in range(150)])
    assert shares.min() >= compose.MIN_VISIBLE
    assert (shares < 0.95).float().mean() > 0.15, "occlusion does occur"
    assert (shares == 1).float().mean() > 0.3


def test_the_rule_of_visibility_at_other_sizes():
    for size in (96, 320):
        shares = torch.cat([compose_scene("train", index, size=size)[1]["visibility"] for index in range(60)])
        assert shares.min() >= compose.MIN_VISIBLE - 0.05  # planned at 160 px; only rounding differs


def test_what_covers_an_object_is_in_front_of_it():
    """The mask is what the picture shows: without the later objects, the earlier ones have at least their mask."""
    plan = next(p for p in (compose.plan_scene("train", i) for i in range(50)) if len(p.objects) >= 4)
    _, owner, whole = paint.render(plan, 160)
    _, alone, _ = paint.render(paint.Plan(plan.backdrop, plan.objects[:1]), 160)
    assert ((owner == 1) <= (alone == 1)).all()
    assert (alone == 1).sum() == whole[0]


@settings(max_examples=20, deadline=None)
@given(SPLIT, INDEX, st.sampled_from([96, 240, 480]))
def test_a_scene_is_the_same_composition_at_every_size(split, index, size):
    _, small = compose_scene(split, index)
    _, other = compose_scene(split, index, size=size)
    assert torch.equal(small["labels"], other["labels"])
    place = (torch.arange(160) * 2 + 1) * size // 320  # the same point of the other map
    assert (small["panoptic"] == other["panoptic"][place][:, place]).float().mean() > 0.94
    assert (small["area"].sqrt() / 160 - other["area"].sqrt() / size).abs().max() < 0.02


@pytest.mark.parametrize("split", SPLITS)
def test_objects_are_large_enough_to_learn_and_of_many_sizes(split):
    roots = torch.cat([compose_scene(split, index)[1]["area"] for index in range(200)]).sqrt()
    assert roots.median() >= 36
    small = (roots < 32).float().mean()
    assert 0.15 < small < 0.4  # COCO's small objects, and its medium ones
    assert (roots < 96).all()


def test_classes_are_balanced_and_all_counts_occur():
    plans = [compose.plan_scene("train", index) for index in range(400)]
    labels = np.bincount([placed.label for plan in plans for placed in plan.objects], minlength=len(CLASSES))
    assert labels[1:].min() > 0.7 * labels[1:].mean()
    counts = np.bincount([sum(placed.label > 0 for placed in plan.objects) for plan in plans])
    assert len(counts) == compose.MAX_OBJECTS + 1
    assert counts[0] == 0
    assert counts[1:].min() > 30
    with_distractor = np.mean([any(placed.label == 0 for placed in plan.objects) for plan in plans])
    assert 0.2 < with_distractor < 0.45


def test_every_object_and_background_of_a_split_is_used():
    plans = [compose.plan_scene("val_unknown", index) for index in range(300)]
    used = {placed.look.file for plan in plans for placed in plan.objects}
    used |= {plan.backdrop.photo.file for plan in plans}
    assert used == {photo.file for photo in pictures.photos() if photo.split == "val"}


# ---- splits ------------------------------------------------------------------------------------------------------


def test_the_table_of_splits():
    assert SPLITS == {"train": ("train", "train"), "val": ("train", "val"), "val_unknown": ("val", "val"),
                      "test": ("train", "test"), "test_unknown": ("test", "test")}


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_takes_objects_and_background_from_its_split_only(split):
    of = {photo.file: photo for photo in pictures.photos()}
    objects, backgrounds = SPLITS[split]
    for index in range(80):
        for plan in (compose.plan_scene(split, index), compose.plan_crop(split, index)):
            assert plan.backdrop.photo.split == backgrounds
            assert plan.backdrop.photo.role == "background"
            for placed in plan.objects:
                photo = of[placed.look.file]
                assert photo.split == objects
                assert photo.role == (CLASSES[placed.label] if placed.label else "distractor")


def test_no_object_group_and_no_background_is_in_two_splits():
    for key in (lambda p: p.file, lambda p: (p.role, p.group) if p.group else p.file):
        places: dict = {}
        for photo in pictures.photos():
            places.setdefault(key(photo), set()).add(photo.split)
        assert all(len(splits) == 1 for splits in places.values())


# ---- stuff -------------------------------------------------------------------------------------------------------


def test_every_band_has_a_known_name_and_ends_at_the_bottom():
    for photo in pictures.photos():
        assert all(name in STUFF_CLASSES for name, _ in photo.bands)
        if photo.role == "background":
            ends = [end for _, end in photo.bands]
            assert ends == sorted(set(ends))
            assert ends[-1] == 1000
    used = {name for photo in pictures.photos() for name, _ in photo.bands}
    assert used == set(STUFF_CLASSES)


def test_bands_move_with_the_square_that_is_shown():
    (photo,) = [p for p in pictures.photos() if p.file.endswith("mate_Storm.webp")]  # sky to 0.7 | ground to 1
    height = pictures.background(photo.file)[0].shape[0]
    gains = (256, 256, 256)
    rows = paint.stuff_rows(paint.Backdrop(photo, (0, 0, height), False, gains), 100)
    assert [STUFF_CLASSES[i] for i in rows] == ["sky"] * 70 + ["ground"] * 30
    rows = paint.stuff_rows(paint.Backdrop(photo, (0, height // 2, height // 2), False, gains), 100)
    assert [STUFF_CLASSES[i] for i in rows] == ["sky"] * 40 + ["ground"] * 60
    rows = paint.stuff_rows(paint.Backdrop(photo, (0, 0, height // 2), False, gains), 100)
    assert {STUFF_CLASSES[i] for i in rows} == {"sky"}


# ---- the data set ------------------------------------------------------------------------------------------------


def test_the_data_set_holds_the_scenes():
    scenes = Scenes("val", length=7, seed=2, size=128)
    assert len(scenes) == 7
    assert scenes.classes == CLASSES
    assert same(scenes[3], compose_scene("val", 3, 2, 128))
    assert same(scenes[-1], compose_scene("val", 6, 2, 128))
    assert len(list(scenes)) == 7
    assert {split: len(Scenes(split)) for split in SPLITS} == LENGTHS
    assert len(Scenes("train", length=0)) == 0


def test_the_data_set_applies_its_transform_and_collates():
    scenes = Scenes("train", length=4)
    scenes.transform = lambda image, target: (image.flip(-1), target)
    images, targets = collate([scenes[0], scenes[1]])
    assert torch.equal(images[0], compose_scene("train", 0)[0].flip(-1))
    assert [target["image_id"] for target in targets] == [0, 1]


def test_the_data_set_can_be_read_by_worker_processes():
    scenes = Scenes("train", length=6)
    loader = torch.utils.data.DataLoader(scenes, batch_size=3, num_workers=2, collate_fn=collate)
    loaded = [(image, target) for images, targets in loader for image, target in zip(images, targets, strict=True)]
    assert [digest(sample) for sample in loaded] == [digest(sample) for sample in scenes]


def test_coco_dictionary_decodes_to_the_masks():
    from pycocotools import mask as rle

    scenes = Scenes("val", length=5)
    coco = scenes.coco()
    assert [image["id"] for image in coco["images"]] == [0, 1, 2, 3, 4]
    assert [category["name"] for category in coco["categories"]] == list(CLASSES[1:])
    rows = [row for row in coco["annotations"] if row["image_id"] == 3]
    target = scenes[3][1]
    for row, mask, box in zip(rows, target["masks"], target["boxes"].tolist(), strict=True):
        assert (rle.decode(row["segmentation"]) == mask.numpy()).all()
        assert rle.toBbox(row["segmentation"]).tolist() == row["bbox"]
        assert row["bbox"] == [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        assert row["area"] == mask.sum()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: compose_scene("validation", 0), "unknown split 'validation'"),
    (lambda: compose_scene("train", -1), "index must not be negative, got -1"),
    (lambda: compose_scene("train", 0, seed=-3), "seed must not be negative, got -3"),
    (lambda: compose_scene("train", 0, size=95), "96 to 1024 px wide, got size 95"),
    (lambda: compose_scene("train", 0, size=1025), "96 to 1024 px wide, got size 1025"),
    (lambda: Scenes("trian"), "unknown split 'trian'"),
    (lambda: Scenes("train", length=-1), "length must not be negative, got -1"),
    (lambda: Scenes("train", size=64), "96 to 1024 px wide, got size 64"),
    (lambda: Scenes("train", seed=-1), "seed must not be negative, got -1"),
    (lambda: compose_crop("all", 0), "unknown split 'all'"),
    (lambda: compose_crop("train", 0, size=15), "16 to 1024 px wide, got size 15"),
    (lambda: compose_crop("train", -2), "index must not be negative, got -2"),
])
def test_wrong_arguments_give_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("index", [3, -4, 10**9])
def test_an_index_outside_the_set(index):
    with pytest.raises(IndexError, match=str(index)):
        Scenes("train", length=3)[index]


def test_a_missing_data_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "DATA", tmp_path)
    pictures.photos.cache_clear()
    with pytest.raises(FileNotFoundError, match="CREDITS.csv is missing"):
        pictures.photos()


# ---- crops -------------------------------------------------------------------------------------------------------


def test_crops_hold_one_object_of_each_class_or_none():
    labels = np.bincount([compose_crop("train", index, size=16)[1] for index in range(700)])
    assert len(labels) == len(CLASSES)
    assert labels.min() > 60
    for index in range(60):
        plan = compose.plan_crop("train", index)
        assert len(plan.objects) == (compose_crop("train", index)[1] > 0)


@pytest.mark.parametrize("size", [16, 33, 64, 224])
def test_a_crop_shows_its_object_about_the_middle(size):
    for index in range(20):
        image, label = compose_crop("val_unknown", index, size=size)
        assert image.shape == (3, size, size)
        assert 0 <= image.min() <= image.max() <= 1
        if label:
            _, owner, whole = paint.render(compose.plan_crop("val_unknown", index), size)
            assert whole[0] > 0.04 * size * size
            y, x = np.nonzero(owner)
            assert abs(x.mean() - size / 2) < 0.3 * size
            assert abs(y.mean() - size / 2) < 0.3 * size


def test_dice_stay_within_their_bounds_and_reach_them():
    dice = compose.Dice(0)
    rolls = [dice.roll(-2, 3) for _ in range(600)]
    assert set(rolls) == {-2, -1, 0, 1, 2, 3}
    assert dice.roll(5, 5) == 5
    counts = np.bincount(np.array(rolls) + 2)
    assert counts.min() > 60
    assert [compose.Dice(1, 2).roll(0, 10**6) for _ in range(3)] == [compose.Dice(1, 2).roll(0, 10**6)] * 3
