"""What the experiments on one-stage detectors share: the lesson's detector, trained briefly, and its measurement.

A seed draws other scenes (training and validation), other first weights of what is new, and another order.
"""

from collections.abc import Callable

from torch import nn

from experiments.proposal_training import Size, train_briefly
from lessons.data.scenes import Scenes
from lessons.detectors.one_stage import OneStageDetector
from lessons.evaluation import evaluate
from lessons.recipes.small_resnet import LESSON as PRE_TRAINED
from lessons.recipes.small_resnet import start_from_pre_trained

FULL, SHORT = Size(250, 200, 60), Size(8, 3, 5)  # 200 steps of 4 scenes
UNSURE = 0.01  # score from which detections count; after a short training few are sure of anything
NUMBERS = ("AP", "AP50", "AP75", "AP_small", "AP_medium")


def size_of(short: bool) -> Size:
    """The amounts of a run in the notebook (short) or of the stored experiment."""
    return SHORT if short else FULL


def started(build: Callable[..., OneStageDetector], seed: int) -> OneStageDetector:
    """The lesson's detector before training, its body pre-trained on crops."""
    model = build(seed=seed)
    start_from_pre_trained(model.backbone.body)  # type: ignore[arg-type]
    model.score_threshold = UNSURE
    return model


def measured(model: nn.Module, size: Size, seed: int) -> dict[str, float]:
    """COCO's numbers on the validation scenes of a seed."""
    found = evaluate(model, Scenes("val", size.measured, seed=1000 + seed), progress=False)
    return {key: round(found[key], 4) for key in NUMBERS}


def trained_and_measured(model: OneStageDetector, size: Size, seed: int) -> dict[str, float]:
    """COCO's numbers after a short training."""
    return measured(train_briefly(model, size, seed), size, seed)


__all__ = ["FULL", "PRE_TRAINED", "SHORT", "measured", "size_of", "started", "trained_and_measured"]
