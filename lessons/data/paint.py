"""What a composed picture consists of, and how it is painted. numpy only, integers only.

Places and scales are given for a frame of REFERENCE pixels; painting at another size scales them, so that a picture is
the same composition at every size.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lessons.data.pictures import Array, Photo, background, cutout, feather, paste, recolour, resize_square, warp

STUFF_CLASSES = ("sky", "rock", "wood", "foliage", "grass", "ground", "water", "wall")
REFERENCE = 160  # px, the size of the frame in which places and scales are given
SOLID = 128  # alpha from which a pixel belongs to an object's mask
Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class Look:
    """How an object appears, apart from its place.

    scale: 65536 draws one output pixel for one source pixel at REFERENCE. gains: factors of red, green and blue, 256 is
    1.0. soft: whether the edge is feathered; it is always smooth.
    """

    file: str
    scale: int
    degrees: int
    flip: bool
    gains: tuple[int, int, int]
    soft: bool


@dataclass(frozen=True)
class Placed:
    """An object in a plan: label 1 .. 6, or 0 for a distractor; centre (x, y) in px at REFERENCE."""

    look: Look
    label: int
    centre: tuple[int, int]


@dataclass(frozen=True)
class Backdrop:
    """A square of a background: its photo, the square (left, top, side) in px, mirrored or not, and colour gains."""

    photo: Photo
    square: tuple[int, int, int]
    flip: bool
    gains: tuple[int, int, int]


@dataclass(frozen=True)
class Plan:
    """A picture before it is painted; `objects` from back to front."""

    backdrop: Backdrop
    objects: tuple[Placed, ...]


def render(plan: Plan, size: int) -> tuple[Array, Array, list[int]]:
    """Paints a plan in a frame of `size` px.

    Returns the picture (size, size, 3) uint8; the owner of each pixel (size, size) uint8: 0 the background, i the i-th
    object of the plan; and the area in px that each object would show in the frame with nothing in front of it.
    """
    picture = render_backdrop(plan.backdrop, size)
    owner, whole = np.zeros((size, size), np.uint8), []
    for number, placed in enumerate(plan.objects, start=1):
        patch = render_look(placed.look, size)
        x, y = ((2 * c * size + REFERENCE) // (2 * REFERENCE) for c in placed.centre)  # rounded
        frame, part = overlap(patch.shape, (x, y), size)
        paste(picture[frame], patch[part])
        mask = patch[part][..., 3] >= SOLID
        owner[frame][mask] = number
        whole.append(int(mask.sum()))
    return picture, owner, whole


@lru_cache(maxsize=16)
def render_look(look: Look, size: int) -> Array:
    """An object at its scale in a frame of `size` px: (h, w, 4) uint8, premultiplied, its centre in the middle."""
    patch = warp(cutout(look.file)[0], look.scale * size // REFERENCE, look.degrees, look.flip)
    patch = recolour(patch, look.gains)
    return feather(patch, max(1, size // REFERENCE)) if look.soft else patch


def render_backdrop(backdrop: Backdrop, size: int) -> Array:
    """The background of a picture, (size, size, 3) uint8."""
    picture = resize_square(background(backdrop.photo.file), *backdrop.square, size)
    return recolour(picture[:, ::-1] if backdrop.flip else picture, backdrop.gains)


def overlap(shape: tuple[int, ...], centre: tuple[int, int], size: int) -> tuple[Window, Window]:
    """Where a patch of `shape` (h, w) about a centre (x, y) inside the frame shows: windows of frame and of patch."""
    frame, part = [], []
    for extent, middle in zip(shape[:2], reversed(centre), strict=True):
        start = middle - extent // 2
        low, high = max(start, 0), min(start + extent, size)
        frame.append(slice(low, high))
        part.append(slice(low - start, high - start))
    return (frame[0], frame[1]), (part[0], part[1])


def stuff_rows(backdrop: Backdrop, size: int) -> Array:
    """The stuff class of each row of a picture of `size` px, (size,) uint8: an index into STUFF_CLASSES."""
    _, top, side = backdrop.square
    height = background(backdrop.photo.file)[0].shape[0]
    middle = 2 * top * size + side * (2 * np.arange(size, dtype=np.int64) + 1)  # of each row, in 1 / (2 * size) px
    ends = np.array([end * 2 * size * height for _, end in backdrop.photo.bands[:-1]], np.int64)
    names = np.array([STUFF_CLASSES.index(name) for name, _ in backdrop.photo.bands], np.uint8)
    return names[np.searchsorted(ends, middle * 1000, side="right")]
