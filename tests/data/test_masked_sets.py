"""Sets with one mask per object: nuclei and pedestrians."""


import numpy as np
import pytest
from miniatures import picture
from PIL import Image

from lessons.data import open_dataset
from lessons.data.instances import is_validation


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
