"""PASCAL VOC's layout (Everingham et al., IJCV 2010): one XML file per picture, lists of names per split.

    Annotations/NAME.xml    JPEGImages/NAME.jpg    ImageSets/Main/SPLIT.txt

VOC counts pixels from 1 and includes the last: xmin 1, xmax 1 is a box of one pixel. Here that is x1 = 0, x2 = 1.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import torch

from lessons.data.files import image_size, read_image
from lessons.data.sample import DetectionDataset, Sample, Target, clip_boxes, drop_degenerate

VOC_CLASSES = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
               "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
               "tvmonitor")
BCCD_CLASSES = ("background", "RBC", "WBC", "Platelets")


class VocDevkit(DetectionDataset):
    """A set in VOC's layout. `folder` holds Annotations, JPEGImages and ImageSets/Main/SPLIT.txt.

    "difficult" objects have iscrowd 1: evaluation ignores them. Boxes reaching beyond the picture are clipped; those
    whose corners do not differ in both directions are dropped with a warning. `names` lists the file names, image_id is
    the place in that list. Raises ValueError for an unknown split, broken XML or a class not in `classes`,
    FileNotFoundError for missing files and folders.
    """

    def __init__(self, folder: str | Path, split: str, classes: Sequence[str] = VOC_CLASSES, name: str = "voc") -> None:
        self.folder, self.split, self.name, self.classes = Path(folder), split, name, tuple(classes)
        lists = self.folder / "ImageSets" / "Main"
        listing = lists / f"{split}.txt"
        if not lists.is_dir():
            raise FileNotFoundError(f"{lists} is missing: {self.folder} is not in VOC's layout.")
        if not listing.is_file():
            known = sorted(path.stem for path in lists.glob("*.txt") if "_" not in path.stem)
            raise ValueError(f"{name} has no split {split!r}; {lists} lists {', '.join(known) or 'nothing'}.")
        # a list may carry a second column (1 or -1), which says whether a class occurs
        lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
        self.names = [line.split()[0] for line in lines if line.strip()]

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int) -> Sample:
        image = read_image(self._picture(index))
        return image, self._target(index, (image.shape[1], image.shape[2]))

    def annotation(self, index: int) -> tuple[Target, tuple[int, int]]:
        size = image_size(self._picture(index))
        return self._target(index, size), size

    def _picture(self, index: int) -> Path:
        return self.folder / "JPEGImages" / f"{self.names[index]}.jpg"

    def _target(self, index: int, size: tuple[int, int]) -> Target:
        path = self.folder / "Annotations" / f"{self.names[index]}.xml"
        objects = [self._object(path, node) for node in _root(path).iter("object")]
        boxes = clip_boxes(torch.tensor([box for box, _, _ in objects], dtype=torch.float32).reshape(-1, 4), size)
        target = {"boxes": boxes, "labels": torch.tensor([label for _, label, _ in objects], dtype=torch.int64),
                  "area": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), "image_id": index,
                  "iscrowd": torch.tensor([difficult for _, _, difficult in objects], dtype=torch.int64)}
        return drop_degenerate(target, self.names[index])

    def _object(self, path: Path, node: ET.Element) -> tuple[list[float], int, int]:
        """Box, label and "difficult" of one <object>."""
        name = (node.findtext("name") or "").strip()
        if name not in self.classes[1:]:
            raise ValueError(f"{path}: class {name!r} is none of {', '.join(self.classes[1:])}.")
        try:
            x1, y1, x2, y2 = (float(node.findtext(f"bndbox/{side}") or "missing")
                              for side in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError as error:
            raise ValueError(f"{path}: an object {name!r} has no complete bndbox of numbers.") from error
        difficult = (node.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise ValueError(f"{path}: an object {name!r} has difficult {difficult!r}, not 0 or 1.")
        if x2 <= x1 or y2 <= y1:
            x2, y2 = x1 - 1, y1 - 1  # a slip of the mouse, not an object of one pixel: left without area, to be dropped
        return [x1 - 1, y1 - 1, x2, y2], self.classes.index(name), int(difficult)


def _root(path: Path) -> ET.Element:
    if not path.is_file():
        raise FileNotFoundError(f"the annotation {path} is missing; the list of the split names it.")
    try:
        root = ET.parse(path).getroot()
    except (ET.ParseError, LookupError) as error:  # LookupError: it names an encoding that does not exist
        raise ValueError(f"{path} is not valid XML ({error}); it may be cut off, download it again.") from error
    if root.tag != "annotation":
        raise ValueError(f"{path} holds <{root.tag}>, not the <annotation> of VOC's layout.")
    return root
