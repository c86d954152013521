"""How the Faster R-CNN of lesson 06 is built and trained: lesson 05's detector on a pyramid of strides 4 to 32."""

from lessons.backbones.fpn import ResNetFPN
from lessons.backbones.resnet import small_resnet
from lessons.data.scenes import CLASSES
from lessons.detection_training import Plan, Recipe
from lessons.detectors.faster_rcnn import FasterRCNN
from lessons.images import ImagePreparation
from lessons.order import seeded
from lessons.recipes.faster_rcnn import small_head, small_rpn

PLANS = {"short": Plan(400, 60, 40), "full": Plan(26000, 3200, 200)}
ANCHOR_SIZES = ((20,), (40,), (80,), (160,))  # one for each level, pixels: five of its cells (eight in the paper)
CHANNELS = 96


def build(num_classes: int = len(CLASSES), seed: int = 0, side: int = 160) -> FasterRCNN:
    """The lesson's detector, untrained. num_classes counts the background; side: pictures' short side, pixels."""
    with seeded(seed):
        backbone = ResNetFPN(small_resnet(), CHANNELS)
        head = small_head(backbone, num_classes)
        return FasterRCNN(backbone, small_rpn(CHANNELS, ANCHOR_SIZES), head, ImagePreparation((side,), 2 * side))


train = Recipe("fpn", build, PLANS).train
