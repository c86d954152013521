"""What does rounding cost? Mask heads on regions cut out by RoIPool, RoIAlign and variants (Mask R-CNN, section 3).

The paper, ResNet-50-C4 at stride 16 (table 2c): RoIPool 26.9 AP of masks, RoIWarp 27.2 and 27.1, RoIAlign 30.2 and 30.3
with maximum and average. ResNet-50-C5 at stride 32 (table 2d): 23.6 and 30.9. What rounding can
cost depends on how much a head has read from the map; "mean shape" is what is to be had in true boxes without reading.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.mask_training import (
    PRE_TRAINED,
    SIDE,
    STRIDES,
    MeanShapes,
    fit,
    measure,
    new_head,
    scenes,
    size_of,
)
from experiments.record import Numbers, wins
from lessons.roi import roi_align, roi_pool, round_half_away

CLAIM = "Masks gain from regions that are not rounded, most on coarse maps; maximum or average does not matter."
BOTH = "align 4", "align 8", "align 16", "align 32", "pool 4", "pool 8", "pool 16", "pool 32"


def align(maps: Tensor, boxes: list[Tensor], scale: float) -> Tensor:
    """RoIAlign as the paper's models have it: the average of four samples in each bin."""
    return roi_align(maps, boxes, SIDE, scale, sampling_ratio=2)


def pool(maps: Tensor, boxes: list[Tensor], scale: float) -> Tensor:
    """RoIPool: corners and bins rounded to cells, the largest value of each bin."""
    return roi_pool(maps, boxes, SIDE, scale)


def warp(maps: Tensor, boxes: list[Tensor], scale: float) -> Tensor:
    """RoIWarp's idea: corners rounded to cells as in RoIPool, then bilinear samples as in RoIAlign."""
    return align(maps, [round_half_away(b * scale) / scale for b in boxes], scale)


def maximum(maps: Tensor, boxes: list[Tensor], scale: float) -> Tensor:
    """RoIAlign with the largest of a bin's four samples: four times as many bins of one sample, by twos and twos."""
    return F.max_pool2d(roi_align(maps, boxes, 2 * SIDE, scale, sampling_ratio=1), 2)


def nearest(maps: Tensor, boxes: list[Tensor], scale: float) -> Tensor:
    """RoIAlign with the value of the nearest cell at each of the four places instead of a bilinear one."""
    image = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(b) for b in boxes]))
    x1, y1, x2, y2 = (torch.cat(boxes) * scale)[..., None].unbind(1)
    steps = (torch.arange(2 * SIDE) + 0.5) / (2 * SIDE)
    x = (x1 + (x2 - x1).clamp(min=1) * steps).round().long().clamp(0, maps.shape[3] - 1)  # (N, 2 SIDE)
    y = (y1 + (y2 - y1).clamp(min=1) * steps).round().long().clamp(0, maps.shape[2] - 1)
    samples = maps.permute(0, 2, 3, 1)[image[:, None, None], y[:, :, None], x[:, None, :]]
    return F.avg_pool2d(samples.permute(0, 3, 1, 2), 2)


POOLINGS = {"align": align, "pool": pool, "warp": warp, "max": maximum, "nearest": nearest}


def run(seed: int, short: bool = False) -> Numbers:
    """One head for each way of pooling and stride, from the same first weights, on the same batches."""
    size, results = size_of(short), {}
    for condition in (*BOTH, "warp 16", "max 16", "nearest 16"):
        kind, stride = condition.split()
        train, val = (scenes(split, count, seed, int(stride)) for split, count in
                      (("train", size.images), ("val", size.measured)))
        head = fit(new_head(train.maps.shape[1], seed), POOLINGS[kind], train, int(stride), size.steps, seed)
        results[condition] = measure(head, POOLINGS[kind], val, int(stride))
    results["mean shape"] = measure(MeanShapes(train), align, val, int(stride))
    return results


def share_lost(per_seed: Sequence[Numbers], stride: int, key: str) -> float:
    """How much of what RoIAlign's masks are better than mean shapes is lost with RoIPool: 1 is all of it.

    NaN where they are not better: then there is nothing to lose.
    """
    aligned, pooled, blind = (sum(one[condition][key] for one in per_seed)
                              for condition in (f"align {stride}", f"pool {stride}", "mean shape"))
    return (aligned - pooled) / (aligned - blind) if aligned > blind else math.nan


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The paper's comparisons."""
    gain = {s: sum(one[f"align {s}"]["IoU"] - one[f"pool {s}"]["IoU"] for one in per_seed) / len(per_seed)
            for s in STRIDES}
    tie = sum(abs(one["align 16"]["IoU"] - one["max 16"]["IoU"]) for one in per_seed) / len(per_seed)
    return {**{f"RoIAlign beats RoIPool at stride {s}": wins(per_seed, f"align {s}", f"pool {s}", "IoU")
               for s in STRIDES},
            "the gain in IoU is larger at strides 16 and 32 than at 4 and 8":
                min(gain[16], gain[32]) > max(gain[4], gain[8]),
            "RoIAlign beats mean shapes at stride 32": wins(per_seed, "align 32", "mean shape", "IoU"),
            "of what it adds to mean shapes RoIPool loses a larger share at stride 8 than at 4":
                share_lost(per_seed, 8, "IoU") > share_lost(per_seed, 4, "IoU"),
            "maximum and average differ by less than a quarter of the gain at stride 16": tie < gain[16] / 4,
            "RoIAlign beats RoIWarp at stride 16": wins(per_seed, "align 16", "warp 16", "IoU"),
            "bilinear beats nearest at stride 16": wins(per_seed, "align 16", "nearest 16", "IoU"),
            "nearest samples beat RoIPool at stride 16": wins(per_seed, "nearest 16", "pool 16", "IoU")}


__all__ = ["CLAIM", "POOLINGS", "PRE_TRAINED", "run", "share_lost", "verdict"]
