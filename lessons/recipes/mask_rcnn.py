"""How the Mask R-CNN of lesson 07 is built and trained: lesson 06's detector goes on, with one more head."""

from functools import partial

from lessons.backbones.fpn import ResNetFPN
from lessons.backbones.resnet import small_resnet
from lessons.data.scenes import CLASSES
from lessons.detection_training import BOXES, Plan, Recipe
from lessons.detectors.mask_rcnn import MaskHead, MaskRCNN
from lessons.images import ImagePreparation
from lessons.metrics import CocoMetrics
from lessons.order import seeded
from lessons.recipes.faster_rcnn import small_head, small_rpn
from lessons.recipes.fpn import ANCHOR_SIZES, CHANNELS

PLANS = {"short": Plan(400, 60, 40), "full": Plan(4800, 600, 200, learning_rate=5e-4)}
HIDDEN, DEPTH = 64, 2  # of the mask head's convolutions


def build(num_classes: int = len(CLASSES), seed: int = 0, side: int = 160) -> MaskRCNN:
    """The lesson's detector, untrained. num_classes counts the background; side: pictures' short side, pixels."""
    with seeded(seed):
        backbone = ResNetFPN(small_resnet(), CHANNELS)
        masks = MaskHead(CHANNELS, num_classes, HIDDEN, DEPTH)
        return MaskRCNN(backbone, small_rpn(CHANNELS, ANCHOR_SIZES), small_head(backbone, num_classes), masks,
                        ImagePreparation((side,), 2 * side))


train = Recipe("mask_rcnn", build, PLANS, metrics={**BOXES, "masks": partial(CocoMetrics, "masks")},
               begins_with="fpn").train
