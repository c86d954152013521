"""The one sample form in which every data set of this collection comes out.

A sample is a pair `(image, target)`, torchvision's own convention for detectors:

    image     (3, H, W) float32 in [0, 1], RGB
    target    dict with
      boxes     (N, 4) float32, xyxy pixels, x2 > x1 and y2 > y1
      labels    (N,)   int64, 1 .. K; 0 is the background and never occurs
      area      (N,)   float32, pixels: of the mask where there is one, else of the box
      iscrowd   (N,)   int64, 1 marks a region that evaluation ignores (a crowd, or VOC's "difficult")
      image_id  int
      masks     (N, H, W) bool, only in sets that have masks
      keypoints (N, P, 3) float32: x, y in pixels and visibility 0, 1 or 2; only in sets that have keypoints

Further keys (a set's own) may follow; evaluation ignores them. Tensors among them have one row per box, except those of
PER_PICTURE, which describe the picture as a whole.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Target = dict[str, Any]  # tensors, except image_id
Sample = tuple[Tensor, Target]
Detections = dict[str, Tensor]  # of one picture: boxes (N, 4) xyxy pixels, labels (N,), scores (N,), best first
PER_PICTURE = ("semantic", "panoptic", "segments", "proposals")  # entries that do not have one row per box


class DetectionDataset(Dataset[Sample]):
    """Base of every data set: a sequence of samples that also speaks COCO's dictionary.

    A subclass sets `name`, `split` and `classes` (index 0 is "background", so a label is an index into it)
    and defines `__len__`, `load(index)` and, where it can be told without reading the picture, `annotation(index)`.
    `transform(image, target) -> (image, target)` is applied to every sample that is read, never to `coco()`.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    transform: Callable[[Tensor, Target], Sample] | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def load(self, index: int) -> Sample:
        """The sample as it is on disk, before `transform`. Raises IndexError outside 0 .. len - 1."""
        raise NotImplementedError

    def annotation(self, index: int) -> tuple[Target, tuple[int, int]]:
        """Target and image size (height, width) of a sample; by default the sample is read for it."""
        image, target = self.load(index)
        return target, (image.shape[-2], image.shape[-1])

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {self.name} {self.split}, which holds {len(self)}.")
        image, target = self.load(index % len(self))
        return self.transform(image, target) if self.transform else (image, target)

    def coco(self, indices: Sequence[int] | None = None) -> dict:
        """COCO-format dictionary (images, annotations, categories) of the whole set or of some samples.

        Boxes become xywh pixels and masks run-length codes, as pycocotools wants them; annotation ids start at 1
        because pycocotools takes id 0 for "not matched".
        """
        images: list[dict] = []
        annotations: list[dict] = []
        for index in range(len(self)) if indices is None else indices:
            target, (height, width) = self.annotation(index)
            images.append({"id": target["image_id"], "height": height, "width": width})
            annotations.extend(coco_annotations(target, first_id=len(annotations) + 1))
        categories = [{"id": i, "name": name} for i, name in enumerate(self.classes) if i > 0]
        return {"info": {"description": f"{self.name} {self.split}"}, "images": images,
                "annotations": annotations, "categories": categories}


def coco_annotations(target: Target, first_id: int) -> list[dict]:
    """The annotations of one target in COCO's format: ids from `first_id`, boxes xywh pixels, masks as RLE."""
    from pycocotools import mask as rle  # compiled; only needed here

    rows: list[dict] = []
    for i, (x1, y1, x2, y2) in enumerate(target["boxes"].tolist()):
        row: dict[str, Any] = {
            "id": first_id + i, "image_id": target["image_id"], "category_id": int(target["labels"][i]),
            "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(target["area"][i]), "iscrowd": int(target["iscrowd"][i])}
        if "masks" in target:
            code = rle.encode(np.asfortranarray(target["masks"][i].numpy().astype(np.uint8)))
            row["segmentation"] = {"size": code["size"], "counts": code["counts"].decode("ascii")}
        if "keypoints" in target:
            points = target["keypoints"][i]
            row["keypoints"] = points.flatten().tolist()
            row["num_keypoints"] = int((points[:, 2] > 0).sum())
        rows.append(row)
    return rows


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (N, 4), xyxy pixels, cut at the borders of a picture of `size` (height, width)."""
    height, width = size
    return torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], dim=2).reshape(-1, 4)


def drop_degenerate(target: Target, where: str) -> Target:
    """The target without boxes of zero or negative width or height; a warning names `where` they were.

    `where` is the image's name. Every entry that has one row per box (masks, keypoints, ...) loses the same rows.
    """
    boxes = target["boxes"]
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if keep.all():
        return target
    bad = boxes[~keep].tolist()
    warnings.warn(f"{where}: dropped {len(bad)} box(es) without area, {bad} (xyxy pixels).", stacklevel=2)
    return {key: value[keep] if isinstance(value, Tensor) and key not in PER_PICTURE else value
            for key, value in target.items()}


def collate(samples: Sequence[Sample]) -> tuple[list[Tensor], list[Target]]:
    """A batch as detectors take it: lists, because images differ in size and in number of objects."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def to_device(target: Target, device: torch.device | str) -> Target:
    """The target with its tensors on `device`."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in target.items()}
