"""How many proposals, and whose? (R-CNN does not vary them; Fast R-CNN, figure 3, does)

Recall is the share of objects that the first n boxes of an image cover with IoU 0.5: no detector can find more.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.rcnn_training import Examined, describe, detect, detector, examine, measure, scenes, size_of
from experiments.record import Numbers, wins
from lessons.backbones.alexnet import Features
from lessons.data.proposed import WithProposals
from lessons.detectors.rcnn import RCNN
from lessons.detectors.svm_fitting import train_svms
from lessons.proposals import proposal_recall, sliding_windows

CLAIM = "Selective Search covers more objects than as many sliding windows; AP rises with the boxes and saturates."
COUNTS = (10, 25, 50, 100, 200, 400)
SIZES = (20.0, 32.0, 48.0, 72.0, 104.0)  # of sliding windows, pixels


def run(seed: int, short: bool = False) -> Numbers:
    """Recall of both kinds of boxes and AP on Selective Search's, for several numbers of boxes per image."""
    size = size_of(short)
    model = detector(seed, size)
    train_svms(model, describe(model, scenes("train", size.images, seed)))
    val = scenes("val", min(size.measured, 60), seed, proposals=max(COUNTS))
    seen = examine(model, val)
    windows = torch.Generator().manual_seed(seed)
    searched = recalls(val, [region.boxes for region in seen])
    slid = recalls(val, [shuffled_windows(windows) for _ in seen])
    return {f"{n} boxes": {"recall": searched[i], "recall of windows": slid[i]} | at_most(model, seen, n)
            for i, n in enumerate(COUNTS)}


def shuffled_windows(generator: torch.Generator) -> Tensor:
    """All sliding windows of a scene of 160 pixels, in random order, since they have no ranking."""
    windows = sliding_windows((160, 160), SIZES)
    return windows[torch.randperm(len(windows), generator=generator)]


def recalls(data: WithProposals, boxes: Sequence[Tensor]) -> list[float]:
    """Recall at each of COUNTS."""
    truth = [torch.as_tensor(data[index][1]["boxes"]) for index in range(len(data))]
    return [round(value, 4) for value in proposal_recall(boxes, truth, COUNTS).tolist()]


def at_most(model: RCNN, seen: Sequence[Examined], count: int) -> dict[str, float]:
    """AP and AP50 when only the first `count` proposals are looked at."""
    cut = [Examined(s.target, s.boxes[:count], Features(*(layer[:count] for layer in s.features))) for s in seen]
    found = measure([detect(model, s, model.score(s.features)) for s in cut], cut)
    return {key: found[key] for key in ("AP", "AP50")}


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Selective Search against windows, and saturation."""
    better = all(numbers[f"{n} boxes"]["recall"] > numbers[f"{n} boxes"]["recall of windows"]
                 for numbers in per_seed for n in COUNTS)
    first = [numbers["100 boxes"]["AP"] - numbers["25 boxes"]["AP"] for numbers in per_seed]
    last = [numbers["400 boxes"]["AP"] - numbers["100 boxes"]["AP"] for numbers in per_seed]
    return {"Selective Search covers more than windows at every number": better,
            "100 boxes beat 25": wins(per_seed, "100 boxes", "25 boxes"),
            "the step from 25 to 100 gains more than that from 100 to 400": sum(first) > sum(last)}
