"""Real data: official layouts written in small, everything that can be wrong with them, and real samples where present."""

import contextlib
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

from lessons.data import open_dataset
from lessons.data.coco import CocoDetection, CocoPanoptic, decompress_runs
from lessons.data.files import read_image
from lessons.data.instances import is_validation
from lessons.data.sample import collate
from lessons.data.voc import VocDevkit
from lessons.metrics import CocoMetrics

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "datasets"
real = pytest.mark.skipif(not SHARED.exists(), reason="no real samples at ../shared/datasets")


def picture(path, width=40, height=30, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)).convert(mode).save(path)


def voc_object(name, box, difficult=0):
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def voc_set(root, objects, names=("a", "b")):
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("\n".join(names) + "\n")
    for name in names:
        picture(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{''.join(objects.get(name, []))}</annotation>")
    return root


def test_voc_counts_pixels_from_one_and_includes_the_last(tmp_path):
    folder = voc_set(tmp_path, {"a": [voc_object("dog", (1, 1, 40, 30)), voc_object("cat", (5, 6, 14, 9), difficult=1)]})
    dataset = VocDevkit(folder, "train")
    image, target = dataset[0]
    assert image.shape == (3, 30, 40)
    assert 0 <= image.min() <= image.max() <= 1
    assert target["boxes"].tolist() == [[0, 0, 40, 30], [4, 5, 14, 9]]
    assert [dataset.classes[label] for label in target["labels"]] == ["dog", "cat"]
    assert target["iscrowd"].tolist() == [0, 1]
    assert target["area"].tolist() == [1200, 40]


def test_voc_image_without_objects_and_boxes_outside(tmp_path):
    dataset = VocDevkit(voc_set(tmp_path, {"b": [voc_object("dog", (-3, 20, 90, 99))]}), "train")
    assert dataset[0][1]["boxes"].shape == (0, 4)
    assert dataset[1][1]["boxes"].tolist() == [[0, 19, 40, 30]]


def test_voc_box_without_area_is_dropped_with_a_warning_that_names_the_image(tmp_path):
    rows = [voc_object("dog", (7, 7, 7, 7)), voc_object("cat", (2, 2, 9, 9)), voc_object("dog", (9, 2, 4, 8)),
            voc_object("dog", (7, 2, 7, 8)), voc_object("dog", (2, 7, 8, 7))]
    dataset = VocDevkit(voc_set(tmp_path, {"b": rows}), "train")
    with pytest.warns(UserWarning, match="b: dropped 4 box"):
        target = dataset[1][1]
    assert [dataset.classes[label] for label in target["labels"]] == ["cat"]


def test_what_can_be_wrong_with_voc(tmp_path):
    folder = voc_set(tmp_path, {"a": [voc_object("unicorn", (1, 1, 5, 5))]})
    dataset = VocDevkit(folder, "train")
    with pytest.raises(ValueError, match=r"a\.xml: class 'unicorn' is none of aeroplane"):
        dataset[0]
    (folder / "Annotations/a.xml").write_text("<annotation><object>")
    with pytest.raises(ValueError, match=r"a\.xml is not valid XML"):
        dataset[0]
    (folder / "Annotations/a.xml").write_text("<annotation><object><name>dog</name></object></annotation>")
    with pytest.raises(ValueError, match="no complete bndbox"):
        dataset[0]
    (folder / "Annotations/a.xml").write_text(f"<annotation>{voc_object('dog', (1, 1, 5, 5), 'perhaps')}</annotation>")
    with pytest.raises(ValueError, match="difficult 'perhaps'"):
        dataset[0]
    (folder / "Annotations/a.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.xml is missing"):
        dataset[0]
    (folder / "JPEGImages/b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.jpg is missing"):
        dataset[1]
    with pytest.raises(ValueError, match="no split 'test'; .* lists train"):
        VocDevkit(folder, "test")
    with pytest.raises(IndexError, match="sample 2"):
        dataset[2]


def test_voc_boxes_that_are_wholly_outside_are_dropped(tmp_path):
    rows = [voc_object("dog", (50, 5, 60, 9)), voc_object("dog", (1, 1, 9, "nan")), voc_object("cat", (2, 2, 9, "inf"))]
    dataset = VocDevkit(voc_set(tmp_path, {"a": rows}), "train")
    with pytest.warns(UserWarning, match="a: dropped 2 box"):
        target = dataset[0][1]
    assert target["boxes"].tolist() == [[1, 1, 9, 30]]


def test_voc_tells_sizes_and_boxes_without_decoding_the_picture(tmp_path):
    folder = voc_set(tmp_path, {"a": [voc_object("dog", (1, 1, 5, 5))]})
    picture = folder / "JPEGImages/a.jpg"
    picture.write_bytes(picture.read_bytes()[:-200])  # its pixels cannot be decoded, its header can be read
    dataset = VocDevkit(folder, "train")
    target, size = dataset.annotation(0)
    assert (target["boxes"].tolist(), size) == ([[0, 0, 5, 5]], (30, 40))
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        dataset[0]


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("RGBA", "a.png"), ("P", "a.png"), ("CMYK", "a.jpg"), ("1", "a.png")])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode, name):
    picture(tmp_path / name, mode=mode)
    with Image.open(tmp_path / name) as stored:
        expected = np.array(stored.convert("RGB"))
    pixels = read_image(tmp_path / name)
    assert pixels.dtype == torch.float32
    difference = (pixels * 255 - torch.from_numpy(expected).permute(2, 0, 1)).abs()
    assert difference.max() <= (2.5 if name == "a.jpg" else 1e-3)  # decoders of JPEG may round differently


def test_sixteen_bits_and_animations(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65535, (30, 40)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    pixels = read_image(tmp_path / "deep.png")
    assert pixels.shape == (3, 30, 40)
    torch.testing.assert_close(pixels[1], torch.from_numpy(deep.astype(np.float32) / 65535))
    frames = [Image.new("P", (40, 30), colour) for colour in (10, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "moving.gif").shape == (3, 30, 40)


def test_a_broken_picture_is_named(tmp_path):
    picture(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        read_image(tmp_path / "a.jpg")


SQUARE = [[2, 3, 12, 3, 12, 13, 2, 13]]


def coco_set(root, annotations, images=2):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    rows = [{"id": 10 + i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in range(images)]
    for row in rows:
        picture(root / "train2017" / row["file_name"])
    content = {"images": rows, "annotations": annotations,
               "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]}
    for task in ("instances", "person_keypoints"):
        (root / "annotations" / f"{task}_train2017.json").write_text(json.dumps(content))
    return root


def row(number, **changes):
    return {"id": number, "image_id": 10, "category_id": 18, "bbox": [2, 3, 10, 10], "area": 100, "iscrowd": 0,
            "segmentation": SQUARE, **changes}


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
    with pytest.raises(ValueError, match="annotation 1 has 3 numbers for keypoints, others have 6"):
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


def panoptic_set(root):
    """A picture of sky, one dog and grass; the middle right is nothing."""
    ids = np.zeros((30, 40), dtype=np.int64)
    ids[:10], ids[10:20, :20], ids[20:] = 7, 70000, 300
    pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    (root / "annotations/panoptic_train2017").mkdir(parents=True)
    Image.fromarray(pixels).save(root / "annotations/panoptic_train2017/0.png")
    picture(root / "train2017/0.jpg")
    segments = [{"id": 7, "category_id": 1, "bbox": [0, 0, 40, 10], "area": 400, "iscrowd": 0},
                {"id": 70000, "category_id": 5, "bbox": [0, 10, 20, 10], "area": 200, "iscrowd": 0},
                {"id": 300, "category_id": 9, "bbox": [0, 20, 40, 10], "area": 400, "iscrowd": 0}]
    content = {"images": [{"id": 1, "file_name": "0.jpg", "width": 40, "height": 30}],
               "annotations": [{"image_id": 1, "file_name": "0.png", "segments_info": segments}],
               "categories": [{"id": 1, "name": "sky", "isthing": 0}, {"id": 5, "name": "dog", "isthing": 1},
                              {"id": 9, "name": "grass", "isthing": 0}]}
    file = root / "annotations/panoptic_train2017.json"
    file.write_text(json.dumps(content))
    return file, ids


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


def test_nuclei_and_pedestrians(tmp_path):
    for i in range(12):
        folder = tmp_path / "nuclei/stage1_train" / f"cell{i}"
        picture(folder / "images" / f"cell{i}.png", mode="RGBA")
        for j in range(2):
            mask = np.zeros((30, 40), dtype=np.uint8)
            mask[3 + j * 10 : 8 + j * 10, 5:15] = 255
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / "masks" / f"{j}.png")
        picture(tmp_path / "PennFudanPed/PNGImages" / f"p{i}.png")
        (tmp_path / "PennFudanPed/PedMasks").mkdir(exist_ok=True)
        Image.fromarray((mask // 255) * 2).save(tmp_path / "PennFudanPed/PedMasks" / f"p{i}_mask.png")
    for name, boxes in (("nuclei", [[5, 3, 15, 8], [5, 13, 15, 18]]), ("penn_fudan", [[5, 13, 15, 18]])):
        train, val = (open_dataset(name, split, tmp_path) for split in ("train", "val"))
        assert len(train) + len(val) == 12
        assert not set(train.names) & set(val.names)
        target = train[0][1]
        assert target["boxes"].tolist() == boxes
        assert target["area"].tolist() == [50] * len(boxes)
        with pytest.raises(ValueError, match="splits are train and val"):
            open_dataset(name, "test", tmp_path)


def test_what_can_be_wrong_with_nuclei(tmp_path):
    folder = tmp_path / "stage1_train/a"
    picture(folder / "images/a.png")
    picture(folder / "masks/0.png", mode="1")
    (tmp_path / "stage1_train/__MACOSX").mkdir()
    split = "val" if is_validation("a") else "train"
    dataset = open_dataset("nuclei", split, tmp_path)
    assert dataset.names == ["a"]
    assert len(dataset[0][1]["boxes"]) == 1
    Image.new("L", (40, 30)).save(folder / "masks/1.png")  # a mask without a pixel is no object
    assert len(dataset[0][1]["boxes"]) == 1
    Image.new("L", (41, 30), 255).save(folder / "masks/2.png")
    with pytest.raises(ValueError, match=r"2\.png has \(30, 41\) pixels"):
        dataset[0]
    (folder / "masks/2.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"the mask .*2\.png cannot be read"):
        dataset[0]
    for path in (folder / "masks").iterdir():
        path.unlink()
    target, size = dataset.annotation(0)
    assert (target["masks"].shape, target["boxes"].shape, size) == ((0, 30, 40), (0, 4), (30, 40))
    picture(folder / "masks/0.png", width=39, mode="L")
    with pytest.raises(ValueError, match=r"a\.png has \(30, 40\) pixels .* for \(30, 39\)"):
        dataset[0]
    (folder / "masks/0.png").unlink()
    (folder / "masks").rmdir()
    with pytest.raises(FileNotFoundError, match="masks is missing: this sample has no annotation"):
        dataset[0]


def test_the_split_of_masked_sets_is_a_property_of_the_name():
    assert [name for name in map(str, range(20)) if is_validation(name)] == ["0", "3", "7", "9", "11", "17"]
    assert 200 < sum(is_validation(f"picture {i}") for i in range(1000)) < 300


def test_pedestrians_need_their_mask(tmp_path):
    for i in range(3):
        picture(tmp_path / f"PNGImages/p{i}.png")
    name = next(f"p{i}" for i in range(3) if not is_validation(f"p{i}"))
    dataset = open_dataset("penn_fudan", "train", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{name}_mask.png is missing"):
        dataset[dataset.names.index(name)]
    (tmp_path / "PedMasks").mkdir()
    people = np.zeros((30, 40), dtype=np.uint8)
    people[2:8, 3:9], people[10:20, 30:] = 1, 5  # numbers may have gaps
    indexed = Image.fromarray(people, mode="P")
    indexed.putpalette([0, 0, 0] + [200, 10, 10] * 255)
    indexed.save(tmp_path / f"PedMasks/{name}_mask.png")
    target, _ = dataset.annotation(dataset.names.index(name))
    assert target["boxes"].tolist() == [[3, 2, 9, 8], [30, 10, 40, 20]]
    assert target["area"].tolist() == [36, 100]


def test_nothing_there_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.delenv("LESSONS_DATA", raising=False)
    for name in ("bccd", "nuclei", "penn_fudan", "voc2007", "voc2012", "coco2017"):
        with pytest.raises(FileNotFoundError, match=f"set LESSONS_DATA .*python -m lessons.data.download {name}"):
            open_dataset(name, "train")
        with pytest.raises(FileNotFoundError, match="none of"):
            open_dataset(name, "train", tmp_path)
    with pytest.raises(ValueError, match="'imagenet' is none of scenes"):
        open_dataset("imagenet", "train")
    with pytest.raises(ValueError, match="bccd takes no option masks; it takes none"):
        open_dataset("bccd", "train", tmp_path, masks=True)
    for name in ("scenes", "coco2017"):
        with pytest.raises(ValueError, match=f"{name} takes no option colour; it takes "):
            open_dataset(name, "train", colour=1)
    with pytest.raises(ValueError, match="coco2017 has no split 'test'; .* train and val"):
        open_dataset("coco2017", "test", tmp_path)


def test_the_environment_names_the_folder_and_the_layout_of_voc_is_found(tmp_path, monkeypatch):
    voc_set(tmp_path / "VOCdevkit/VOC2007", {})
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    assert len(open_dataset("voc2007", "train")) == 2
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit/VOC2007"):
        assert len(open_dataset("voc2007", "train", root)) == 2
    with pytest.raises(FileNotFoundError, match="voc2012 was not found"):
        open_dataset("voc2012", "train")
    with pytest.raises(ValueError, match="voc2007 has no split 'val'; .* lists train"):
        open_dataset("voc2007", "val")
    monkeypatch.setenv("LESSONS_DATA", "")
    with pytest.raises(FileNotFoundError, match="set LESSONS_DATA"):
        open_dataset("voc2007", "train")


def test_a_home_folder_and_a_folder_of_another_name_are_found(tmp_path, monkeypatch):
    coco_set(tmp_path / "sets/my_coco", [row(1)])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LESSONS_DATA", "~/sets")
    assert len(open_dataset("coco2017", "train")) == 2
    assert len(open_dataset("coco2017", "train", "~/sets/my_coco")) == 2


def truth_scores_one(dataset, count=20):
    """pycocotools reads the set, and its own boxes as detections are a perfect detector."""
    indices = range(min(count, len(dataset)))
    coco = COCO()
    coco.dataset = dataset.coco(indices)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    targets = [dataset.annotation(i)[0] for i in indices]
    assert len(coco.getAnnIds()) == sum(len(target["boxes"]) for target in targets)
    metrics = CocoMetrics()
    metrics.update([{"boxes": t["boxes"], "labels": t["labels"], "scores": torch.ones(len(t["boxes"]))} for t in targets],
                   targets)
    assert metrics.compute()["AP"] == pytest.approx(1)


def test_round_trip_of_the_embedded_set():
    truth_scores_one(open_dataset("scenes", "val"))


def nuclei_set(root):
    for name in "abcdefgh":
        picture(root / "nuclei/stage1_train" / name / "images" / f"{name}.png")
        picture(root / "nuclei/stage1_train" / name / "masks/0.png", mode="1")


def test_worker_processes_read_the_same(tmp_path):
    voc_set(tmp_path / "bccd/BCCD", {"a": [voc_object("RBC", (1, 1, 5, 5))]})
    coco_set(tmp_path / "coco2017", [row(1)])
    panoptic_set(tmp_path / "coco2017")
    nuclei_set(tmp_path)
    for name, options in (("bccd", {}), ("nuclei", {}), ("coco2017", {}), ("coco2017", {"task": "panoptic"})):
        dataset = open_dataset(name, "train", tmp_path, **options)
        loader = DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=collate)
        image, target = next((images[0], targets[0]) for images, targets in loader)
        assert torch.equal(image, dataset[0][0])
        assert all(torch.equal(target[key], value) for key, value in dataset[0][1].items() if torch.is_tensor(value))
        again = pickle.loads(pickle.dumps(dataset))  # as worker processes get it where they cannot be forked
        assert torch.equal(again[0][0], image)


@real
@pytest.mark.filterwarnings("ignore:BloodImage_00343")
def test_real_bccd():
    dataset = open_dataset("bccd", "trainval", SHARED)
    assert len(dataset) == 292
    with pytest.warns(UserWarning, match="BloodImage_00338: dropped 1") as caught:
        labels = torch.cat([dataset.annotation(i)[0]["labels"] for i in range(292)])
    assert sum("BloodImage_00343" in str(one.message) for one in caught) == 1
    assert len(labels) == 3350 + 301 + 292 - 2
    counts = dict(zip(dataset.classes, labels.bincount().tolist(), strict=True))
    assert counts["WBC"] == 301
    assert [len(open_dataset("bccd", split, SHARED)) for split in ("train", "val")] == [205, 87]
    with pytest.raises(ValueError, match="no split 'test'; .* lists train, trainval, val"):
        open_dataset("bccd", "test", SHARED)
    assert dataset[0][0].shape == (3, 480, 640)
    truth_scores_one(dataset)


@real
def test_real_nuclei():
    train, val = (open_dataset("nuclei", split, SHARED / "dsb2018_nuclei") for split in ("train", "val"))
    assert len(train) + len(val) == 90
    assert sum(len(d.annotation(i)[0]["masks"]) for d in (train, val) for i in range(len(d))) == 977
    truth_scores_one(val, 5)


@real
def test_real_coco():
    dataset = open_dataset("coco2017", "train", SHARED)
    targets = [dataset.annotation(i)[0] for i in range(len(dataset))]
    assert (len(targets), sum(len(t["boxes"]) for t in targets), sum(int(t["iscrowd"].sum()) for t in targets)) == (26, 333, 5)
    for target in targets:  # masks as large as the files say
        found = target["masks"].flatten(1).sum(1)
        assert ((found - target["area"]).abs() <= 0.1 * target["area"] + 20).all()
    people = open_dataset("coco2017", "train", SHARED / "coco_mini_cc", task="keypoints")
    assert sum(len(people.annotation(i)[0]["keypoints"]) for i in range(len(people))) == 27
    assert people.points == 17
    read = dataset[0]
    assert read[0].shape[-2:] == read[1]["masks"].shape[-2:]
    truth_scores_one(dataset)


@real
def test_real_panoptic():
    dataset = open_dataset("coco2017", "train", SHARED, task="panoptic")
    assert len(dataset) == 26
    count = 0
    for i in range(26):
        target, rows = dataset.annotation(i)[0], dataset.rows[i]["segments_info"]
        count += len(rows)
        for one in rows:
            assert int((target["panoptic"] == one["id"]).sum()) == one["area"]
        boxes = [one["bbox"] for one in rows if dataset.is_thing[dataset.category_ids.index(one["category_id"])]]
        assert target["boxes"].tolist() == [[x, y, x + w, y + h] for x, y, w, h in boxes]
    assert count == 285
    truth_scores_one(dataset)
