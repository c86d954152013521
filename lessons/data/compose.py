"""Scenes composed from photographed objects, in integers only (Dwibedi et al., "Cut, Paste and Learn", ICCV 2017).

A scene is made in two steps. `plan_scene` rolls the dice: background, objects and where each one lies, whatever the
output size. `lessons.data.paint.render` paints the plan at any size, so that a scene is the same composition at 96 and
at 1024 px.

Splits keep objects AND backgrounds apart, so that "new" means what it says:

    split          objects   backgrounds
    train          train     train
    val            train     val          new pictures of known objects
    val_unknown    val       val          objects that training never saw
    test           train     test
    test_unknown   test      test
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

from lessons.data.paint import REFERENCE, SOLID, Backdrop, Look, Placed, Plan, overlap, render_look
from lessons.data.pictures import ONE, Photo, background, cutout, photos

CLASSES = ("background", "bird", "fish", "hoofed", "furry", "produce", "vehicle")
SPLITS = {"train": ("train", "train"), "val": ("train", "val"), "val_unknown": ("val", "val"),
          "test": ("train", "test"), "test_unknown": ("test", "test")}  # split: (objects, backgrounds)
MIN_VISIBLE = 0.6  # an object keeps at least this share of its area in the frame when others are laid over it
MAX_OBJECTS = 5
TRIES = 12  # places tried for an object before it is left out
OBJECT_SIZES = (22, 68)  # square root of an object's area, px at REFERENCE: smallest, largest
LONGEST = 112  # px at REFERENCE: no object is longer
ENLARGED = 3 * ONE // 2  # no cutout is enlarged more than 1.5 times at REFERENCE
DISTRACTORS = 3  # one scene in three holds an object of no class,
DISTRACTOR_SIZES = (14, 40)  # and smaller

Item = TypeVar("Item")


class Dice:
    """Draws that never change: PCG64's raw stream, which numpy guarantees, scaled by integer arithmetic."""

    def __init__(self, *seed: int) -> None:
        self._raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw

    def roll(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + ((int(self._raw()) >> 32) * (high - low + 1) >> 32)

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.roll(0, len(items) - 1)]


@lru_cache(maxsize=32)
def pool(role: str, split: str) -> tuple[Photo, ...]:
    """The pictures of a role ("bird", ..., "distractor", "background") that a split of pictures holds."""
    return tuple(photo for photo in photos() if photo.role == role and photo.split == split)


def plan_scene(split: str, index: int, seed: int = 0) -> Plan:
    """The composition of one scene: 1 to 5 objects, class drawn first, then the object, then how and where it lies.

    An object is laid where every object keeps MIN_VISIBLE of its area; when TRIES places fail, it is left out.
    Raises ValueError for an unknown split or a negative index or seed.
    """
    objects, backgrounds = _check(split, index, seed)
    dice = Dice(1, list(SPLITS).index(split), index, seed)
    backdrop = _draw_backdrop(dice, backgrounds, 60)
    wanted = [dice.roll(1, len(CLASSES) - 1) for _ in range(dice.roll(1, MAX_OBJECTS))]
    if dice.roll(1, DISTRACTORS) == 1:
        wanted.insert(dice.roll(0, len(wanted) - 1), 0)
    table = _Table()
    for label in wanted:
        photo = dice.pick(pool(CLASSES[label] if label else "distractor", objects))
        look = draw_look(dice, photo, OBJECT_SIZES if label else DISTRACTOR_SIZES)
        table.lay(dice, look, label)
    return Plan(backdrop, tuple(table.objects))


def _check(split: str, index: int, seed: int) -> tuple[str, str]:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}.")
    for name, value in (("index", index), ("seed", seed)):
        if value < 0:
            raise ValueError(f"the {name} must not be negative, got {value}.")
    return SPLITS[split]


class _Table:
    """The frame at REFERENCE px while objects are laid on it: which object owns each pixel."""

    def __init__(self) -> None:
        self.objects: list[Placed] = []
        self._owner = np.zeros((REFERENCE, REFERENCE), np.uint8)  # 0 free, i the i-th object laid
        self._whole = [0]  # area of each object in the frame; 0 for what may be covered

    def lay(self, dice: Dice, look: Look, label: int) -> None:
        """Lays an object where the rule of visibility holds, or leaves it out."""
        mask = render_look(look, REFERENCE)[..., 3] >= SOLID
        needed = [MIN_VISIBLE * area for area in self._whole]
        showing = np.bincount(self._owner.ravel(), minlength=len(needed))
        for _ in range(TRIES):
            centre = _draw_centre(dice, mask.shape[1]), _draw_centre(dice, mask.shape[0])
            frame, part = overlap(mask.shape, centre, REFERENCE)
            inside = mask[part]
            left = showing - np.bincount(self._owner[frame][inside], minlength=len(needed))
            if (left >= needed).all():
                self.objects.append(Placed(look, label, centre))
                self._whole.append(int(inside.sum()) if label else 0)  # a distractor may be hidden altogether
                self._owner[frame][inside] = len(self.objects)
                return


def _draw_centre(dice: Dice, extent: int) -> int:
    """A coordinate of an object's centre such that at most a sixth of its extent leaves the frame on either side."""
    return dice.roll(extent // 3, REFERENCE - extent // 3)


def draw_look(dice: Dice, photo: Photo, sizes: tuple[int, int]) -> Look:
    """A random appearance whose square root of area lies between two sizes, px at REFERENCE."""
    levels, area_root = cutout(photo.file)
    longest = max(levels[0].shape) - 3
    scale = dice.roll(*(size * ONE // area_root for size in sizes))
    scale = min(scale, ENLARGED, LONGEST * ONE // longest)
    return Look(photo.file, scale, dice.roll(-20, 20), dice.roll(0, 1) == 1, _draw_gains(dice, 190, 280, 14),
                dice.roll(0, 1) == 1)


def _draw_gains(dice: Dice, low: int, high: int, tint: int) -> tuple[int, int, int]:
    """Brightness between low / 256 and high / 256, and a slight tint of each channel."""
    light = dice.roll(low, high)
    red, green, blue = (light + dice.roll(-tint, tint) for _ in range(3))
    return red, green, blue


def _draw_backdrop(dice: Dice, split: str, smallest: int) -> Backdrop:
    """A random square, `smallest` to 100 % of the shorter side, of a random background."""
    photo = dice.pick(pool("background", split))
    height, width = background(photo.file)[0].shape[:2]
    side = dice.roll(min(height, width) * smallest // 100, min(height, width))
    square = dice.roll(0, width - side), dice.roll(0, height - side), side
    return Backdrop(photo, square, dice.roll(0, 1) == 1, _draw_gains(dice, 180, 256, 6))


def plan_crop(split: str, index: int, seed: int = 0) -> Plan:
    """One object filling most of the frame, or, one time in seven, no object: what a classifier is trained on."""
    objects, backgrounds = _check(split, index, seed)
    dice = Dice(2, list(SPLITS).index(split), index, seed)
    backdrop = _draw_backdrop(dice, backgrounds, 20)
    label = dice.roll(0, len(CLASSES) - 1)
    if label == 0:
        return Plan(backdrop, ())
    photo = dice.pick(pool(CLASSES[label], objects))
    longest = max(cutout(photo.file)[0][0].shape) - 3
    fill = dice.roll(REFERENCE * 6 // 10, REFERENCE * 95 // 100)
    look = replace(draw_look(dice, photo, OBJECT_SIZES), scale=fill * ONE // longest)
    jitter = REFERENCE // 10
    centre = tuple(REFERENCE // 2 + dice.roll(-jitter, jitter) for _ in range(2))
    return Plan(backdrop, (Placed(look, label, (centre[0], centre[1])),))
