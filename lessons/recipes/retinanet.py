"""How the RetinaNet of lesson 08 is built and trained: lesson 06's pyramid from stride 8 on, and one stage upon it."""

from lessons.backbones.fpn import ResNetFPN
from lessons.backbones.resnet import small_resnet
from lessons.data.scenes import CLASSES
from lessons.detection_training import Plan, Recipe
from lessons.detectors.retinanet import RetinaHead, RetinaNet
from lessons.images import ImagePreparation
from lessons.order import seeded
from lessons.recipes.fpn import CHANNELS

PLANS = {"short": Plan(400, 60, 40), "full": Plan(26000, 3200, 200)}
SIZES = tuple(tuple(size * 2 ** (third / 3) for third in range(3)) for size in (24, 48, 96))  # P3 to P5, pixels
DEPTH = 2  # convolutions of each tower, four in the paper
FIRST = 3  # the pyramid's finest level, of stride 8


def build(num_classes: int = len(CLASSES), seed: int = 0, side: int = 160) -> RetinaNet:
    """The lesson's detector, untrained. num_classes counts the background; side: pictures' short side, pixels."""
    with seeded(seed):
        backbone = ResNetFPN(small_resnet(), CHANNELS, FIRST)
        head = RetinaHead(CHANNELS, 9, num_classes, DEPTH)
    return RetinaNet(backbone, head, ImagePreparation((side,), 2 * side), SIZES)


train = Recipe("retinanet", build, PLANS).train
