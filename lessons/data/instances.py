"""Two small sets with a mask for every object: cell nuclei and pedestrians.

nuclei (Data Science Bowl 2018; Caicedo et al., Nature Methods 2019): ID/images/ID.png and one ID/masks/*.png each.
penn_fudan (Wang et al., ACCV 2007): PNGImages/NAME.png and PedMasks/NAME_mask.png, whose numbers tell people apart.
Neither has an official split: a hash of the name decides, so that it is the same everywhere and for any subset.
"""

import hashlib
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lessons.data.files import check_size, image_size, read_image, read_mask
from lessons.data.sample import DetectionDataset, Sample, Target

VALIDATION_SHARE = 0.25


class Layout(Protocol):
    """Where the pictures and masks of a set lie; a class rather than closures so that worker processes can have it."""

    def names(self) -> list[str]:
        """All samples."""

    def picture(self, name: str) -> Path:
        """The picture of a sample."""

    def masks(self, name: str) -> Tensor:
        """Its masks (N, H, W) bool."""


class MaskedImages(DetectionDataset):
    """Pictures of one class with instance masks; boxes are tight around the masks, on whole pixels.

    `names` lists the samples of the split, image_id is the place in that list. Empty masks are left out.
    Raises ValueError for a split other than train and val and, when a sample is read, for masks of another size than
    the picture's, FileNotFoundError for missing pictures and masks.
    """

    def __init__(self, name: str, split: str, label: str, layout: Layout) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"{name} has no split {split!r}; its splits are train and val.")
        self.name, self.split, self.classes, self.layout = name, split, ("background", label), layout
        self.names = [one for one in sorted(layout.names()) if is_validation(one) == (split == "val")]

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> Sample:
        path = self.layout.picture(self.names[index])
        target, size = self.annotation(index)
        image = read_image(path)
        check_size(path, image, size)
        return image, target

    def annotation(self, index: int) -> tuple[Target, tuple[int, int]]:
        masks = self.layout.masks(self.names[index])
        masks = masks[masks.flatten(1).any(1)]
        count = len(masks)
        target = {"boxes": tight_boxes(masks), "labels": torch.ones(count, dtype=torch.int64),
                  "area": masks.flatten(1).sum(1).float(), "iscrowd": torch.zeros(count, dtype=torch.int64),
                  "image_id": index, "masks": masks}
        return target, (masks.shape[1], masks.shape[2])


class Nuclei:
    """folder/ID/images/ID.png, and folder/ID/masks/*.png with one nucleus each."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        """All folders but hidden ones and those that a Mac leaves in archives."""
        return [path.name for path in self.folder.iterdir() if path.is_dir() and path.name[0] not in "._"]

    def picture(self, name: str) -> Path:
        """The picture of a sample."""
        return self.folder / name / "images" / f"{name}.png"

    def masks(self, name: str) -> Tensor:
        """(N, H, W) bool. Raises FileNotFoundError where there is no folder of masks, ValueError for unequal sizes."""
        folder = self.folder / name / "masks"
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: this sample has no annotation; is the set complete?")
        masks = []
        for path in sorted(folder.glob("*.png")):
            masks.append(read_mask(path) > 0)
            check_size(path, masks[-1], (masks[0].shape[0], masks[0].shape[1]))
        return torch.stack(masks) if masks else torch.zeros((0, *image_size(self.picture(name))), dtype=torch.bool)


class PennFudan:
    """folder/PNGImages/NAME.png, and folder/PedMasks/NAME_mask.png, a map in which each person has a number."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        """All pictures."""
        return [path.stem for path in (self.folder / "PNGImages").glob("*.png")]

    def picture(self, name: str) -> Path:
        """The picture of a sample."""
        return self.folder / "PNGImages" / f"{name}.png"

    def masks(self, name: str) -> Tensor:
        """(N, H, W) bool, in the order of the numbers; 0 is the background."""
        people = read_mask(self.folder / "PedMasks" / f"{name}_mask.png")
        numbers = people.unique()
        return people == numbers[numbers > 0][:, None, None]


def is_validation(name: str) -> bool:
    """Whether a sample of this name belongs to the validation split: about a quarter does."""
    return int(hashlib.sha256(name.encode()).hexdigest()[-8:], 16) / 16**8 < VALIDATION_SHARE


def tight_boxes(masks: Tensor) -> Tensor:
    """(N, 4) float32 xyxy around masks (N, H, W) that are not empty: x2, y2 lie one past the last pixel."""
    if len(masks) == 0:
        return torch.zeros(0, 4)
    sides = []
    for line in (masks.any(1), masks.any(2)):  # columns, rows
        sides += [line.int().argmax(1), line.shape[1] - line.flip(1).int().argmax(1)]
    x1, x2, y1, y2 = sides
    return torch.stack([x1, y1, x2, y2], dim=1).float()
