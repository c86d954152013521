"""Which loss for the boxes: L1, GIoU or both? (DETR, section 4.2, table 4)

The paper trains from nothing with each, in the matching's cost as well: L1 alone 35.8 AP, GIoU alone 39.9, both 40.6.
Here the finished detector forgets the layers that read a query's box, begins them anew and learns on as a whole for 100
steps (see detr_training), with each of the losses in turn, again also in the matching.
"""

from collections.abc import Sequence

from torch import nn

from experiments.detr_training import PRE_TRAINED, finished, size_of, trained_on
from experiments.one_stage_training import measured
from experiments.record import Numbers, wins
from lessons.detectors.detr import DETR
from lessons.order import seeded

CLAIM = "Boxes are learnt best from L1 and GIoU together; GIoU alone is nearly as good, L1 alone is not."
LOSSES = {"L1": (1.0, 5.0, 0.0), "GIoU": (1.0, 0.0, 2.0), "both": (1.0, 5.0, 2.0)}  # weights of class, L1 and GIoU


def with_new_boxes(seed: int) -> DETR:
    """The lesson's detector, but the layers that make boxes of what the decoder gives know nothing yet."""
    model = finished()
    with seeded(seed):
        for layer in model.bbox_embed:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
    return model


def run(seed: int, short: bool = False) -> Numbers:
    """COCO's numbers after the same training with each loss."""
    size, found = size_of(short), {}
    for name, weights in LOSSES.items():
        model = with_new_boxes(seed)
        model.loss_weights = weights
        found[name] = measured(trained_on(model, size, seed), size, seed)
    return found


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The paper's order, and where L1 loses."""
    def lost(numbers: Numbers, key: str) -> float:
        return 1 - numbers["L1"][key] / max(numbers["both"][key], 1e-4)

    return {"both beat L1 alone": wins(per_seed, "both", "L1"), "both beat GIoU alone": wins(per_seed, "both", "GIoU"),
            "GIoU alone beats L1 alone": wins(per_seed, "GIoU", "L1"),
            "without GIoU a larger share of AP is lost on small than on medium objects": sum(
                lost(n, "AP_small") - lost(n, "AP_medium") for n in per_seed) > 0}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
