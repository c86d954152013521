"""How the DETR of lesson 11 is built and trained: the paper's, smaller in every respect, on 10 x 10 cells of stride 16.

As in the paper the body keeps its batch normalisation as it was pre-trained and learns at a tenth of the rate.
"""

from pathlib import Path

from torch import nn

from lessons.backbones.resnet import LastStage, small_resnet
from lessons.data.scenes import CLASSES
from lessons.detection_training import Plan, train_jointly
from lessons.detectors.detr import DETR, Transformer
from lessons.images import ImagePreparation
from lessons.order import seeded

PLANS = {"short": Plan(400, 60, 40), "full": Plan(40000, 10000, 200)}
QUERIES = 25  # the scenes hold at most 5 objects


def build(num_classes: int = len(CLASSES), seed: int = 0, side: int = 160) -> DETR:
    """The lesson's detector, untrained. num_classes counts the background; side: pictures' short side, pixels."""
    with seeded(seed):
        backbone = LastStage(small_resnet((1, 2, 2)))
        transformer = Transformer(128, 8, 3, 3, dim_feedforward=384, dropout=0.0)
        return DETR(backbone, transformer, num_classes, ImagePreparation((side,), 2 * side), QUERIES)


def train(dataset: str = "scenes", profile: str = "short", resume: bool = False, device: str | None = None,
          seed: int = 0, folder: str | Path | None = None) -> nn.Module:
    """Trains and measures; see `lessons.detection_training.train_jointly`."""
    is_lesson = (dataset, profile, seed) == ("scenes", "full", 0)
    return train_jointly("detr", build, PLANS[profile], dataset, is_lesson, resume, device, seed, folder)
