"""How many proposals does Fast R-CNN need? (section 5.5 and figure 3: mAP rises, then falls a little)"""

from collections.abc import Sequence

import torch

from experiments import fast_rcnn_training as training
from experiments.record import Numbers, wins
from lessons.proposals import proposal_recall

__all__ = ["PRE_TRAINED"]
PRE_TRAINED = training.PRE_TRAINED
CLAIM = "AP rises with the number of proposals, and then falls a little although more objects are covered."
COUNTS = (10, 25, 50, 100, 200, 400)


def run(seed: int, short: bool = False) -> Numbers:
    """AP of one detector, trained on 200 boxes a scene, on the first n, and the share of objects that these cover."""
    size = training.size_of(short)
    model, data = training.multi_task(seed, size), training.validation(seed, size)
    targets = [data[index][1] for index in range(len(data))]
    recall = proposal_recall([torch.as_tensor(t["proposals"]) for t in targets], [t["boxes"] for t in targets], COUNTS)
    return {f"{n} boxes": {"recall": round(share, 4)} | training.measured(model, data, n)
            for n, share in zip(COUNTS, recall.tolist(), strict=True)}


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Rising, and saturation."""
    first = [one["100 boxes"]["AP"] - one["25 boxes"]["AP"] for one in per_seed]
    last = [one["400 boxes"]["AP"] - one["100 boxes"]["AP"] for one in per_seed]
    return {"100 boxes beat 25": wins(per_seed, "100 boxes", "25 boxes"),
            "100 boxes beat 400": wins(per_seed, "100 boxes", "400 boxes"),
            "400 boxes cover more objects than 100": wins(per_seed, "400 boxes", "100 boxes", "recall"),
            "the step from 25 to 100 gains more than that from 100 to 400": sum(first) > sum(last)}
