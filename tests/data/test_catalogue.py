"""How a data set is found, what all share, and real samples where they are present."""

import contextlib
import io
import pickle
from pathlib import Path

import pytest
import torch
from miniatures import coco_set, nuclei_set, panoptic_set, row, voc_object, voc_set
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

from lessons.data import open_dataset
from lessons.data.sample import collate
from lessons.metrics import CocoMetrics

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "datasets"
real = pytest.mark.skipif(not SHARED.exists(), reason="no real samples at ../shared/datasets")


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
