"""What does truncated SVD of the fully connected layers cost? (Fast R-CNN, section 4.4: 0.3 points, 30 % less time)"""

import copy
from collections.abc import Sequence

import torch

from experiments import fast_rcnn_training as training
from experiments.record import Numbers
from lessons.costs import count_multiply_adds
from lessons.detectors.fast_rcnn import FastRCNN, compress_linear

__all__ = ["PRE_TRAINED"]
PRE_TRAINED = training.PRE_TRAINED
CLAIM = "Truncated SVD makes the fully connected layers many times cheaper and costs hardly any AP."
RANKS = {"full": None, "rank 48": (48, 48), "rank 24": (24, 24), "rank 12": (12, 12), "rank 6": (6, 6)}


def run(seed: int, short: bool = False) -> Numbers:
    """AP and the head's multiply-adds for one region, for smaller and smaller ranks of fc6 and fc7."""
    size = training.size_of(short)
    model, data = training.multi_task(seed, size), training.validation(seed, size)
    results = {}
    for name, ranks in RANKS.items():
        compressed = model if ranks is None else compress(model, *ranks)
        results[name] = {"multiply-adds": cost(compressed)} | training.measured(compressed, data)
    return results


def compress(model: FastRCNN, fc6: int, fc7: int) -> FastRCNN:
    """The detector with both fully connected layers split."""
    thin = copy.deepcopy(model)
    head = thin.box_head
    head.fc6, head.fc7 = compress_linear(head.fc6, fc6), compress_linear(head.fc7, fc7)  # type: ignore[assignment]
    return thin


def cost(model: FastRCNN) -> int:
    """Multiply-adds of the head for one region."""
    head = model.box_head
    inputs = model.backbone.out_channels * head.side**2  # type: ignore[operator]
    return count_multiply_adds(torch.nn.Sequential(head.fc6, head.fc7), torch.zeros(1, inputs))


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """What the cheaper layers save, and what they lose."""
    lost = {name: sum(one["full"]["AP"] - one[name]["AP"] for one in per_seed) / len(per_seed) for name in RANKS}
    cheap = all(one["full"]["multiply-adds"] > 6 * one["rank 24"]["multiply-adds"] for one in per_seed)
    return {"rank 24 costs a sixth or less": cheap, "rank 24 loses less than a hundredth of AP": lost["rank 24"] < 0.01,
            "the smaller the rank, the larger the loss": sorted(lost, key=lost.__getitem__) == list(RANKS)}
