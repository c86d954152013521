"""The embedded photographs and the integer arithmetic that draws with them. numpy only.

Everything here is exact: uint8, uint16 and int32 arithmetic without floating point, so that a scene is the same, byte
for byte, on every machine and with every version of numpy and Pillow. Object pictures are RGBA with premultiplied
alpha (colour already multiplied by alpha), the form in which averaging and pasting need no division.
"""

import csv
from dataclasses import dataclass
from functools import lru_cache
from math import cos, isqrt, radians, sin
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).resolve().parents[2] / "data"
ONE = 1 << 16  # 1.0 in the fixed-point numbers of this file (16 fractional bits)
Array = np.ndarray


@dataclass(frozen=True)
class Photo:
    """One embedded picture: `file` relative to data/, its `role` (a class, "distractor" or "background") and `split`.

    `group` is shared by near-duplicates. `bands` are a background's coarse stuff regions from top to bottom,
    (name, lower end in thousandths of the height).
    """

    file: str
    role: str
    split: str
    group: str
    bands: tuple[tuple[str, int], ...] = ()


@lru_cache(maxsize=1)
def photos() -> tuple[Photo, ...]:
    """All embedded pictures, from data/CREDITS.csv. Raises FileNotFoundError when the folder is not there."""
    index = DATA / "CREDITS.csv"
    if not index.is_file():
        raise FileNotFoundError(f"{index} is missing: the embedded pictures are part of the repository's data/ folder.")
    with index.open(newline="", encoding="utf-8") as handle:
        return tuple(Photo(row["file"], row["role"], row["split"], row["group"], _bands(row["stuff"]))
                     for row in csv.DictReader(handle))


def _bands(text: str) -> tuple[tuple[str, int], ...]:
    """"sky to 0.22 | rock to 1" -> (("sky", 220), ("rock", 1000))."""
    pairs = [band.split(" to ") for band in text.split("|")] if text else []
    return tuple((name.strip(), round(float(end) * 1000)) for name, end in pairs)


@lru_cache(maxsize=256)
def cutout(file: str) -> tuple[list[Array], int]:
    """Pyramid of an object's picture and the square root of its mask's area in pixels at full size.

    Level k is (H / 2^k + 3, W / 2^k + 3) uint32: the four bytes of a premultiplied RGBA pixel in one word, with a clear
    margin of one pixel above and left and two below and right, so that interpolation may look past the edge.
    """
    with Image.open(DATA / file) as picture:
        rgba = np.array(picture.convert("RGBA"))
    rgba[..., :3] = _divide_by_255(rgba[..., :3].astype(np.uint16) * rgba[..., 3:])
    levels = []
    for level in pyramid(rgba, "constant"):
        padded = np.zeros((level.shape[0] + 3, level.shape[1] + 3, 4), np.uint8)
        padded[1:-2, 1:-2] = level
        levels.append(padded.view(np.uint32)[..., 0])
    return levels, max(1, isqrt(int((rgba[..., 3] >= 128).sum())))


@lru_cache(maxsize=64)
def background(file: str) -> list[Array]:
    """Pyramid of a background, levels (H / 2^k, W / 2^k, 3) uint8."""
    with Image.open(DATA / file) as picture:
        return pyramid(np.array(picture.convert("RGB")), "edge")


def pyramid(picture: Array, beyond: str) -> list[Array]:
    """The picture (H, W, C) uint8 and its halvings by 2x2 averaging, down to a side of about 8 px.

    beyond: what lies past an odd edge, "edge" (the same again) or "constant" (nothing, clear).
    """
    levels = [picture]
    while min(levels[-1].shape[:2]) >= 16:
        height, width = levels[-1].shape[:2]
        last = np.pad(levels[-1], [(0, height % 2), (0, width % 2), (0, 0)], beyond).astype(np.uint16)  # type: ignore[call-overload]
        total = last[0::2, 0::2] + last[1::2, 0::2] + last[0::2, 1::2] + last[1::2, 1::2]
        levels.append(((total + 2) >> 2).astype(np.uint8))
    return levels


def warp(levels: list[Array], scale: int, degrees: int, flip: bool) -> Array:
    """An object scaled by scale / 65536, turned counter-clockwise by whole degrees and perhaps mirrored first.

    levels: from `cutout`. Returns (h, w, 4) uint8, premultiplied; h and w are even and the object's centre is in the
    middle. Bilinear interpolation in the level of the pyramid whose size is nearest.
    """
    level = 0
    centre_x, centre_y = ((extent - 3) * ONE // 2 for extent in reversed(levels[0].shape))
    while scale < 3 * ONE // 4 and level + 1 < len(levels):
        scale, level = scale * 2, level + 1
    texels = levels[level]
    height, width = texels.shape[0] - 3, texels.shape[1] - 3
    cosine, sine = _direction(degrees)
    half_w = (abs(cosine) * width + abs(sine) * height) * scale // ONE // ONE // 2 + 2
    half_h = (abs(sine) * width + abs(cosine) * height) * scale // ONE // ONE // 2 + 2
    dx = 2 * np.arange(-half_w, half_w, dtype=np.int32) + 1  # output pixels from the centre, in halves
    dy = 2 * np.arange(-half_h, half_h, dtype=np.int32) + 1
    along, across = cosine * ONE // scale, sine * ONE // scale  # source pixels for one output pixel
    x = (dx * along >> 1)[None] - (dy * across >> 1)[:, None]
    y = (dx * across >> 1)[None] + (dy * along >> 1)[:, None]
    return _sample(texels, (-x if flip else x) + (centre_x >> level) - ONE // 2, y + (centre_y >> level) - ONE // 2)


def _direction(degrees: int) -> tuple[int, int]:
    """Cosine and sine in fixed point. Rounding hides the last bit, in which mathematics libraries differ."""
    return round(cos(radians(degrees)) * ONE), round(sin(radians(degrees)) * ONE)


def _sample(texels: Array, x: Array, y: Array) -> Array:
    """Bilinear samples (h, w, 4) uint8 of packed texels at fixed-point pixel positions; clear outside."""
    rows, columns = texels.shape
    x = np.clip(x, -ONE, (columns - 3) * ONE) + ONE  # the margin moves everything by one pixel
    y = np.clip(y, -ONE, (rows - 3) * ONE) + ONE
    first = (y >> 16) * columns + (x >> 16)
    fx = (x >> 8 & 255).astype(np.uint16)[..., None]
    fy = (y >> 8 & 255).astype(np.uint16)[..., None]
    flat = texels.ravel()
    corner = [flat[first + step].view(np.uint8).reshape(*x.shape, 4) for step in (0, 1, columns, columns + 1)]
    return _mix(_mix(corner[0], corner[1], fx), _mix(corner[2], corner[3], fx), fy)


def _mix(a: Array, b: Array, weight: Array) -> Array:
    """a + (b - a) * weight / 256 for uint8 a and b and a uint16 weight 0 .. 255, rounded."""
    return ((a * (256 - weight) + b * weight + 128) >> 8).astype(np.uint8)


def resize_square(levels: list[Array], left: int, top: int, side: int, size: int) -> Array:
    """The square of `side` px at (left, top) of a background, resized to (size, size, 3) uint8, bilinear."""
    step, level = side * ONE // size, 0
    while step > 3 * ONE >> 1 and level + 1 < len(levels):
        step, level = step // 2, level + 1
    picture = levels[level]
    grid = np.arange(size, dtype=np.int64) * step + step // 2 - ONE // 2
    x = np.clip(grid + (left * ONE >> level), 0, (picture.shape[1] - 1) * ONE)
    y = np.clip(grid + (top * ONE >> level), 0, (picture.shape[0] - 1) * ONE)
    across = _mix_axis(picture[y[0] >> 16:(y[-1] >> 16) + 2], x, axis=1)
    return _mix_axis(across, y - (y[0] >> 16 << 16), axis=0)


def _mix_axis(picture: Array, position: Array, axis: int) -> Array:
    """Linear interpolation of a picture along one axis at fixed-point positions."""
    first = position >> 16
    second = np.minimum(first + 1, picture.shape[axis] - 1)
    weight = (position >> 8 & 255).astype(np.uint16).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    return _mix(picture.take(first, axis), picture.take(second, axis), weight)


def recolour(picture: Array, gains: tuple[int, int, int]) -> Array:
    """Colours multiplied by gains / 256 and cut off at 255 (or at alpha, where there is one). Same shape, uint8."""
    table = np.minimum(np.arange(256) * np.array(gains)[:, None] >> 8, 255).astype(np.uint8)  # (3, 256)
    made = picture.copy()
    for channel in range(3):
        made[..., channel] = table[channel][picture[..., channel]]
    if picture.shape[-1] == 4:
        np.minimum(made[..., :3], picture[..., 3:], out=made[..., :3])
    return made


def feather(patch: Array, radius: int) -> Array:
    """A premultiplied patch (h, w, 4) whose edge fades over `radius` pixels inwards; its outside stays clear."""
    alpha = np.pad(patch[..., 3].astype(np.int32), radius)
    side = 2 * radius + 1
    total = np.pad(alpha, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    blurred = (total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]) // side**2
    return _divide_by_255(patch * blurred.astype(np.uint16)[..., None])


def paste(canvas: Array, patch: Array) -> None:
    """Lays a premultiplied patch (h, w, 4) over canvas (h, w, 3), in place: patch + canvas * (1 - alpha)."""
    canvas[...] = patch[..., :3] + _divide_by_255(canvas * (255 - patch[..., 3:].astype(np.uint16)))


def _divide_by_255(value: Array) -> Array:
    """value / 255 rounded to nearest, exact for uint16 values up to 255 * 255."""
    value = value + 128
    return ((value + (value >> 8)) >> 8).astype(np.uint8)
