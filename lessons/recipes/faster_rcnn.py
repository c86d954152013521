"""How the Faster R-CNN of lesson 05 is built and trained: one map of stride 8, as the paper's one map of stride 16.

RPN and head learn together ("approximate joint training", Ren et al., section 3.2); the four steps of alternating
training are in `lessons.detectors.alternating`.
"""

from torch import nn

from lessons.backbones.resnet import LastStage, small_resnet
from lessons.data.scenes import CLASSES
from lessons.detection_training import Plan, Recipe
from lessons.detectors.fast_rcnn import FastRCNNHead
from lessons.detectors.faster_rcnn import FasterRCNN, RegionProposalNetwork
from lessons.images import ImagePreparation
from lessons.order import seeded

PLANS = {"short": Plan(400, 60, 40), "full": Plan(13000, 1600, 200)}
ANCHOR_SIZES = (16, 32, 64, 96)  # pixels; the scenes' objects measure 24 to 106
HIDDEN = 192  # of the head's two layers


def build(num_classes: int = len(CLASSES), seed: int = 0, side: int = 160) -> FasterRCNN:
    """The lesson's detector, untrained. num_classes counts the background; side: pictures' short side, pixels."""
    with seeded(seed):
        backbone = LastStage(small_resnet((1, 2, 1)))
        rpn = small_rpn(backbone.out_channels, (ANCHOR_SIZES,))
        return FasterRCNN(backbone, rpn, small_head(backbone, num_classes), ImagePreparation((side,), 2 * side))


def small_rpn(channels: int, sizes: tuple[tuple[int, ...], ...]) -> RegionProposalNetwork:
    """A proposal network for small pictures, where a tenth of the usual proposals is enough."""
    rpn = RegionProposalNetwork(channels, sizes)
    rpn.before_nms, rpn.after_nms = {True: 600, False: 300}, {True: 200, False: 100}
    return rpn


def small_head(backbone: nn.Module, num_classes: int) -> FastRCNNHead:
    """Fast R-CNN's head with narrow layers; 64 regions of each picture in the loss, as in the paper.

    A region of 64 pixels is taken from stride 8 of a pyramid, one of 32 from stride 4.
    """
    head = FastRCNNHead(backbone.out_channels, num_classes, backbone.strides, HIDDEN)  # type: ignore[arg-type]
    head.batch_size, head.canonical_size = 64, 128  # so that 7 x 7 bins lie on about 8 x 8 cells
    return head


train = Recipe("faster_rcnn", build, PLANS).train
