"""The embedded data set: scenes of photographed animals, fruit and vehicles, composed on the fly and offline.

At 160 px (200 scenes of each split): 1 to 5 objects a scene, on average 3; the square root of their visible area has
a median of 40 to 42 px and lies between 17 and 68; a quarter of them are small by COCO's measure (below 32 px), the
others medium. An object shows at least 60 % of what it has in the frame, on average 92 %. One scene in three also holds
an unlabelled object, a tool, dish or instrument: what no class covers has to be left alone.

Two numberings of classes are used. `labels` index CLASSES: 0 is the background, 1 .. 6 are the things. The maps use one
numbering for things and stuff, as in COCO panoptic:

    semantic id    0                no class: an unlabelled object (a distractor)
                   1 .. 6           things, the same numbers as the labels
                   7 .. 14          stuff, 7 + index into STUFF_CLASSES (coarse: whole horizontal bands of a photograph)
    panoptic id    0                no segment
                   1 .. N           the objects, in the order of `boxes`
                   N + 1 ..         one segment per stuff class that occurs
"""

import numpy as np
import torch
from torch import Tensor

from lessons.data.compose import CLASSES, SPLITS, plan_crop, plan_scene
from lessons.data.paint import STUFF_CLASSES, Plan, render, stuff_rows
from lessons.data.pictures import Array
from lessons.data.sample import DetectionDataset, Sample, Target

SEMANTIC_CLASSES = ("unlabelled", *CLASSES[1:], *STUFF_CLASSES)
SIZES = (96, 1024)  # px, smallest and largest scene
CROP_SIZES = (16, 1024)  # px
LENGTHS = {"train": 2000, "val": 200, "val_unknown": 200, "test": 200, "test_unknown": 200}


def compose_scene(split: str, index: int, seed: int = 0, size: int = 160) -> Sample:
    """One scene and its target; a pure function, the same bytes on every machine.

    split: train, val, val_unknown, test or test_unknown; index >= 0, without upper limit; size: 96 .. 1024 px.
    The target holds, besides the sample form's entries (N objects, 1 to 5):
      boxes       (N, 4) tight around the visible mask, on whole pixels: x1 the first column, x2 one past the last
      masks       (N, H, W) bool, the visible pixels (alpha at least one half, nothing in front)
      area        (N,) of the visible mask, px
      visibility  (N,) area / area of the whole object inside the frame, in (0, 1]
      semantic    (H, W) int64, index into SEMANTIC_CLASSES
      panoptic    (H, W) int64, segment ids; `segments` (S, 2) int64 lists (segment id, semantic id)
    Raises ValueError for an unknown split, a negative index or seed, or a size out of range.
    """
    _check_size("scene", size, SIZES)
    plan = plan_scene(split, index, seed)
    picture, owner, whole = render(plan, size)
    return _as_image(picture), _target(plan, owner, whole, index)


def compose_crop(split: str, index: int, seed: int = 0, size: int = 64) -> tuple[Tensor, int]:
    """One object about the middle of a background and its label, or only a background and label 0 (1 time in 7).

    Returns an image (3, size, size) in [0, 1] and a label 0 .. 6, for the pre-training of a classifier.
    split as in `compose_scene`; size 16 .. 1024 px. The object may touch or leave the frame a little.
    Raises ValueError for an unknown split, a negative index or seed, or a size out of range.
    """
    _check_size("crop", size, CROP_SIZES)
    plan = plan_crop(split, index, seed)
    return _as_image(render(plan, size)[0]), plan.objects[0].label if plan.objects else 0


def _check_size(what: str, size: int, limits: tuple[int, int]) -> None:
    if not limits[0] <= size <= limits[1]:
        raise ValueError(f"a {what} is {limits[0]} to {limits[1]} px wide, got size {size}.")


def _as_image(picture: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() / 255


def _target(plan: Plan, owner: Array, whole: list[int], index: int) -> Target:
    kept = [i for i, placed in enumerate(plan.objects) if placed.label]
    masks = torch.from_numpy(owner == np.array([i + 1 for i in kept], np.uint8)[:, None, None])
    labels = torch.tensor([plan.objects[i].label for i in kept])
    area = masks.flatten(1).sum(1).float()
    target: Target = {
        "boxes": _tight_boxes(masks), "labels": labels, "masks": masks, "area": area,
        "visibility": area / torch.tensor([whole[i] for i in kept]), "iscrowd": torch.zeros_like(labels),
        "image_id": int(index),
    }
    return target | _maps(plan, owner, kept)


def _tight_boxes(masks: Tensor) -> Tensor:
    """(N, H, W) bool, none empty -> (N, 4) float xyxy pixels; x2 and y2 are one past the last pixel."""
    def ends(line: Tensor) -> tuple[Tensor, Tensor]:  # (N, L) -> first and one past the last true entry
        return line.int().argmax(1), line.shape[1] - line.flip(1).int().argmax(1)

    (x1, x2), (y1, y2) = ends(masks.any(1)), ends(masks.any(2))
    return torch.stack([x1, y1, x2, y2], 1).float()


def _maps(plan: Plan, owner: Array, kept: list[int]) -> Target:
    """Semantic and panoptic maps and the table of segments."""
    size = len(owner)
    rows = stuff_rows(plan.backdrop, size).astype(np.int64) + len(CLASSES)
    stuff = list(dict.fromkeys(rows.tolist()))
    segment = np.zeros(len(plan.objects) + 1, np.int64)
    segment[[i + 1 for i in kept]] = np.arange(1, len(kept) + 1)
    semantic_of = np.array([0, *(placed.label for placed in plan.objects)], np.int64)
    free = owner == 0
    segment_rows = np.searchsorted(np.sort(stuff), rows) + len(kept) + 1
    panoptic = np.where(free, segment_rows[:, None], segment[owner])
    semantic = np.where(free, rows[:, None], semantic_of[owner])
    table = [(n + 1, plan.objects[i].label) for n, i in enumerate(kept)]
    table += [(len(kept) + 1 + n, category) for n, category in enumerate(sorted(stuff))]
    present = set(np.unique(panoptic).tolist())
    return {"semantic": torch.from_numpy(semantic), "panoptic": torch.from_numpy(panoptic),
            "segments": torch.tensor([row for row in table if row[0] in present])}


class Scenes(DetectionDataset):
    """The embedded scenes of one split as a data set: `length` scenes of `size` px, drawn with `seed`."""

    name = "scenes"
    classes = CLASSES

    def __init__(self, split: str, length: int | None = None, seed: int = 0, size: int = 160) -> None:
        plan_scene(split, 0, seed)  # complains about a wrong split or seed now, not in the middle of a training run
        _check_size("scene", size, SIZES)
        if length is not None and length < 0:
            raise ValueError(f"the length must not be negative, got {length}.")
        self.split, self.seed, self.size = split, seed, size
        self.length = LENGTHS[split] if length is None else length

    def __len__(self) -> int:
        return self.length

    def load(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.split}, which holds {self.length}.")
        return compose_scene(self.split, index, self.seed, self.size)


__all__ = ["CLASSES", "LENGTHS", "SEMANTIC_CLASSES", "SPLITS", "STUFF_CLASSES", "Scenes",
           "compose_crop", "compose_scene"]
