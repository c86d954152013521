"""How the DETR of lesson 11 is built and trained: the paper's, smaller in every respect, on 10 x 10 cells of stride 16.

As in the paper's code the body keeps its normalisation, and its stem and first stage altogether, as they were
pre-trained; what is left of it learns more slowly than the rest, though not ten times, as it has seen much less.
"No object" begins with the paper's weight, a tenth, and ends with 1. With a tenth a query that is right one time in
eleven has a score of a half, so several queries can be sure of one object, and so they were after as few steps as
ours. With 1 a score is a chance; as each object has one query in the matching, no two of them have more than a half.
"""

from bisect import bisect
from dataclasses import replace

from lessons.backbones.resnet import FrozenBatchNorm2d, LastStage, ResNet, small_resnet
from lessons.data.scenes import CLASSES
from lessons.detection_training import Plan, Recipe
from lessons.detectors.detr import DETR, Transformer
from lessons.images import ImagePreparation
from lessons.order import seeded

TURNS = 9000, 15500, 26000  # steps at which the learning rate is full again
NO_OBJECT_WEIGHTS = 0.1, 0.1, 0.4, 1.0  # before the first of them, and from each on
FULL = Plan(36000, 34000, 200, learning_rate=5e-4, body_rate=0.3, clip_norm=1.0, restarts=TURNS)
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


def weigh_no_object(model: DETR, step: int) -> None:
    """The weight of "no object" in the class loss, which is another one in each turn of the learning rate."""
    model.no_object_weight = NO_OBJECT_WEIGHTS[bisect(TURNS, step)]


train = Recipe("detr", build, PLANS, before_step=weigh_no_object,
               notes={"no_object_weights": NO_OBJECT_WEIGHTS}).train
