"""Does it help to warp a proposal together with some of what surrounds it? (R-CNN, section 2.1 and appendix A)

The paper: 16 pixels of context in the 227 pixels of a crop beat none by 3 to 5 points of mAP.
"""

from collections.abc import Sequence

from experiments.rcnn_training import describe, detect, detector, examine, measure, scenes, size_of
from experiments.record import Numbers, wins
from lessons.detectors.svm_fitting import train_svms

CLAIM = "Crops with context beat crops without."
PADDINGS = (0, 4, 8)  # of 64 pixels; 4.5 would be the paper's share


def run(seed: int, short: bool = False) -> Numbers:
    """Whole detectors, each fine-tuned, fitted and measured with its own context.

    The short form takes the lesson's CNN, which was fine-tuned with a context of 4, for all of them.
    """
    size = size_of(short)
    train, val = scenes("train", size.images, seed), scenes("val", size.measured, seed)
    results = {}
    for padding in PADDINGS:
        model = detector(seed, size, padding)
        train_svms(model, describe(model, train))
        seen = examine(model, val)
        results[f"context {padding}"] = measure([detect(model, s, model.score(s.features)) for s in seen], seen)
    return results


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The paper's comparison."""
    return {"a context of 4 beats none": wins(per_seed, "context 4", "context 0"),
            "a context of 8 beats none": wins(per_seed, "context 8", "context 0")}
