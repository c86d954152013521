"""How the FCOS of lesson 09 is built and trained: lesson 08's pyramid, towers of the same depth, and no anchors."""

from lessons.backbones.fpn import ResNetFPN
from lessons.backbones.resnet import small_resnet
from lessons.data.scenes import CLASSES
from lessons.detection_training import Plan, Recipe
from lessons.detectors.fcos import FCOS, FCOSHead
from lessons.images import ImagePreparation
from lessons.order import seeded
from lessons.recipes.fpn import CHANNELS
from lessons.recipes.retinanet import DEPTH, FIRST

PLANS = {"short": Plan(400, 60, 40), "full": Plan(20000, 2500, 200)}


def build(num_classes: int = len(CLASSES), seed: int = 0, side: int = 160) -> FCOS:
    """The lesson's detector, untrained. num_classes counts the background; side: pictures' short side, pixels."""
    with seeded(seed):
        backbone = ResNetFPN(small_resnet(), CHANNELS, FIRST)
        head = FCOSHead(CHANNELS, num_classes, depth=DEPTH)
    model = FCOS(backbone, head, ImagePreparation((side,), 2 * side), backbone.strides)
    model.reach = 4.0  # strides: sides up to 32 pixels off on P3, 64 on P4; the scenes' objects measure 24 to 106
    model.score_threshold = 0.05  # the paper's; torchvision's 0.2 hides what a small detector is unsure of
    return model


train = Recipe("fcos", build, PLANS).train
