"""How the Fast R-CNN of lesson 04 is built and trained: one map of stride 8, proposals of Selective Search, one loss.

With the paper's settings where they fit: RoIPool, 64 regions of each picture, a quarter of them objects, background
from IoU 0.1 up, smooth L1 that turns straight at 1 (Girshick, ICCV 2015, section 2.3).
"""

from lessons.backbones.resnet import LastStage, small_resnet
from lessons.data.scenes import CLASSES
from lessons.detection_training import Plan, Recipe
from lessons.detectors.fast_rcnn import FastRCNN, FastRCNNHead
from lessons.images import ImagePreparation
from lessons.order import seeded
from lessons.roi import multiscale_roi_pool

PLANS = {"short": Plan(40, 60, 20), "full": Plan(800, 1000, 200)}
PROPOSALS = 200  # of each picture
HIDDEN = 192  # of the head's two layers


def build(num_classes: int = len(CLASSES), seed: int = 0, side: int = 160) -> FastRCNN:
    """The lesson's detector, untrained. num_classes counts the background; side: pictures' short side, pixels."""
    with seeded(seed):
        backbone = LastStage(small_resnet((1, 2, 1)))
        head = FastRCNNHead(backbone.out_channels, num_classes, backbone.strides, HIDDEN)
    head.pooling = multiscale_roi_pool
    head.batch_size, head.background_from, head.beta = 64, 0.1, 1.0
    return FastRCNN(backbone, head, ImagePreparation((side,), 2 * side), PROPOSALS)


train = Recipe("fast_rcnn", build, PLANS, proposals=PROPOSALS).train
