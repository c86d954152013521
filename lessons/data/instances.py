"""Two small sets with a mask for every object: cell nuclei and pedestrians.

nuclei (Data Science Bowl 2018; Caicedo et al., Nature Methods 2019): ID/images/ID.png and one ID/masks/*.png each.
penn_fudan (Wang et al., ACCV 2007): PNGImages/NAME.png and PedMasks/NAME_mask.png, whose numbers tell people apart.
Neither has an official split: a hash of the name decides, so that it is the same everywhere and for any subset.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lessons.data.files import read_image, read_mask
from lessons.data.sample import DetectionDataset, Sample

VALIDATION_SHARE = 0.25


class MaskedImages(DetectionDataset):
    """Pictures of one class with instance masks; boxes are tight around the masks, on whole pixels.

    `names` lists the samples of both splits, `read(name)` gives picture and masks (N, H, W). Empty masks are left out.
    Raises ValueError for a split other than train and val.
    """

    def __init__(self, name: str, split: str, names: list[str], label: str, read: Callable[[str], tuple[Tensor, Tensor]]
                 ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"{name} has no split {split!r}; its splits are train and val.")
        self.name, self.split, self.classes, self.read = name, split, ("background", label), read
        self.names = [one for one in names if is_validation(one) == (split == "val")]

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> Sample:
        image, masks = self.read(self.names[index])
        masks = masks[masks.flatten(1).any(1)]
        count = len(masks)
        return image, {"boxes": tight_boxes(masks), "labels": torch.ones(count, dtype=torch.int64),
                       "area": masks.flatten(1).sum(1).float(), "iscrowd": torch.zeros(count, dtype=torch.int64),
                       "image_id": index, "masks": masks}


def nuclei(folder: Path, split: str) -> MaskedImages:
    """The nuclei of `folder`, which holds stage1_train/ID/images and stage1_train/ID/masks."""
    images = folder / "stage1_train"
    return MaskedImages("nuclei", split, sorted(path.name for path in images.iterdir() if path.is_dir()), "nucleus",
                        NucleiReader(images))


def penn_fudan(folder: Path, split: str) -> MaskedImages:
    """The pedestrians of `folder`, which holds PNGImages and PedMasks."""
    names = sorted(path.stem for path in (folder / "PNGImages").glob("*.png"))
    return MaskedImages("penn_fudan", split, names, "pedestrian", PennFudanReader(folder))


class NucleiReader:
    """Reads one picture and its masks; a class rather than a closure so that worker processes can have it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> tuple[Tensor, Tensor]:
        image = read_image(self.folder / name / "images" / f"{name}.png")
        masks = [read_mask(path) > 0 for path in sorted((self.folder / name / "masks").glob("*.png"))]
        return image, torch.stack(masks) if masks else torch.zeros((0, *image.shape[1:]), dtype=torch.bool)


class PennFudanReader:
    """Reads one picture and its label map, in which each person has a number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> tuple[Tensor, Tensor]:
        image = read_image(self.folder / "PNGImages" / f"{name}.png")
        people = read_mask(self.folder / "PedMasks" / f"{name}_mask.png")
        return image, people[None] == torch.arange(1, int(people.max()) + 1)[:, None, None]


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
