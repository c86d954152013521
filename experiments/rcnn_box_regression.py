"""Does box regression raise AP, and most where boxes must fit tightly? (R-CNN, section 3.4 and appendix C)"""

from collections.abc import Sequence

from experiments.rcnn_training import describe, detect, detector, examine, measure, scenes, size_of
from experiments.record import Numbers, wins
from lessons.detectors.svm_fitting import train_svms

CLAIM = "Box regression raises AP, and AP at IoU 0.75 more than AP at IoU 0.5."


def run(seed: int, short: bool = False) -> Numbers:
    """One detector's detections, measured with and without the last step; short: the lesson's finished detector."""
    size = size_of(short)
    model = detector(seed, size)
    if not short:
        train_svms(model, describe(model, scenes("train", size.images, seed)))
    seen = examine(model, scenes("val", size.measured, seed))
    return {name: measure([detect(model, s, model.score(s.features), regress) for s in seen], seen)
            for name, regress in (("without", False), ("with", True))}


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Compares the gains at both thresholds."""
    def gain(numbers: Numbers, key: str) -> float:
        return numbers["with"][key] - numbers["without"][key]

    more = [gain(n, "AP75") - gain(n, "AP50") for n in per_seed]
    return {"box regression raises AP": wins(per_seed, "with", "without"),
            "it raises AP75": wins(per_seed, "with", "without", "AP75"),
            "it raises AP75 more than AP50": sum(more) > 0}
