"""The sample form itself: COCO's dictionary, degenerate boxes, batches."""

import contextlib
import io

import pytest
import torch
from pycocotools.coco import COCO

from lessons.data.sample import (
    DetectionDataset,
    clip_boxes,
    coco_annotations,
    collate,
    drop_degenerate,
    to_device,
)


def target(boxes, image_id=0, **more):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    return {"boxes": boxes, "labels": torch.ones(count, dtype=torch.int64), "image_id": image_id,
            "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
            "iscrowd": torch.zeros(count, dtype=torch.int64), **more}


class Pair(DetectionDataset):
    """Two pictures of 6 x 8 pixels: two objects with masks and keypoints, then none."""

    name, split, classes = "pair", "train", ("background", "thing")

    def __len__(self):
        return 2

    def load(self, index):
        masks = torch.zeros(2 - 2 * index, 6, 8, dtype=torch.bool)
        masks[:1, 1:3, 2:7] = True
        masks[1:, 3:, :4] = True
        boxes = [[2, 1, 7, 3], [0, 3, 4, 6]][: len(masks)]
        points = torch.tensor([[[3.0, 2, 2], [0, 0, 0]], [[1, 4, 1], [2, 5, 2]]])[: len(masks)]
        return torch.full((3, 6, 8), 0.5), target(boxes, 40 + index, masks=masks, keypoints=points)


def test_coco_reads_the_dictionary_and_finds_what_was_written():
    dataset, coco = Pair(), COCO()
    coco.dataset = dataset.coco()
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    assert coco.getImgIds() == [40, 41]
    assert [row["id"] for row in coco.loadAnns(coco.getAnnIds())] == [1, 2]
    for row, mask, box in zip(coco.loadAnns(coco.getAnnIds(40)), dataset[0][1]["masks"],
                              [[2, 1, 5, 2], [0, 3, 4, 3]], strict=True):
        assert torch.equal(torch.from_numpy(coco.annToMask(row)).bool(), mask)
        assert row["bbox"] == box
    assert [row["num_keypoints"] for row in coco.loadAnns([1, 2])] == [1, 2]
    assert coco.loadAnns([1])[0]["keypoints"] == [3, 2, 2, 0, 0, 0]
    assert coco.loadCats([1])[0]["name"] == "thing"


def test_coco_of_some_samples_numbers_annotations_from_one():
    content = Pair().coco([1, 0])
    assert [row["id"] for row in content["images"]] == [41, 40]
    assert [row["id"] for row in content["annotations"]] == [1, 2]
    assert coco_annotations(target([]), first_id=5) == []


def test_samples_are_counted_from_either_end_and_transformed():
    dataset = Pair()
    assert dataset[-1][1]["image_id"] == 41
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"sample {index} of pair train, which holds 2"):
            dataset[index]
    dataset.transform = lambda image, target: (image + 1, target)
    assert dataset[0][0].max() == 1.5
    assert dataset.annotation(0)[1] == (6, 8)


def test_a_loop_over_the_set_ends():
    assert len(list(Pair())) == 2


def test_degenerate_boxes_lose_their_rows_everywhere_but_not_in_maps():
    maps = {"semantic": torch.arange(3).repeat(4, 1).T, "segments": torch.arange(9).reshape(3, 3)}  # three rows as well
    bad = target([[0, 0, 4, 4], [3, 3, 3, 9], [5, 5, 4, 9]], masks=torch.ones(3, 2, 2), keypoints=torch.ones(3, 2, 3), **maps)
    with pytest.warns(UserWarning, match=r"photo\.jpg: dropped 2 box\(es\) without area.*3\.0, 3\.0, 3\.0, 9\.0"):
        good = drop_degenerate(bad, "photo.jpg")
    assert {key: len(good[key]) for key in ("boxes", "labels", "area", "iscrowd", "masks", "keypoints")} == dict.fromkeys(
        ("boxes", "labels", "area", "iscrowd", "masks", "keypoints"), 1)
    assert all(torch.equal(good[key], value) for key, value in maps.items())


def test_a_box_that_is_not_a_number_is_degenerate():
    with pytest.warns(UserWarning, match="nan"):
        assert len(drop_degenerate(target([[0, 0, float("nan"), 4]]), "x")["boxes"]) == 0


@pytest.mark.parametrize("boxes", [[], [[0, 0, 1, 1]]])
def test_a_good_target_comes_back_untouched(boxes, recwarn):
    good = target(boxes)
    assert drop_degenerate(good, "x") is good
    assert not recwarn


def test_clipping():
    boxes = torch.tensor([[-3.0, -4, 20, 30], [1, 2, 3, 4]])
    assert clip_boxes(boxes, (10, 15)).tolist() == [[0, 0, 15, 10], [1, 2, 3, 4]]
    assert clip_boxes(torch.zeros(0, 4), (10, 15)).shape == (0, 4)


def test_batches_are_lists_and_targets_move():
    images, targets = collate([Pair()[0], Pair()[1]])
    assert [image.shape for image in images] == [(3, 6, 8)] * 2
    assert [len(one["boxes"]) for one in targets] == [2, 0]
    moved = to_device(targets[0], "meta")
    assert moved["boxes"].device.type == "meta"
    assert moved["image_id"] == 40
