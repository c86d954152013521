"""Transforms: picture and target stay one."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lessons.data import open_dataset
from lessons.data.sample import collate
from lessons.data.scenes import compose_scene
from lessons.data.transforms import (
    COCO_MIRRORED,
    ColourJitter,
    Compose,
    RandomMirror,
    RandomTranspose,
    RandomUpsideDown,
    Resize,
    brighten,
    extreme_points,
    mirror,
    transpose,
    upside_down,
)
from lessons.order import SampleStream


def sample():
    image, target = compose_scene("val", 3, size=160)
    return image[:, :120], {**target, "boxes": target["boxes"].clamp(max=120), "masks": target["masks"][:, :120],
                            "semantic": target["semantic"][:120], "panoptic": target["panoptic"][:120]}


@pytest.mark.parametrize("turned", [mirror, upside_down, transpose])
def test_mirroring_twice_changes_nothing(turned):
    image, target = sample()
    other, _ = turned(image, target)
    again, back = turned(*turned(image, target))
    assert not torch.equal(other, image)
    assert torch.equal(again, image)
    for key in ("boxes", "masks", "semantic", "panoptic", "labels"):
        assert torch.equal(back[key], target[key])


def test_boxes_follow_their_masks():
    image, target = compose_scene("val", 3)
    for changed, new in (mirror(image, target), upside_down(image, target), transpose(image, target), Resize((320, 320))(image, target)):
        assert changed.shape[-2:] == new["masks"].shape[-2:]
        for box, mask in zip(new["boxes"], new["masks"], strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            tight = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (box - tight).abs().max() <= 1


def test_a_left_hand_becomes_a_right_one():
    points = torch.arange(17 * 3, dtype=torch.float32).reshape(1, 17, 3)
    points[..., 2] = 2
    points[0, 0] = 0  # the nose is not labelled and stays at 0, 0
    target = {"boxes": torch.zeros(1, 4), "keypoints": points}
    new = mirror(torch.zeros(3, 10, 100), target)[1]["keypoints"]
    assert new[0, 0].tolist() == [0, 0, 0]
    assert new[0, 9, 0] == 100 - points[0, 10, 0]  # wrists change places
    assert [COCO_MIRRORED[i] for i in COCO_MIRRORED] == list(range(17))


def test_upside_down_a_left_hand_is_still_a_left_one():
    points = torch.tensor([[[3.0, 4, 2], [0, 0, 0], [10, 9, 1]]])
    target = {"boxes": torch.tensor([[1.0, 2, 9, 8]]), "keypoints": points, "proposals": torch.tensor([[0.0, 0, 5, 1]])}
    new = upside_down(torch.zeros(3, 10, 20), target)[1]
    assert new["keypoints"].tolist() == [[[3, 6, 2], [0, 0, 0], [10, 1, 1]]]
    assert new["boxes"].tolist() == [[1, 2, 9, 8]]
    assert new["proposals"].tolist() == [[0, 9, 5, 10]]


def test_transposed_rows_are_columns():
    points = torch.tensor([[[3.0, 4, 2], [0, 0, 0]]])
    target = {"boxes": torch.tensor([[1.0, 2, 9, 8]]), "keypoints": points, "proposals": torch.tensor([[0.0, 0, 5, 1]])}
    image = torch.rand(3, 10, 20)
    turned, new = transpose(image, target)
    assert turned.shape == (3, 20, 10)
    assert turned[0, 4, 3] == image[0, 3, 4]
    assert new["keypoints"].tolist() == [[[4, 3, 2], [0, 0, 0]]]
    assert new["boxes"].tolist() == [[2, 1, 8, 9]]
    assert new["proposals"].tolist() == [[0, 0, 1, 5]]


@pytest.mark.parametrize(("size", "longest", "expected"), [(60, None, (60, 80)), (600, 400, (300, 400)), ((50, 70), None, (50, 70))])
def test_sizes(size, longest, expected):
    image, target = sample()
    new, changed = Resize(size, longest)(image, target)
    assert tuple(new.shape[-2:]) == expected
    scale = torch.tensor([expected[1] / 160, expected[0] / 120])
    torch.testing.assert_close(changed["boxes"], target["boxes"] * scale.repeat(2))
    torch.testing.assert_close(changed["area"], target["area"] * scale.prod())
    assert 0 <= new.min() <= new.max() <= 1


def test_samples_repeat_and_the_global_generator_is_left_alone():
    image, target = sample()
    before = torch.get_rng_state()
    chain = Compose([RandomMirror(0.5, seed=1), ColourJitter(0.3, seed=2)])
    one, other = chain(image, target), chain(image, target)
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[0], image)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("random", [RandomMirror, RandomUpsideDown, RandomTranspose])
def test_about_half_are_mirrored(random):
    image, target = sample()
    mirrored = sum(not torch.equal(random(0.5, seed=3)(image, {**target, "image_id": i})[0], image) for i in range(200))
    assert 70 < mirrored < 130


def test_mirrored_upside_down_and_transposed_are_drawn_apart():
    image, target = sample()
    both = [tuple(not torch.equal(random(0.5, seed=3)(image, {**target, "image_id": i})[0], image)
                  for random in (RandomMirror, RandomUpsideDown, RandomTranspose)) for i in range(160)]
    assert set(both) == set(itertools.product((False, True), repeat=3))


def keypoint_target(points):
    count = len(points)
    return {"boxes": torch.tensor([[1.0, 2, 9, 8]]).repeat(count, 1), "keypoints": points, "area": torch.ones(count),
            "masks": torch.zeros(count, 10, 20, dtype=torch.bool), "image_id": 4}


def test_keypoints_are_scaled_and_keep_their_visibility():
    points = torch.tensor([[[3.0, 4, 2], [0, 0, 0], [10, 5, 1]]])
    new = Resize((20, 60))(torch.zeros(3, 10, 20), keypoint_target(points))[1]
    assert new["keypoints"].tolist() == [[[9, 8, 2], [0, 0, 0], [30, 10, 1]]]
    assert new["boxes"].tolist() == [[3, 4, 27, 16]]
    assert new["area"].tolist() == [6]


def test_other_skeletons_need_their_own_table():
    points = torch.tensor([[[3.0, 4, 2], [0, 0, 0], [10, 5, 1]]])
    with pytest.raises(ValueError, match="3 keypoints cannot be mirrored by a table for 17"):
        mirror(torch.zeros(3, 10, 20), keypoint_target(points))
    flip = RandomMirror(1, mirrored=(0, 2, 1))
    assert flip(torch.zeros(3, 10, 20), keypoint_target(points))[1]["keypoints"][0].tolist() == [[17, 4, 2], [10, 5, 1], [0, 0, 0]]


def test_maps_of_ids_are_resized_without_mixing():
    image, target = compose_scene("val", 3, size=160)
    target = {**target, "panoptic": torch.where(target["panoptic"] > 0, 2**24 - 1 - target["panoptic"], 0)}
    new, changed = Resize(97)(image, target)
    for key in ("semantic", "panoptic"):
        assert changed[key].shape == new.shape[-2:]
        assert changed[key].dtype == torch.int64
        assert set(changed[key].unique().tolist()) <= set(target[key].unique().tolist())


def test_a_picture_without_objects():
    target = keypoint_target(torch.zeros(0, 17, 3))
    for transform in (Resize((20, 60)), RandomMirror(1), RandomUpsideDown(1), ColourJitter()):
        image, new = transform(torch.zeros(3, 10, 20), target)
        assert new["boxes"].shape == (0, 4)
        assert new["masks"].shape == (0, *image.shape[-2:])
        assert new["keypoints"].shape == (0, 17, 3)


def test_an_object_that_vanishes_is_dropped_and_named():
    target = {**keypoint_target(torch.zeros(1, 17, 3)), "boxes": torch.tensor([[0.0, 5, 1e-45, 8]])}
    with pytest.warns(UserWarning, match="image 4: dropped 1 box"):
        new = Resize((5, 10))(torch.zeros(3, 10, 20), target)[1]
    assert len(new["boxes"]) == len(new["masks"]) == len(new["keypoints"]) == len(new["area"]) == 0


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 60), st.integers(1, 60))
def test_boxes_stay_inside_and_sides_are_as_asked(height, width, short, longest):
    full = {"boxes": torch.tensor([[0.0, 0, width, height]]), "area": torch.tensor([float(width * height)]), "image_id": 0}
    image, target = Resize(short, longest)(torch.rand(3, height, width), full)
    new = image.shape[-2:]
    assert max(new) <= max(longest, 1)
    assert min(new) == short or max(new) == longest or 1 in new
    assert target["boxes"][0].tolist() == pytest.approx([0, 0, new[1], new[0]], rel=1e-5)
    assert (target["boxes"][0, 2:] <= torch.tensor([new[1], new[0]])).all()
    assert target["area"].item() == pytest.approx(new[0] * new[1], rel=1e-5)


def test_the_sample_that_came_in_is_left_as_it_was():
    image, target = sample()
    copies = image.clone(), {key: value.clone() for key, value in target.items() if torch.is_tensor(value)}
    Compose([RandomMirror(1), ColourJitter(1.0), Resize(40)])(image, target)
    assert torch.equal(image, copies[0])
    assert all(torch.equal(target[key], value) for key, value in copies[1].items())


def test_training_sees_a_picture_differently_in_every_epoch_and_can_be_repeated():
    dataset = open_dataset("scenes", "train", length=4, size=96)
    dataset.transform = Compose([RandomMirror(0.5), ColourJitter(0.3)])
    stream = SampleStream(dataset, seed=1)
    seen: dict[int, list] = {}
    for position in range(12):
        image, target = stream[position]
        assert torch.equal(stream[position][0], image)
        seen.setdefault(target["image_id"], []).append(image)
    assert sorted(len(images) for images in seen.values()) == [3] * 4
    assert all(not torch.equal(one, other) for one, other, _ in seen.values())


def test_worker_processes_transform_alike():
    dataset = open_dataset("scenes", "train", length=4, size=96)
    dataset.transform = Compose([Resize(64), RandomMirror(0.5, seed=1), ColourJitter(0.3, seed=2)])
    batches = [next(iter(DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=collate))) for workers in (0, 1)]
    for one, other in zip(batches[0][0], batches[1][0], strict=True):
        assert torch.equal(one, other)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="longest 0"):
        Resize(10, 0)
    with pytest.raises(ValueError, match="strength -1"):
        ColourJitter(-1)
    with pytest.raises(ValueError, match="size 0"):
        Resize(0)
    with pytest.raises(ValueError, match="probability 2"):
        RandomMirror(2)
    with pytest.raises(ValueError, match="probability nan"):
        RandomUpsideDown(float("nan"))


def test_faint_pictures_are_brightened_and_even_ones_stay_finite():
    image = torch.tensor([0.1, 0.11, 0.14, 0.5]).expand(3, 2, 4)
    new, target = brighten(image, {"image_id": 1})
    torch.testing.assert_close(new[0, 0], torch.tensor([0, 0.025, 0.1, 1]).sqrt())
    assert target == {"image_id": 1}
    for even in (torch.zeros(3, 4, 4), torch.ones(3, 4, 4), torch.full((3, 4, 4), 0.3)):
        assert torch.equal(brighten(even, {})[0], even.sqrt())


def test_extreme_points_are_the_ends_of_the_mask():
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[2, 4:7] = mask[3:6, 5] = mask[4, 1:9] = True
    target = {"masks": torch.stack([mask, mask.flip(1)]), "image_id": 0}
    points = extreme_points(torch.zeros(3, 8, 10), target)[1]["keypoints"]
    assert points[0].tolist() == [[5.5, 2.5, 2], [1.5, 4.5, 2], [5.5, 5.5, 2], [8.5, 4.5, 2]]  # top left bottom right
    assert points[1, [0, 2], 0].tolist() == [4.5, 4.5]
    assert extreme_points(torch.zeros(3, 8, 10), {"masks": mask[None][:0], "image_id": 0})[1]["keypoints"].shape == (0, 4, 3)
    with pytest.raises(ValueError, match="image 7 has no masks"):
        extreme_points(torch.zeros(3, 8, 10), {"image_id": 7})


def test_extreme_points_lie_on_the_borders_of_the_boxes():
    _, target = extreme_points(*compose_scene("val", 3))
    points, (x1, y1, x2, y2) = target["keypoints"], target["boxes"].unbind(1)
    ends = torch.stack([points[:, 0, 1] - 0.5, points[:, 1, 0] - 0.5, points[:, 2, 1] + 0.5, points[:, 3, 0] + 0.5])
    assert torch.equal(ends, torch.stack([y1, x1, y2, x2]))
