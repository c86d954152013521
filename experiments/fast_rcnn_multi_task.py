"""Does the box loss help to classify, and is one training better than two? (Fast R-CNN, section 5.1 and table 6)

In the paper, with three networks: the multi-task loss raises mAP by 0.8 to 1.1 points even where the regressed boxes
are not used, and regressing after a multi-task training beats regressors that were trained afterwards (stage-wise).
"""

from collections.abc import Sequence

from experiments import fast_rcnn_training as training
from experiments.record import Numbers, wins
from lessons.detectors.fast_rcnn import FastRCNN

__all__ = ["PRE_TRAINED"]
PRE_TRAINED = training.PRE_TRAINED
CLAIM = "Learning classes and boxes together beats learning classes alone, and beats one after the other."


def run(seed: int, short: bool = False) -> Numbers:
    """The four columns of the paper's table 6: two trainings, each with and without regressed boxes."""
    size = training.size_of(short)
    together = training.multi_task(seed, size)
    apart = training.kept("stage_wise", seed, size, lambda model: stage_wise(model, seed, size))
    models = {"classes only": training.without_regression(apart), "stage-wise": apart,
              "multi-task, boxes not used": training.without_regression(together), "multi-task": together}
    data = training.validation(seed, size)
    return {name: training.measured(model, data) for name, model in models.items()}


def stage_wise(model: FastRCNN, seed: int, size: training.Size) -> None:
    """First everything but the box layer from the loss of the classes, then the box layer alone from its own."""
    training.learn(training.OneLoss(model, "loss_classifier"), seed, size)
    training.learn(training.OneLoss(training.Partly(model, ["box_head.bbox_pred"]), "loss_box_reg"), seed, size)


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """The paper's comparisons."""
    return {"the box loss helps to classify": wins(per_seed, "multi-task, boxes not used", "classes only", "AP50"),
            "multi-task beats stage-wise": wins(per_seed, "multi-task", "stage-wise"),
            "regressed boxes beat proposals": wins(per_seed, "multi-task", "multi-task, boxes not used")}
