"""How the CenterNet of lesson 10 is built and trained: a small ResNet, a pyramid, and keypoints on its finest map."""

from lessons.backbones.fpn import ResNetFPN
from lessons.backbones.resnet import small_resnet
from lessons.data.scenes import CLASSES
from lessons.detection_training import Plan, Recipe
from lessons.detectors.centernet import CenterNet
from lessons.detectors.corner_head import centernet_head
from lessons.images import ImagePreparation
from lessons.order import seeded

PLANS = {"short": Plan(400, 60, 40), "full": Plan(10800, 2700, 200, batch_size=4)}
CHANNELS, HIDDEN = 64, 32


def build(num_classes: int = len(CLASSES), seed: int = 0, side: int = 160) -> CenterNet:
    """The lesson's detector, untrained. num_classes counts the background; side: pictures' short side, pixels."""
    with seeded(seed):
        backbone = ResNetFPN(small_resnet(), CHANNELS)
        head = centernet_head(CHANNELS, num_classes, HIDDEN)
        return CenterNet(backbone, [head], ImagePreparation((side,), 2 * side))


train = Recipe("centernet", build, PLANS).train
