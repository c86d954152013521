"""Reading what data sets are made of: pictures, JSON, and folders that may be called one thing or another."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, read_file

ENVIRONMENT = "LESSONS_DATA"


def read_image(path: Path) -> Tensor:
    """A picture file as (3, H, W) float32 in [0, 1]: grey, palette, alpha and CMYK become RGB, alpha is dropped.

    A camera's rotation mark (EXIF) is ignored, as in COCO's and VOC's annotations. Raises FileNotFoundError for a
    missing and ValueError for a broken file, both with its path.
    """
    _must_exist(path)
    try:
        pixels = decode_image(read_file(str(path)), ImageReadMode.RGB)
    except RuntimeError:  # a format or a kind of JPEG that torchvision does not decode
        pixels = _read_with_pillow(path)
    if pixels.shape[0] != 3 or pixels.ndim != 3:  # an animation
        pixels = _read_with_pillow(path)
    return pixels.float() / torch.iinfo(pixels.dtype).max  # 255, or 65535 for a PNG of 16 bits


def read_colours(path: Path) -> Tensor:
    """A colour picture's stored numbers, (3, H, W) int64; for pictures whose colours are codes. Raises as above."""
    _must_exist(path)
    return _read_with_pillow(path).long()


def read_mask(path: Path) -> Tensor:
    """A mask or label picture as (H, W) int64, its stored numbers; of a colour picture the first channel.

    A palette picture gives the palette's places, which is what label pictures mean. Raises as `read_image`.
    """
    _must_exist(path)
    try:
        with Image.open(path) as picture:
            pixels = np.array(picture).astype(np.int64)
    except OSError as error:
        raise ValueError(f"the mask {path} cannot be read ({error}); delete it and download it again.") from error
    return torch.from_numpy(pixels if pixels.ndim == 2 else pixels[..., 0])


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture file from its header, without decoding it. Raises as `read_image`."""
    _must_exist(path)
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except OSError as error:
        raise ValueError(f"the picture {path} cannot be read ({error}); delete it and download it again.") from error


def check_size(path: Path, image: Tensor, size: tuple[int, int]) -> None:
    """Raises ValueError where a picture (..., H, W) has another `size` (height, width) than its annotations say."""
    if tuple(image.shape[-2:]) != tuple(size):
        raise ValueError(f"the picture {path} has {tuple(image.shape[-2:])} pixels (height, width), its annotations "
                         f"are for {tuple(size)}: they do not belong together.")


def _read_with_pillow(path: Path) -> Tensor:
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    except OSError as error:
        raise ValueError(f"the picture {path} cannot be read ({error}); delete it and download it again.") from error


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"the picture {path} is missing, but the annotations name it; is the set complete?")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises FileNotFoundError, or ValueError with path and line of what is broken."""
    if not path.is_file():
        raise FileNotFoundError(f"the annotation file {path} is missing.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); it may be cut off, download it again.") from error


def find_folder(name: str, candidates: Sequence[str], inside: str, root: str | Path | None = None) -> Path:
    """The folder of a data set: the first of root, root/CANDIDATE ... that holds `inside`, else any root/* that does.

    root: argument, else the environment variable LESSONS_DATA. Raises FileNotFoundError that says what to put where.
    """
    where = root if root is not None else os.environ.get(ENVIRONMENT)
    if not where:
        raise FileNotFoundError(
            f"{name} is not part of this collection: put it into a folder, so that FOLDER/{candidates[0]}/{inside} "
            f"exists, and set {ENVIRONMENT} to FOLDER in the environment (or give root=...); "
            f"`python -m lessons.data.download {name} --root FOLDER` fetches it or says where it can be had.")
    base = Path(where).expanduser()
    named = [base, *(base / candidate for candidate in candidates)]
    # os.path.exists: a folder that may not be looked into is none of a data set
    for place in [*named, base.parent, *sorted(base.glob("*/"))]:  # the parent: someone gave .../VOCdevkit/VOC2007
        if os.path.exists(place / inside) and (place != base.parent or base.name == Path(inside).parts[0]):
            return place
    tried = ", ".join(str(place / inside) for place in named)
    raise FileNotFoundError(
        f"{name} was not found: none of {tried} exists, so put it there; "
        f"`python -m lessons.data.download {name} --root {base}` fetches it or says where it can be had.")
