"""Changing samples without breaking them: thin shells over torchvision's transforms v2.

Boxes, masks and keypoints follow the picture, areas and degenerate boxes are put right afterwards. Each transform is a
callable (image, target) -> (image, target); `Compose` chains them. What is random is drawn from a generator of its own,
seeded by `seed` and the image, so that a sample comes out the same whatever was drawn before.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lessons.data.sample import Sample, Target, drop_degenerate

Transform = Callable[[Tensor, Target], Sample]
# COCO's 17 person keypoints: nose, then left and right of eyes, ears, shoulders, elbows, wrists, hips, knees, ankles
COCO_MIRRORED = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


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

    With a number, `longest` bounds the long side, as in Faster R-CNN (600, at most 1000).
    Raises ValueError for sizes < 1.
    """

    def __init__(self, size: int | tuple[int, int], longest: int | None = None) -> None:
        if min(size if isinstance(size, tuple) else (size,)) < 1:
            raise ValueError(f"size {size} is not a positive number of pixels.")
        self.size, self.longest = size, longest

    def __call__(self, image: Tensor, target: Target) -> Sample:
        height, width = image.shape[-2:]
        new = self._new_size(height, width)
        resized = F.resize(tv_tensors.Image(image), list(new), antialias=True).as_subclass(Tensor).clamp(0, 1)
        scale = torch.tensor([new[1] / width, new[0] / height])
        target = dict(target)
        target["boxes"] = target["boxes"] * scale.repeat(2)
        if "masks" in target:
            target["masks"] = F.resize(tv_tensors.Mask(target["masks"]), list(new)).as_subclass(Tensor)
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


def mirror(image: Tensor, target: Target, mirrored: Sequence[int] | None = COCO_MIRRORED) -> Sample:
    """The sample in a mirror. `mirrored[i]` is the keypoint that takes place i: a left hand becomes a right one."""
    width = image.shape[-1]
    target = dict(target)
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    target["boxes"] = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    for key in ("masks", "semantic", "panoptic"):
        if key in target:
            target[key] = target[key].flip(-1)
    if "keypoints" in target:
        x, y, seen = target["keypoints"].unbind(-1)
        points = torch.stack([torch.where(seen > 0, width - x, x), y, seen], dim=-1)  # one not labelled stays at 0, 0
        target["keypoints"] = points[:, list(mirrored)] if mirrored is not None else points
    return image.flip(-1), target


class RandomMirror:
    """Mirrors a share `probability` of the samples, always the same ones for a seed."""

    def __init__(self, probability: float = 0.5, seed: int = 0) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability {probability} is not between 0 and 1.")
        self.probability, self.seed = probability, seed

    def __call__(self, image: Tensor, target: Target) -> Sample:
        draw = torch.rand((), generator=_generator(self.seed, target)).item()
        return mirror(image, target) if draw < self.probability else (image, target)


class ColourJitter:
    """Brightness, contrast and saturation changed by up to `strength`, hue by up to a tenth of it."""

    def __init__(self, strength: float = 0.2, seed: int = 0) -> None:
        self.jitter = v2.ColorJitter(strength, strength, strength, strength / 10)
        self.seed = seed

    def __call__(self, image: Tensor, target: Target) -> Sample:
        with torch.random.fork_rng(devices=[]):  # v2 draws from the global generator, which stays as it was
            torch.manual_seed(_seed(self.seed, target))
            return self.jitter(image).clamp(0, 1), target


def _seed(seed: int, target: Target) -> int:
    return seed * 1_000_003 + int(target["image_id"])


def _generator(seed: int, target: Target) -> torch.Generator:
    generator = torch.Generator().manual_seed(_seed(seed, target))
    torch.rand(8, generator=generator)  # the first draws of neighbouring seeds resemble each other
    return generator
