"""From which overlap on should background be learnt? (Fast R-CNN, section 2.3: from 0.1, to find hard examples)

Proposals that touch no object are easily told from one; the paper leaves them out, but does not show what that gives.
"""

from collections.abc import Sequence

from experiments import fast_rcnn_training as training
from experiments.record import Numbers, wins
from lessons.detectors.fast_rcnn import FastRCNN

__all__ = ["PRE_TRAINED"]
PRE_TRAINED = training.PRE_TRAINED
CLAIM = "Leaving out background that touches no object, below IoU 0.1, does no harm."
STARTS = (0.0, 0.1, 0.3)


def run(seed: int, short: bool = False) -> Numbers:
    """A training for each start of the band; that from 0.1 is the lesson's."""
    size, data = training.size_of(short), training.validation(seed, training.size_of(short))
    results = {}
    for begin in STARTS:
        model = training.multi_task(seed, size) if begin == 0.1 else training.kept(
            f"background_{begin}", seed, size, lambda model, begin=begin: from_overlap(model, begin, seed, size))
        results[f"from {begin}"] = training.measured(model, data)
    return results


def from_overlap(model: FastRCNN, begin: float, seed: int, size: training.Size) -> None:
    """The lesson's training with another band of background."""
    model.box_head.background_from = begin
    training.learn(model, seed, size)


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The paper's choice against its neighbours."""
    return {"0.1 beats 0": wins(per_seed, "from 0.1", "from 0.0"),
            "0.1 beats 0.3": wins(per_seed, "from 0.1", "from 0.3")}
