"""Changing samples without breaking them: thin shells over torchvision's transforms v2.

Boxes, masks and keypoints follow the picture, areas and degenerate boxes are put right afterwards. Each transform is a
callable (image, target) -> (image, target); `Compose` chains them.

What is random is drawn, as in torchvision, from torch's global generator, which training seeds for every sample that it
reads (lessons.order): a picture differs from epoch to epoch, and a run can be repeated and resumed. Outside training,
`seed` makes the draw a function of the seed and of image_id, and leaves the global generator as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lessons.data.sample import Sample, Target, clip_boxes, drop_degenerate
from lessons.order import derive_seed

Transform = Callable[[Tensor, Target], Sample]
# COCO's 17 person keypoints: nose, then left and right of eyes, ears, shoulders, elbows, wrists, hips, knees, ankles
COCO_MIRRORED = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
BOXES = ("boxes", "proposals")  # entries (N, 4) xyxy pixels
MAPS = ("masks", "semantic", "panoptic")  # entries whose last two dimensions are the picture's


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, image: Tensor, target: Target) -> Sample:
        for transform in self.transforms:
            image, target = transform(image, target)
        return image, target


class Resize:
    """To a fixed (height, width), or, given a number, so that the short side has that many pixels.

    With a number, `longest` bounds the long side, as in Faster R-CNN (600, at most 1000; Ren et al. 2015, section 3.3).
    Boxes and areas are scaled, not measured anew on the masks. Raises ValueError for sizes < 1.
    """

    def __init__(self, size: int | tuple[int, int], longest: int | None = None) -> None:
        for name, value in (("size", min(size) if isinstance(size, tuple) else size), ("longest", longest)):
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} is not a positive number of pixels.")
        self.size, self.longest = size, longest

    def __call__(self, image: Tensor, target: Target) -> Sample:
        height, width = image.shape[-2:]
        new = self._new_size(height, width)
        resized = F.resize(tv_tensors.Image(image), list(new), antialias=True).as_subclass(Tensor).clamp(0, 1)
        scale = torch.tensor([new[1] / width, new[0] / height])
        target = dict(target)
        for key in BOXES:
            if key in target:
                target[key] = clip_boxes(target[key] * scale.repeat(2), new)  # rounding may lead beyond the border
        for key in MAPS:
            if key in target:
                target[key] = _resize_map(target[key], new)
        if "keypoints" in target:
            target["keypoints"] = torch.cat([target["keypoints"][..., :2] * scale, target["keypoints"][..., 2:]], -1)
        target["area"] = target["area"] * scale.prod()
        return resized, drop_degenerate(target, f"image {target['image_id']}")

    def _new_size(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        scale = self.size / min(height, width)
        if self.longest is not None:
            scale = min(scale, self.longest / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))


def _resize_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks or a map (..., H, W) at a new size; each pixel takes the nearest one's value, so that ids stay ids."""
    if values.numel() == 0:  # nothing to look up, and torchvision refuses it
        return values.new_zeros((*values.shape[:-2], *size))
    return F.resize(tv_tensors.Mask(values), list(size)).as_subclass(Tensor)


def mirror(image: Tensor, target: Target, mirrored: Sequence[int] = COCO_MIRRORED) -> Sample:
    """The sample seen in a mirror. `mirrored[i]` is the keypoint that takes place i: a left hand becomes a right one.

    x becomes W - x, for boxes, proposals and keypoints alike. Raises ValueError where keypoints are not as many as
    `mirrored`.
    """
    image, target = _reflected(image, target, -1)
    if "keypoints" in target:
        target["keypoints"] = _mirror_keypoints(target["keypoints"], image.shape[-1], mirrored)
    return image, target


def _reflected(image: Tensor, target: Target, dim: int) -> Sample:
    """Picture, boxes and maps reflected in x (dim -1) or in y (dim -2); keypoints are left to the caller."""
    target, low = dict(target), -1 - dim  # the column of a box's lower side in that direction
    for key in BOXES:
        if key in target:
            target[key] = target[key].clone()
            target[key][:, [low, low + 2]] = image.shape[dim] - target[key][:, [low + 2, low]]
    for key in MAPS:
        if key in target:
            target[key] = target[key].flip(dim)
    return image.flip(dim), target


def _mirror_keypoints(points: Tensor, width: int, mirrored: Sequence[int]) -> Tensor:
    if points.shape[1] != len(mirrored):
        raise ValueError(f"{points.shape[1]} keypoints cannot be mirrored by a table for {len(mirrored)}.")
    x, y, seen = points.unbind(-1)
    x = torch.where(seen > 0, width - x, x)  # a point that is not labelled stays at 0, 0
    return torch.stack([x, y, seen], dim=-1)[:, list(mirrored)]


class RandomMirror:
    """Mirrors a share `probability` of the samples; `seed` as at the top of this file, `mirrored` as in `mirror`."""

    def __init__(self, probability: float = 0.5, seed: int | None = None, mirrored: Sequence[int] = COCO_MIRRORED
                 ) -> None:
        _check_probability(probability)
        self.probability, self.seed, self.mirrored = probability, seed, mirrored

    def __call__(self, image: Tensor, target: Target) -> Sample:
        with _drawing(self.seed, "mirror", target):
            draw = torch.rand(()).item()
        return mirror(image, target, self.mirrored) if draw < self.probability else (image, target)


def upside_down(image: Tensor, target: Target) -> Sample:
    """The sample with its top at the bottom, as a microscope may show it just as well.

    y becomes H - y, for boxes, proposals and keypoints alike, in pixels; a left hand stays a left one.
    """
    image, target = _reflected(image, target, -2)
    if "keypoints" in target:
        x, y, seen = target["keypoints"].unbind(-1)
        target["keypoints"] = torch.stack([x, torch.where(seen > 0, image.shape[-2] - y, y), seen], dim=-1)
    return image, target


def transpose(image: Tensor, target: Target) -> Sample:
    """The sample with rows for columns; with the mirrors, all eight ways in which a slide can lie are reached.

    (x, y) becomes (y, x), for boxes, proposals and keypoints alike, in pixels; a left hand stays a left one.
    """
    target = dict(target)
    for key in BOXES:
        if key in target:
            target[key] = target[key][:, [1, 0, 3, 2]]
    for key in MAPS:
        if key in target:
            target[key] = target[key].transpose(-2, -1).contiguous()
    if "keypoints" in target:
        target["keypoints"] = target["keypoints"][..., [1, 0, 2]]
    return image.transpose(-2, -1).contiguous(), target


class RandomUpsideDown:
    """Turns a share `probability` of the samples upside down; `seed` as at the top of this file.

    Raises ValueError for a probability outside 0 .. 1.
    """

    turn, stream = staticmethod(upside_down), "upside down"

    def __init__(self, probability: float = 0.5, seed: int | None = None) -> None:
        _check_probability(probability)
        self.probability, self.seed = probability, seed

    def __call__(self, image: Tensor, target: Target) -> Sample:
        with _drawing(self.seed, self.stream, target):
            draw = torch.rand(()).item()
        return self.turn(image, target) if draw < self.probability else (image, target)


class RandomTranspose(RandomUpsideDown):
    """Transposes a share `probability` of the samples in the same way."""

    turn, stream = staticmethod(transpose), "transpose"


def brighten(image: Tensor, target: Target) -> Sample:
    """The picture (3, H, W) in [0, 1] from black to white in each channel, then its square root: dark values part.

    For fluorescence: a few bright cells, others a hundred times fainter, and how bright they are says nothing.
    """
    return F.autocontrast(image).sqrt(), target


def extreme_points(image: Tensor, target: Target) -> Sample:
    """The sample with four keypoints for each object, the ends of its mask: top, left, bottom and right; all visible.

    A side's point is the middle of the mask's outermost row or column (Zhou et al., CVPR 2019, section 4.1). To be used
    after mirroring, which would need to know that left and right change places.
    Raises ValueError for a target without masks.
    """
    if "masks" not in target:
        raise ValueError(f"image {target['image_id']} has no masks to take extreme points of.")
    points = [torch.stack([_ends(mask), _ends(mask.T)]) for mask in target["masks"]]  # (2, 2, 2): axis, end, place
    found = torch.zeros(len(points), 4, 3)
    for i, (rows, columns) in enumerate(points):
        found[i, 0::2, :2] = rows.flip(-1)
        found[i, 1::2, :2] = columns
        found[i, :, 2] = 2
    return image, {**target, "keypoints": found}


def _ends(mask: Tensor) -> Tensor:
    """(2, 2): the middle of the first and of the last row of a mask that hold a pixel, as (row, column), pixels."""
    rows = torch.where(mask.any(1))[0]
    return torch.tensor([[row + 0.5, torch.where(mask[row])[0].float().mean() + 0.5] for row in (rows[0], rows[-1])])


class ColourJitter:
    """Brightness, contrast and saturation changed by up to `strength`, hue by up to a tenth of it; `seed` as above.

    Raises ValueError for a strength outside 0 .. 1.
    """

    def __init__(self, strength: float = 0.2, seed: int | None = None) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"strength {strength} is not between 0 and 1.")
        self.jitter = v2.ColorJitter(strength, strength, strength, strength / 10)
        self.seed = seed

    def __call__(self, image: Tensor, target: Target) -> Sample:
        with _drawing(self.seed, "colour", target):
            return self.jitter(image).clamp(0, 1), target


def _check_probability(probability: float) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability {probability} is not between 0 and 1.")


@contextmanager
def _drawing(seed: int | None, purpose: str, target: Target) -> Iterator[None]:
    """Inside, the global generator is seeded for this image, and put back afterwards; not so where seed is None."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, purpose, int(target["image_id"])))
        yield
