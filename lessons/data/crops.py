"""Crops of single objects: what a network learns to classify before it learns to detect."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lessons.data.scenes import compose_crop


class Crops(Dataset):
    """Single-object crops of the embedded photographs and their labels, made when first asked for, then kept."""

    def __init__(self, length: int, size: int, split: str = "train", seed: int = 0) -> None:
        self.length, self.size, self.split, self.seed = length, size, split, seed
        self.made: dict[int, tuple[Tensor, int]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index not in self.made:
            crop, label = compose_crop(self.split, index, self.seed, self.size)
            self.made[index] = (crop * 255).round().byte(), label  # a quarter of the memory; crops are made of bytes
        crop, label = self.made[index]
        return crop.float() / 255, label


def stack_crops(samples: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """A batch of crops (B, 3, S, S) and their labels (B,)."""
    crops, labels = zip(*samples, strict=True)
    return torch.stack(crops), torch.tensor(labels)
