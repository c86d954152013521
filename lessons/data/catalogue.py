"""Opening a data set by its name."""

from pathlib import Path
from typing import Any

from lessons.data.sample import DetectionDataset

NAMES = ("scenes",)


def open_dataset(name: str, split: str, root: str | Path | None = None, **options: Any) -> DetectionDataset:
    """The data set `name`, one of NAMES, in the sample form of `lessons.data.sample`.

    scenes: splits train, val, val_unknown, test, test_unknown; options length, seed, size. Needs no root.
    Raises ValueError for an unknown name or split.
    """
    if name == "scenes":
        from lessons.data.scenes import Scenes

        return Scenes(split, **options)
    raise ValueError(f"data set {name!r} is none of {', '.join(NAMES)}.")
