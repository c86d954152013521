"""How the DETR of lesson 11 is built and trained: the paper's, smaller in every respect, on 10 x 10 cells of stride 16.

As in the paper's code the body keeps its normalisation, and its stem and first stage altogether, as they were
pre-trained; what is left of it learns more slowly than the rest, though not ten times, as it has seen much less.
"""

from dataclasses import replace

from lessons.backbones.resnet import FrozenBatchNorm2d, LastStage, ResNet, small_resnet
from lessons.data.scenes import CLASSES
from lessons.detection_training import Plan, Recipe
from lessons.detectors.detr import DETR, Transformer
from lessons.images import ImagePreparation
from lessons.order import seeded

FULL = Plan(36000, 15500, 200, learning_rate=5e-4, body_rate=0.3, clip_norm=1.0, restarts=(9000,))
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


train = Recipe("detr", build, PLANS).train
