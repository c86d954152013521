"""Which layers must learn? (Fast R-CNN, section 4.5 and table 5)

SPPnet could train its fully connected layers only. In the paper, with VGG16: fully connected layers alone 61.4 mAP on
VOC 2007, all from the third group of convolutions on 66.9, from the second 67.2.
"""

from collections.abc import Sequence

from experiments import fast_rcnn_training as training
from experiments.record import Numbers, wins

__all__ = ["PRE_TRAINED"]
PRE_TRAINED = training.PRE_TRAINED
CLAIM = "Training the convolutions, too, beats training the fully connected layers alone."
LEARNING = {"head only": ["box_head"], "head and last stage": ["box_head", "backbone.body.layer3"]}


def run(seed: int, short: bool = False) -> Numbers:
    """Three trainings of the same length, in which ever more learns."""
    size = training.size_of(short)
    models = {name: training.kept(name.replace(" ", "_"), seed, size,
                                  lambda m, learning=learning: training.learn(training.Partly(m, learning), seed, size))
              for name, learning in LEARNING.items()} | {"everything": training.multi_task(seed, size)}
    data = training.validation(seed, size)
    return {name: training.measured(model, data) for name, model in models.items()}


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The paper's comparison, and where most of the gain is."""
    gain = [[later["AP"] - earlier["AP"] for earlier, later in ((one["head only"], one["head and last stage"]),
                                                                (one["head and last stage"], one["everything"]))]
            for one in per_seed]
    return {"everything beats the head only": wins(per_seed, "everything", "head only"),
            "the last stage gives more than the earlier ones": sum(first - second for first, second in gain) > 0}
