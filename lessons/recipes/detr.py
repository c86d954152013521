"""How the DETR of lesson 11 is built and trained: the paper's, smaller in every respect, on 10 x 10 cells of stride 16.

As in the paper's code the body keeps its normalisation, and its stem and first stage altogether, as they were
pre-trained; what is left of it learns more slowly than the rest, though not ten times, as it has seen much less.
"No object" begins with the paper's weight, a tenth, and ends with 1. With a tenth a query that is right one time in
eleven has a score of a half, so several queries can be sure of one object, and so they were after as few steps as
ours. With 1 a score is a chance. In the last two turns classes weigh five times as much, in the matching as well:
where two queries had nearly the same box, it was chance which of them was matched, and so neither could learn to keep
off.
"""

from bisect import bisect
from dataclasses import replace

from lessons.backbones.resnet import FrozenBatchNorm2d, LastStage, ResNet, small_resnet
from lessons.data.scenes import CLASSES
from lessons.detection_training import Plan, Recipe
from lessons.detectors.detr import DETR, Transformer
from lessons.images import ImagePreparation
from lessons.order import seeded

TURNS = 9000, 15500, 26000, 34000, 38800  # steps at which the learning rate is full again
NO_OBJECT_WEIGHTS = 0.1, 0.1, 0.4, 1.0, 1.0, 1.0  # before the first of them, and from each on
CLASS_WEIGHTS = 1.0, 1.0, 1.0, 1.0, 5.0, 5.0  # beside L1's 5 and GIoU's 2
FULL = Plan(36000, 43600, 200, learning_rate=5e-4, body_rate=0.3, clip_norm=1.0, restarts=TURNS)
PLANS = {"short": replace(FULL, images=400, steps=60, measured=40, restarts=()), "full": FULL}
QUERIES = 25  # the scenes hold at most 5 objects


def build(num_classes: int = len(CLASSES), seed: int = 0, side: int = 160) -> DETR:
    """The lesson's detector, untrained. num_classes counts the background; side: pictures' short side, pixels."""
    with seeded(seed):
        backbone = LastStage(small_resnet((1, 2, 2, 1), FrozenBatchNorm2d))
        freeze_start(backbone.body)
        transformer = Transformer(128, 8, 3, 3, dim_feedforward=384, dropout=0.0)
        return DETR(backbone, transformer, num_classes, ImagePreparation((side,), 2 * side), QUERIES)


def freeze_start(body: ResNet) -> None:
    """Stem and first stage learn no more: edges are edges, and half of the backward pass is saved."""
    for module in (body.conv1, body.get_submodule("layer1")):
        module.requires_grad_(False)


def weigh(model: DETR, step: int) -> None:
    """The weights of "no object" and of the classes, which are others in each turn of the learning rate."""
    turn = bisect(TURNS, step)
    model.no_object_weight = NO_OBJECT_WEIGHTS[turn]
    model.loss_weights = CLASS_WEIGHTS[turn], *DETR.loss_weights[1:]


train = Recipe("detr", build, PLANS, before_step=weigh,
               notes={"no_object_weights": NO_OBJECT_WEIGHTS, "class_weights": CLASS_WEIGHTS}).train
