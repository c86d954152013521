"""Transforms: picture and target stay one."""

import pytest
import torch

from lessons.data.scenes import compose_scene
from lessons.data.transforms import COCO_MIRRORED, ColourJitter, Compose, RandomMirror, Resize, mirror


def sample():
    image, target = compose_scene("val", 3, size=160)
    return image[:, :120], {**target, "boxes": target["boxes"].clamp(max=120), "masks": target["masks"][:, :120],
                            "semantic": target["semantic"][:120], "panoptic": target["panoptic"][:120]}


def test_mirroring_twice_changes_nothing():
    image, target = sample()
    again, back = mirror(*mirror(image, target))
    assert torch.equal(again, image)
    for key in ("boxes", "masks", "semantic", "panoptic", "labels"):
        assert torch.equal(back[key], target[key])


def test_boxes_follow_their_masks():
    image, target = compose_scene("val", 3)
    for changed, new in (mirror(image, target), Resize((320, 320))(image, target)):
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


def test_about_half_are_mirrored():
    image, target = sample()
    mirrored = sum(not torch.equal(RandomMirror(0.5, seed=3)(image, {**target, "image_id": i})[0], image) for i in range(200))
    assert 70 < mirrored < 130


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="size 0"):
        Resize(0)
    with pytest.raises(ValueError, match="probability 2"):
        RandomMirror(2)
