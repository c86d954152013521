"""Cutting and shrinking of the embedded pictures: from a source photograph to the file in `data/`.

A cutout is a photographed object with an alpha channel. Three things in the sources would give a detector a clue that
no real picture has, and are mended here: specks of stray pixels, a rim in the colour of the former backdrop, and edges
cut like a staircase.
"""

import io
import re
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from scipy import ndimage

CUTOUT_SIDE = 192  # pixels, longest side
BACKGROUND_SIDE = 320  # pixels, shortest side
QUALITY = 88  # WebP
OPAQUE = 224  # alpha from which a pixel's colour is trusted
FAINT = 24  # alpha below which a pixel is not part of the object
SPECK = 0.02  # connected parts below this share of the largest one are dropped
SHINE = 60  # a rim pixel is lighter than its inner neighbour by this (red + green + blue)
HARD = 0.3  # an edge with a smaller share of half-transparent pixels than this is a staircase
SMOOTHING = np.outer([1, 2, 1], [1, 2, 1]) / 16
BLACK = 24  # grey level below which a whole row or column counts as a letterbox bar


def cut_out(picture: Image.Image) -> Image.Image:
    """The object alone: specks removed, edges mended, cropped to its alpha, at most 192 px. RGBA to RGBA.

    Never enlarges. Raises ValueError when nothing of the picture is opaque.
    """
    rgba = np.pad(np.array(picture.convert("RGBA")), ((1, 1), (1, 1), (0, 0)))
    rgba[..., 3] = _without_specks(rgba[..., 3])
    if not (rgba[..., 3] >= OPAQUE).any():
        raise ValueError(f"the picture of size {picture.size} has no opaque pixel, so there is no object to cut out.")
    rgba = _mend_rim(rgba)
    rgba[..., 3] = _soften(rgba[..., 3])
    shrunk = np.array(shrink(Image.fromarray(_crop(_bleed(rgba))), CUTOUT_SIDE, max))
    return Image.fromarray(_crop(_bleed(shrunk)))


def shrink(picture: Image.Image, side: int, measure: Callable[[tuple[int, int]], int]) -> Image.Image:
    """The picture resized so that `measure` (max or min) of its sides is at most `side` px; never enlarged."""
    factor = side / measure(picture.size)
    if factor >= 1:
        return picture
    width, height = (max(1, round(n * factor)) for n in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def without_bars(picture: Image.Image) -> Image.Image:
    """The picture without black letterbox bars at its edges."""
    grey = np.asarray(picture.convert("L"))
    rows = np.nonzero(grey.mean(1) > BLACK)[0]
    columns = np.nonzero(grey.mean(0) > BLACK)[0]
    return picture.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def webp(picture: Image.Image) -> bytes:
    """The picture as a WebP file: lossy colour at quality 88, lossless alpha, colours kept under transparency."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, alpha_quality=100, method=6, exact=True)
    return buffer.getvalue()


def embedded_images(data: bytes) -> Iterator[bytes]:
    """The PNG and WebP files that lie uncompressed inside a Qt resource file, in their order, found by signature."""
    for match in re.finditer(rb"\x89PNG\r\n\x1a\n|RIFF....WEBP", data, re.DOTALL):
        start = match.start()
        if match.group().startswith(b"RIFF"):
            end = start + 8 + int.from_bytes(data[start + 4:start + 8], "little")
        else:
            end = data.index(b"IEND", start) + 8  # the name of the last chunk, then its checksum
        yield data[start:end]


def _without_specks(alpha: np.ndarray) -> np.ndarray:
    """Alpha (H, W) uint8 with faint haze and small detached parts set to 0."""
    parts, count = ndimage.label(alpha >= FAINT, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros_like(alpha)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    keep = sizes >= SPECK * sizes.max()
    return np.where(keep[parts], alpha, 0).astype(np.uint8)


def _mend_rim(rgba: np.ndarray) -> np.ndarray:
    """RGBA whose outermost opaque pixels take the colour next to them further in, where the rim shines.

    A light rim is what remains of the studio's backdrop. Parts too thin to have an inside (legs) keep their colour.
    """
    opaque = rgba[..., 3] >= OPAQUE
    body = ndimage.binary_dilation(ndimage.binary_opening(opaque, iterations=2)) & opaque
    inside = ndimage.binary_erosion(opaque, np.ones((3, 3))) & body
    if not inside.any():
        return rgba
    rows, columns = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    nearest = rgba[rows, columns, :3]
    shines = rgba[..., :3].astype(int).sum(-1) > nearest.astype(int).sum(-1) + SHINE
    rim = body & ~inside & shines
    rgba[rim, :3] = nearest[rim]
    return rgba


def _soften(alpha: np.ndarray) -> np.ndarray:
    """Alpha whose edge is smoothed where it is a staircase of fully opaque beside fully clear pixels."""
    solid = alpha >= OPAQUE
    beside = ndimage.binary_dilation(solid) & ~solid
    if ((alpha > 0) & beside).sum() > HARD * beside.sum():
        return alpha
    return ndimage.convolve(alpha.astype(np.float64), SMOOTHING).round().astype(np.uint8)


def _crop(rgba: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(rgba[..., 3].max(1))[0], np.nonzero(rgba[..., 3].max(0))[0]
    return rgba[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def _bleed(rgba: np.ndarray) -> np.ndarray:
    """RGBA (H, W, 4) whose see-through pixels take the colour of the nearest opaque one, so that no rim shines."""
    opaque = rgba[..., 3] >= OPAQUE
    if not opaque.any():
        return rgba
    rows, columns = ndimage.distance_transform_edt(~opaque, return_distances=False, return_indices=True)
    return np.dstack([rgba[rows, columns, :3], rgba[..., 3]])
