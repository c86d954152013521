"""How the Keypoint R-CNN of lesson 07 is built and trained: four keypoints, the ends of each object.

Nobody marked knees and elbows in the embedded photographs, but every mask has a topmost, a leftmost, a bottommost and a
rightmost pixel (Zhou et al., "Bottom-up object detection by grouping extreme and center points", CVPR 2019).
"""

from functools import partial

from lessons.backbones.fpn import ResNetFPN
from lessons.backbones.resnet import small_resnet
from lessons.data.scenes import CLASSES
from lessons.data.transforms import extreme_points
from lessons.detection_training import BOXES, Plan, Recipe
from lessons.detectors.mask_rcnn import KeypointHead, KeypointRCNN
from lessons.images import ImagePreparation
from lessons.metrics import CocoMetrics
from lessons.order import seeded
from lessons.recipes.faster_rcnn import small_head, small_rpn
from lessons.recipes.fpn import ANCHOR_SIZES, CHANNELS
from lessons.recipes.mask_rcnn import DEPTH, HIDDEN

PLANS = {"short": Plan(400, 60, 40), "full": Plan(19200, 2400, 200, learning_rate=1e-3)}
POINTS = ("top", "left", "bottom", "right")
SIGMAS = (0.05,) * len(POINTS)  # tolerance; COCO's are 0.025 for eyes to 0.107 for hips


def build(num_classes: int = len(CLASSES), seed: int = 0, side: int = 160) -> KeypointRCNN:
    """The lesson's detector, untrained. num_classes counts the background; side: pictures' short side, pixels."""
    with seeded(seed):
        backbone = ResNetFPN(small_resnet(), CHANNELS)
        points = KeypointHead(CHANNELS, len(POINTS), HIDDEN, DEPTH)
        return KeypointRCNN(backbone, small_rpn(CHANNELS, ANCHOR_SIZES), small_head(backbone, num_classes), points,
                            ImagePreparation((side,), 2 * side))


train = Recipe("keypoint_rcnn", build, PLANS, transform=extreme_points, begins_with="fpn",
               metrics={**BOXES, "keypoints": partial(CocoMetrics, "keypoints", SIGMAS)}).train
