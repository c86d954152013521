"""How deep must the two towers be? The paper takes four convolutions and gives no table (RetinaNet, section 4).

It says that decisions on a higher level matter more than the exact numbers.
"""

from collections.abc import Sequence

from experiments.one_stage_training import PRE_TRAINED, size_of, started, trained_and_measured
from experiments.record import Numbers, wins
from lessons.detectors.one_stage import OneStageDetector
from lessons.detectors.retinanet import RetinaHead
from lessons.order import seeded
from lessons.recipes import retinanet
from lessons.recipes.fpn import CHANNELS

CLAIM = "The depth of the towers matters little."
DEPTHS = (1, 2, 4)


def of_depth(depth: int, seed: int) -> OneStageDetector:
    """The lesson's detector with towers of another depth."""
    model = started(retinanet.build, seed)
    with seeded(seed):
        model.head = RetinaHead(CHANNELS, 9, model.head.num_classes, depth)  # type: ignore[arg-type]
    return model


def run(seed: int, short: bool = False) -> Numbers:
    """COCO's numbers after the same short training with each depth; short: a few steps."""
    size = size_of(short)
    return {f"{depth} convolutions": trained_and_measured(of_depth(depth, seed), size, seed) for depth in DEPTHS}


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Deeper against shallower."""
    return {"2 convolutions beat 1": wins(per_seed, "2 convolutions", "1 convolutions"),
            "4 convolutions beat 2": wins(per_seed, "4 convolutions", "2 convolutions")}


__all__ = ["CLAIM", "PRE_TRAINED", "run", "verdict"]
