"""COCO's layouts: instances, keypoints and panoptic, and everything that can be wrong with their files."""


import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from miniatures import coco_set, panoptic_set, picture, row
from pycocotools import mask as rle

from lessons.data import open_dataset
from lessons.data.coco import CocoDetection, CocoPanoptic, decompress_runs


def test_coco_polygons_crowds_and_gaps_in_the_numbers(tmp_path):
    crowd = np.zeros((30, 40), dtype=np.uint8, order="F")
    crowd[5:10, 20:30] = 1
    compressed = rle.encode(crowd)
    compressed["counts"] = compressed["counts"].decode()
    counts, value = [], 0
    flat = crowd.flatten(order="F")
    while len(flat):
        run = int((flat != value).argmax()) if (flat != value).any() else len(flat)
        counts.append(run)
        flat, value = flat[run:], 1 - value
    rows = [row(1), row(2, category_id=3, iscrowd=1, bbox=[20, 5, 10, 5], area=50, segmentation=compressed),
            row(3, category_id=3, iscrowd=1, bbox=[20, 5, 10, 5], area=50,
                segmentation={"size": [30, 40], "counts": counts})]
    dataset = open_dataset("coco2017", "train", coco_set(tmp_path, rows))
    image, target = dataset[0]
    assert image.shape == (3, 30, 40)
    assert dataset.classes == ("background", "car", "dog")
    assert dataset.category_ids == [0, 3, 18]
    assert target["labels"].tolist() == [2, 1, 1]
    assert target["iscrowd"].tolist() == [0, 1, 1]
    assert target["boxes"][0].tolist() == [2, 3, 12, 13]
    assert target["masks"][0, 3:13, 2:12].all()
    assert target["masks"][0].sum() == 100
    for mask in target["masks"][1:]:
        assert torch.equal(mask, torch.from_numpy(crowd.astype(bool)))
    assert dataset[1][1]["boxes"].shape == (0, 4)
    assert dataset[1][1]["masks"].shape == (0, 30, 40)


def test_coco_keypoints_keep_only_people_with_points(tmp_path):
    points = [5, 6, 2, 0, 0, 0, 7, 8, 1]
    rows = [row(1, keypoints=points, num_keypoints=2), row(2, keypoints=[0] * 9, num_keypoints=0)]
    target = open_dataset("coco2017", "train", coco_set(tmp_path, rows), task="keypoints")[0][1]
    assert target["keypoints"].shape == (1, 3, 3)
    assert target["keypoints"].flatten().tolist() == points


def test_coco_boxes_are_clipped_and_categories_may_count_from_zero(tmp_path):
    file = coco_set(tmp_path, [row(1, bbox=[-2, 20, 99, 99], category_id=0)]) / "annotations/instances_train2017.json"
    file.write_text(file.read_text().replace('"id": 18', '"id": 0'))
    dataset = CocoDetection(tmp_path / "train2017", file)
    target = dataset[0][1]
    assert target["boxes"].tolist() == [[0, 20, 40, 30]]
    assert [dataset.classes[label] for label in target["labels"]] == ["dog"]
    assert dataset.category_ids[target["labels"][0]] == 0


def test_coco_boxes_without_outlines_are_read_without_masks(tmp_path):
    bare = row(1)
    del bare["segmentation"]
    file = coco_set(tmp_path, [bare]) / "annotations/instances_train2017.json"
    assert "masks" not in open_dataset("coco2017", "train", tmp_path, masks=False)[0][1]
    with pytest.raises(ValueError, match=r"'id': 1.* has no segmentation"):
        CocoDetection(tmp_path / "train2017", file)


@pytest.mark.parametrize(("outline", "message"), [
    ([], "annotation 1 has no outline"),
    (None, "annotation 1 has no outline"),
    ([[1, 2, 3, 4]], "annotation 1 has no outline"),
    ({"size": [40, 30], "counts": [1200]}, r"not for a picture of \(30, 40\)"),
    ({"size": [30, 40]}, "without counts"),
    ({"size": [30, 40], "counts": [7, 10]}, "run lengths for 17 pixels, the picture has 1200"),
    ({"size": [30, 40], "counts": [1210, -10]}, "run lengths for 1200 pixels"),
    ([[1, 2, 1e9, 4, 5, 6]], "not near its picture"),
    ([[1, 2, float("nan"), 4, 5, 6]], "not near its picture"),
    ({"size": [30, 40], "counts": ""}, "run lengths for 0 pixels"),
    ({"size": [30, 40], "counts": "zzzz"}, "run lengths for"),
])
def test_a_bad_outline_is_named(tmp_path, outline, message):
    with pytest.raises(ValueError, match=message):
        open_dataset("coco2017", "train", coco_set(tmp_path, [row(1, segmentation=outline)]))[0]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_are_decompressed(height, width, seed, share):
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    runs = decompress_runs(rle.encode(np.asfortranarray(mask))["counts"])
    assert np.array_equal(np.repeat(np.arange(len(runs)) % 2, runs), mask.flatten(order="F"))


def test_coco_needs_the_pictures_that_it_names(tmp_path):
    dataset = open_dataset("coco2017", "train", coco_set(tmp_path, [row(1)]))
    picture(tmp_path / "train2017/0.jpg", width=41)
    with pytest.raises(ValueError, match=r"0\.jpg has \(30, 41\) pixels .* annotations are for \(30, 40\)"):
        dataset[0]
    (tmp_path / "train2017/0.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"0\.jpg is missing"):
        dataset[0]
    assert len(dataset.coco()["annotations"]) == 1  # which reads no picture


def test_keypoints_must_be_equally_many(tmp_path):
    rows = [row(1, keypoints=[1, 2, 2]), row(2, keypoints=[1, 2, 2, 3, 4, 2])]
    with pytest.raises(ValueError, match=r"annotation 1 has the keypoints \[1, 2, 2\], not 6 numbers"):
        open_dataset("coco2017", "train", coco_set(tmp_path, rows), task="keypoints")[0]
    with pytest.raises(ValueError, match="has no keypoints"):
        open_dataset("coco2017", "train", coco_set(tmp_path, [row(1)]), task="keypoints")


def test_what_can_be_wrong_with_coco(tmp_path):
    file = coco_set(tmp_path, [row(1, category_id=99)]) / "annotations/instances_train2017.json"
    images = tmp_path / "train2017"
    with pytest.raises(ValueError, match="annotation 1 has the unknown category 99"):
        CocoDetection(images, file)
    coco_set(tmp_path, [row(1, image_id=77)])
    with pytest.raises(ValueError, match="names the image 77"):
        CocoDetection(images, file)
    coco_set(tmp_path, [row(1, bbox=[4, 4, 0, 7])])
    with pytest.warns(UserWarning, match=r"0\.jpg: dropped 1 box"):
        assert len(CocoDetection(images, file)[0][1]["masks"]) == 0
    file.write_text(file.read_text()[:50])
    with pytest.raises(ValueError, match="not valid JSON"):
        CocoDetection(images, file)
    file.write_text("{}")
    with pytest.raises(ValueError, match="has no images, annotations, categories"):
        CocoDetection(images, file)
    with pytest.raises(FileNotFoundError, match="missing"):
        CocoDetection(images, tmp_path / "none.json")
    with pytest.raises(ValueError, match="task 'captions'"):
        open_dataset("coco2017", "train", tmp_path, task="captions")


def test_panoptic(tmp_path):
    _, ids = panoptic_set(tmp_path)
    dataset = open_dataset("coco2017", "train", tmp_path, task="panoptic")
    target = dataset[0][1]
    assert torch.equal(target["panoptic"], torch.from_numpy(ids))
    assert target["semantic"][[0, 15, 15, 25], [0, 0, 30, 0]].tolist() == [1, 2, 0, 3]
    assert target["labels"].tolist() == [2]
    assert target["boxes"].tolist() == [[0, 10, 20, 20]]
    assert torch.equal(target["masks"][0], target["panoptic"] == 70000)
    assert target["segments"].tolist() == [[7, 1, 0], [70000, 2, 0], [300, 3, 0]]
    assert dataset.is_thing == (False, False, True, False)


def test_what_can_be_wrong_with_panoptic(tmp_path):
    file, _ = panoptic_set(tmp_path)
    good = file.read_text()

    def opened(old, new):
        file.write_text(good.replace(old, new, 1))
        return CocoPanoptic(tmp_path / "train2017", file.with_suffix(""), file)

    with pytest.raises(ValueError, match=r"0\.png: segment 8 is only in one of the picture and panoptic_train2017\.json"):
        opened('"id": 70000', '"id": 8')[0]
    with pytest.raises(ValueError, match="annotation 7 has the unknown category 2"):
        opened('"category_id": 1', '"category_id": 2')
    with pytest.raises(ValueError, match="names the image 5"):
        opened('"image_id": 1', '"image_id": 5')
    with pytest.raises(ValueError, match="has no segments_info"):
        opened("segments_info", "segments")
    with pytest.raises(FileNotFoundError, match=r"1\.png is missing"):
        opened("0.png", "1.png")[0]
    dataset = opened("", "")
    picture(tmp_path / "train2017/0.jpg", height=31)
    with pytest.raises(ValueError, match=r"0\.jpg has \(31, 40\) pixels .* annotations are for \(30, 40\)"):
        dataset[0]


@pytest.mark.parametrize(("changes", "message"), [
    ({"bbox": [1, 2, 3]}, r"annotation 1 has the bbox \[1, 2, 3\], not 4 numbers"),
    ({"bbox": [1, 2, 3, None]}, r"annotation 1 has the bbox .*None\], not 4 numbers"),
    ({"bbox": "1 2 3 4"}, "has the bbox 1 2 3 4, which is not a list"),
    ({"area": "large"}, "has the area large, which is not a number"),
    ({"category_id": "dog"}, "has the category_id dog, which is not a whole number"),
    ({"iscrowd": 7}, "annotation 1 has iscrowd 7, not 0 or 1"),
    ({"segmentation": [[1, 2, "x", 4, 5, 6]]}, "annotation 1 .*outline"),
    ({"segmentation": 5}, "has the outline 5, which is none"),
])
def test_a_bad_entry_is_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        open_dataset("coco2017", "train", coco_set(tmp_path, [row(1, **changes)]))[0]


@pytest.mark.parametrize(("old", "new", "message"), [
    ('"id": 11', '"id": 10', "the number 10 stands twice among the images"),
    ('"id": 3', '"id": 18', "the number 18 stands twice among the categories"),
    ('"height": 30', '"height": "30"', "has the height 30, which is not a whole number"),
    ('"images": [', '"images": [5, ', "the entry 5 has no id"),
    ('"annotations": [', '"annotations": 7, "others": [', "has no annotations"),
])
def test_a_bad_file_is_named(tmp_path, old, new, message):
    file = coco_set(tmp_path, [row(1)]) / "annotations/instances_train2017.json"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        CocoDetection(tmp_path / "train2017", file)
