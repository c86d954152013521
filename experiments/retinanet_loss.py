"""Which loss for one stage? (RetinaNet, section 5.1, tables 1a and 1b)

The paper: cross-entropy 30.2 AP (alpha 0.5, which is CE halved), balanced with its best alpha 31.1, focal loss 34.0;
and the best alpha falls as gamma rises, from 0.75 without to 0.25 with gamma 2.
"""

from collections.abc import Sequence

from experiments.one_stage_training import PRE_TRAINED, size_of, started, trained_and_measured
from experiments.record import Numbers, wins
from lessons.recipes.retinanet import build

CLAIM = "Focal loss beats balanced cross-entropy, and that beats cross-entropy; alpha should fall as gamma rises."
LOSSES = {"CE": (-1, 0.0), "CE, alpha 0.25": (0.25, 0.0), "CE, alpha 0.75": (0.75, 0.0),
          "FL, alpha 0.25": (0.25, 2.0), "FL, alpha 0.75": (0.75, 2.0)}  # alpha and gamma


def run(seed: int, short: bool = False) -> Numbers:
    """COCO's numbers after the same short training with each loss; short: a few steps."""
    size, found = size_of(short), {}
    for name, (alpha, gamma) in LOSSES.items():
        model = started(build, seed)
        model.alpha, model.gamma = alpha, gamma  # type: ignore[assignment]
        found[name] = trained_and_measured(model, size, seed)
    return found


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The order of the losses, and which alpha is better with and without focus."""
    return {"focal loss beats balanced cross-entropy": wins(per_seed, "FL, alpha 0.25", "CE, alpha 0.75"),
            "balanced cross-entropy beats cross-entropy": wins(per_seed, "CE, alpha 0.75", "CE"),
            "focal loss beats cross-entropy": wins(per_seed, "FL, alpha 0.25", "CE"),
            "without focus the larger alpha is better": wins(per_seed, "CE, alpha 0.75", "CE, alpha 0.25"),
            "with gamma 2 the smaller alpha is better": wins(per_seed, "FL, alpha 0.25", "FL, alpha 0.75")}


__all__ = ["CLAIM", "LOSSES", "PRE_TRAINED", "run", "verdict"]
