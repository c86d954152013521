"""Opening a data set by its name.

    open_dataset("scenes", "val")                       embedded, needs nothing
    open_dataset("bccd", "train", root="~/datasets")    or set LESSONS_DATA=~/datasets

What a root holds; the first folder of each line may have another name, or be the root itself:

    bccd         bccd/BCCD/{Annotations,ImageSets,JPEGImages}            Shenggan, BCCD_Dataset
    nuclei       nuclei/stage1_train/ID/{images,masks}                   Data Science Bowl 2018
    penn_fudan   PennFudanPed/{PNGImages,PedMasks}                       Wang et al., ACCV 2007
    voc2007/12   VOCdevkit/VOC2007/{Annotations,ImageSets,JPEGImages}    Everingham et al., IJCV 2010
    coco2017     coco2017/annotations/*.json, {train,val}2017/*.jpg      Lin et al., ECCV 2014
"""

from pathlib import Path
from typing import Any

from lessons.data.files import find_folder
from lessons.data.sample import DetectionDataset

OPTIONS = {"scenes": ("length", "seed", "size"), "coco2017": ("task", "masks")}
NAMES = ("scenes", "bccd", "nuclei", "penn_fudan", "voc2007", "voc2012", "coco2017")


def open_dataset(name: str, split: str, root: str | Path | None = None, **options: Any) -> DetectionDataset:
    """The data set `name`, one of NAMES, in the sample form of `lessons.data.sample`.

    root: the folder that holds the set or the set's own folder; by default the environment variable LESSONS_DATA.
    Splits: scenes train, val, val_unknown, test, test_unknown; nuclei and penn_fudan train, val; VOC and bccd as
    listed in their ImageSets; coco2017 train, val. Options: scenes length, seed, size; coco2017 masks (False leaves
    them out) and task ("instances", "keypoints", "panoptic"). Raises ValueError for an unknown name, split or option,
    FileNotFoundError that says what to put where when the set is not there.
    """
    if name not in NAMES:
        raise ValueError(f"data set {name!r} is none of {', '.join(NAMES)}.")
    unknown = [option for option in options if option not in OPTIONS.get(name, ())]
    if unknown:
        raise ValueError(f"{name} takes no option {unknown[0]}; it takes {', '.join(OPTIONS.get(name, ())) or 'none'}.")
    if name == "scenes":
        from lessons.data.scenes import Scenes

        return Scenes(split, **options)
    if name == "coco2017":
        return _coco(split, root, **options)
    return _masked(name, split, root) if name in ("nuclei", "penn_fudan") else _voc(name, split, root)


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
        folder = find_folder(name, ["nuclei", "dsb2018_nuclei", "dsb2018"], "stage1_train", root)
        return instances.MaskedImages(name, split, "nucleus", instances.Nuclei(folder / "stage1_train"))
    folder = find_folder(name, ["PennFudanPed", "penn_fudan"], "PNGImages", root)
    return instances.MaskedImages(name, split, "pedestrian", instances.PennFudan(folder))


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
