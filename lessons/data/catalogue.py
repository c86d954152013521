"""Opening a data set by its name.

    open_dataset("scenes", "val")                       embedded, needs nothing
    open_dataset("bccd", "train", root="~/datasets")    or set LESSONS_DATA=~/datasets

Folders that are looked for, in the root itself or below it:

    bccd         bccd/BCCD/{Annotations,ImageSets,JPEGImages}            Shenggan, github.com/Shenggan/BCCD_Dataset
    nuclei       nuclei/stage1_train/ID/{images,masks}                   Data Science Bowl 2018
    penn_fudan   PennFudanPed/{PNGImages,PedMasks}
    voc2007/12   VOCdevkit/VOC2007/{Annotations,ImageSets,JPEGImages}
    coco2017     coco2017/annotations/*.json, coco2017/{train,val}2017/*.jpg
"""

from pathlib import Path
from typing import Any

from lessons.data.files import find_folder
from lessons.data.sample import DetectionDataset

NAMES = ("scenes", "bccd", "nuclei", "penn_fudan", "voc2007", "voc2012", "coco2017")


def open_dataset(name: str, split: str, root: str | Path | None = None, **options: Any) -> DetectionDataset:
    """The data set `name`, one of NAMES, in the sample form of `lessons.data.sample`.

    root: the folder that holds the set or the set's own folder; by default the environment variable LESSONS_DATA.
    Splits: scenes train, val, val_unknown, test, test_unknown; nuclei and penn_fudan train, val; VOC and bccd as
    listed in their ImageSets; coco2017 train, val. Options: scenes length, seed, size; coco2017 masks and task
    ("instances", "keypoints", "panoptic"). Raises ValueError for an unknown name, split or option, FileNotFoundError
    that says what to put where when the set is not there.
    """
    if name not in NAMES:
        raise ValueError(f"data set {name!r} is none of {', '.join(NAMES)}.")
    if name == "scenes":
        from lessons.data.scenes import Scenes

        return Scenes(split, **options)
    if name == "coco2017":
        return _coco(split, root, **options)
    if options:
        raise ValueError(f"{name} takes no option {', '.join(options)}.")
    if name in ("nuclei", "penn_fudan"):
        return _masked(name, split, root)
    return _voc(name, split, root)


def _voc(name: str, split: str, root: str | Path | None) -> DetectionDataset:
    from lessons.data.voc import BCCD_CLASSES, VOC_CLASSES, VocDevkit

    if name == "bccd":
        folder = find_folder(name, ["bccd", "BCCD_Dataset"], "BCCD/Annotations", root) / "BCCD"
        return VocDevkit(folder, split, BCCD_CLASSES, name)
    year = f"VOC{name[3:]}"
    inside = f"{year}/Annotations"
    folder = find_folder(name, ["VOCdevkit", f"{name}/VOCdevkit", name], inside, root) / year
    return VocDevkit(folder, split, VOC_CLASSES, name)


def _masked(name: str, split: str, root: str | Path | None) -> DetectionDataset:
    from lessons.data import instances

    if name == "nuclei":
        return instances.nuclei(find_folder(name, ["nuclei", "dsb2018_nuclei", "dsb2018"], "stage1_train", root), split)
    return instances.penn_fudan(find_folder(name, ["PennFudanPed", "penn_fudan"], "PNGImages", root), split)


def _coco(split: str, root: str | Path | None, task: str = "instances", masks: bool = True) -> DetectionDataset:
    from lessons.data.coco import TASKS, CocoDetection, CocoPanoptic

    if split not in ("train", "val"):
        raise ValueError(f"coco2017 has no split {split!r}; its splits with annotations are train and val.")
    if task not in TASKS:
        raise ValueError(f"task {task!r} is none of {', '.join(TASKS)}.")
    file = f"{'person_keypoints' if task == 'keypoints' else task}_{split}2017.json"
    folder = find_folder("coco2017", ["coco2017", "coco"], f"annotations/{file}", root)
    images, annotations = folder / f"{split}2017", folder / "annotations"
    dataset: CocoDetection | CocoPanoptic
    if task == "panoptic":
        dataset = CocoPanoptic(images, annotations / f"panoptic_{split}2017", annotations / file)
    else:
        dataset = CocoDetection(images, annotations / file, task, masks)
    dataset.name, dataset.split = "coco2017", split
    return dataset
