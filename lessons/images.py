"""From pictures of any size to one batch, and back: what a detector does first and last.

Pictures are normalised, enlarged or shrunk until the short side has a given length (but the long side not more than
another), and padded with zeros to one size that all strides divide. Found boxes are brought back to the given pictures.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.data.sample import Detections, Target

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Shape = tuple[int, int]  # height, width


class ImageBatch(NamedTuple):
    """pixels (B, 3, H, W), padded; `sizes`: each picture's part of it; `originals`: the sizes that were given."""

    pixels: Tensor
    sizes: list[Shape]
    originals: list[Shape]


class ImagePreparation:
    """Makes batches out of pictures as torchvision's GeneralizedRCNNTransform does.

    min_sizes: lengths of the short side, of which training draws one per picture and detection takes the last;
    max_size: the longest long side, both in pixels; divisor: what height and width of the batch are a multiple of.
    """

    def __init__(self, min_sizes: Sequence[int], max_size: int, mean: Sequence[float] = IMAGENET_MEAN,
                 std: Sequence[float] = IMAGENET_STD, divisor: int = 32) -> None:
        self.min_sizes, self.max_size, self.divisor = tuple(min_sizes), max_size, divisor
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None, training: bool = False
                 ) -> tuple[ImageBatch, list[Target]]:
        """Pictures (3, H, W) in [0, 1] -> a batch, and in training the targets in the pixels of the batch.

        Raises ValueError for no pictures, for training without one target for each, for a picture of another shape, of
        whole numbers or not finite, and for a target whose boxes have no area or whose other entries do not fit them.
        """
        if training and (targets is None or len(targets) != len(images)):
            given = "none" if targets is None else len(targets)
            raise ValueError(f"training needs targets, one for each of {len(images)} pictures, in model(images, "
                             f"targets); given: {given}.")
        if not len(images):
            raise ValueError("there are no pictures to look at; want one or more.")
        prepared, adapted = [], []
        for i, image in enumerate(images):
            self._check(image, i)
            pixels = normalise(image, self.mean, self.std)
            prepared.append(resize(pixels, self._draw(training), self.max_size))
            if training and targets is not None:
                adapted.append(resize_target(targets[i], shape(image), shape(prepared[-1])))
        batch = ImageBatch(pad(prepared, self.divisor), [shape(p) for p in prepared], [shape(i) for i in images])
        return batch, adapted

    def _check(self, image: Tensor, i: int) -> None:
        is_picture = image.ndim == 3 and image.shape[0] == len(self.mean) and image.numel() > 0
        if not is_picture or not image.is_floating_point():
            raise ValueError(f"image {i} of shape {tuple(image.shape)}, {image.dtype}: "
                             f"want ({len(self.mean)}, H, W), floats.")
        if not image.isfinite().all():
            raise ValueError(f"image {i} has the value {image[~image.isfinite()][0].item()}; want numbers from 0 to 1.")

    def _draw(self, training: bool) -> int:
        if not training:
            return self.min_sizes[-1]
        return self.min_sizes[int(torch.empty(1).uniform_(0.0, len(self.min_sizes)))]


def normalise(images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """Pictures (..., 3, H, W) in [0, 1] with each colour's mean subtracted, divided by its standard deviation."""
    centre, spread = images.new_tensor(mean), images.new_tensor(std)
    return (images - centre[:, None, None]) / spread[:, None, None]


def resize(image: Tensor, min_size: int, max_size: int) -> Tensor:
    """The picture (C, H, W) with a short side of min_size pixels, less where its long side would exceed max_size.

    Raises ValueError where nothing would be left of the short side.
    """
    scale = min(min_size / min(shape(image)), max_size / max(shape(image)))
    if min(shape(image)) * scale < 1:
        raise ValueError(f"a picture of {' x '.join(map(str, shape(image)))} pixels, shrunk to a long side of "
                         f"{max_size}, has a short side of less than one; cut it into pieces.")
    return F.interpolate(image[None], scale_factor=scale, mode="bilinear", recompute_scale_factor=True,
                         align_corners=False)[0]


def resize_target(target: Target, old: Shape, new: Shape) -> Target:
    """The target with boxes, masks and keypoints in a picture of another size (height, width).

    Raises ValueError for a box without positive width and height, and for labels, masks or keypoints that are not as
    many as the boxes or, masks, not as large as the picture.
    """
    check_target(target, old)
    boxes = target["boxes"]
    changed = {**target, "boxes": resize_boxes(boxes, old, new)}
    if "masks" in target and old != new:
        changed["masks"] = F.interpolate(target["masks"][:, None].float(), size=new)[:, 0].to(torch.uint8)
    if "keypoints" in target:
        changed["keypoints"] = resize_keypoints(target["keypoints"], old, new)
    return changed


def check_target(target: Target, size: Shape) -> None:
    """ValueError where an object of a picture of `size` (height, width) has no area, or entries do not fit together."""
    boxes = entry(target, "boxes")
    if boxes.shape != (len(boxes), 4):
        raise ValueError(f"a target's boxes are of shape {tuple(boxes.shape)}; want (N, 4), without objects (0, 4).")
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
    if flat.any():
        raise ValueError(f"a target has the box {boxes[flat][0].tolist()}; boxes to train on need x1 < x2 and y1 < y2.")
    shapes = {"labels": (len(boxes),), "masks": (len(boxes), *size)}
    for key, wanted in shapes.items():
        if key in target and target[key].shape != wanted:
            raise ValueError(f"a target's {key} are of shape {tuple(target[key].shape)} for {len(boxes)} boxes in a "
                             f"picture of {size[0]} x {size[1]}; want {wanted}.")
    if "keypoints" in target and (target["keypoints"].ndim != 3 or target["keypoints"].shape[::2] != (len(boxes), 3)):
        raise ValueError(f"a target's keypoints are of shape {tuple(target['keypoints'].shape)} for {len(boxes)} "
                         f"boxes; want ({len(boxes)}, P, 3).")


def entry(target: Target, key: str) -> Tensor:
    """What a target has under a name. Raises ValueError where it has nothing."""
    if key not in target:
        raise ValueError(f"a target has no {key}, only {', '.join(target)}; this detector learns from them.")
    return target[key]


def resize_boxes(boxes: Tensor, old: Shape, new: Shape) -> Tensor:
    """Boxes (N, 4) xyxy, pixels of a picture of `old` (height, width), in the pixels of a `new` one."""
    height, width = _ratios(old, new, boxes.device)
    return boxes * torch.stack([width, height, width, height])


def in_originals(found: Sequence[Detections], batch: ImageBatch) -> list[Detections]:
    """Detections of each picture of the batch, with boxes in the pixels of the picture as it was given."""
    return [{**d, "boxes": resize_boxes(d["boxes"], size, original)}
            for d, size, original in zip(found, batch.sizes, batch.originals, strict=True)]


def resize_keypoints(keypoints: Tensor, old: Shape, new: Shape) -> Tensor:
    """Keypoints (N, P, 3) of x, y and visibility in the pixels of a picture of another size (height, width)."""
    height, width = _ratios(old, new, keypoints.device)
    return keypoints * torch.stack([width, height, torch.ones_like(width)])


def pad(images: Sequence[Tensor], divisor: int) -> Tensor:
    """Pictures (3, H, W) in the top left corners of zeros (B, 3, H', W'), H' and W' multiples of `divisor`."""
    height, width = (-(-max(side) // divisor) * divisor for side in zip(*map(shape, images), strict=True))
    return torch.stack([F.pad(i, (0, width - i.shape[-1], 0, height - i.shape[-2])) for i in images])


def shape(image: Tensor) -> Shape:
    """Height and width of a picture, map or batch (..., H, W)."""
    return image.shape[-2], image.shape[-1]


def _ratios(old: Shape, new: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """New over old height and width; in single precision, as torchvision divides, whatever the boxes are in."""
    before, after = (torch.tensor(size, dtype=torch.float32, device=device) for size in (old, new))
    height, width = after / before
    return height, width
