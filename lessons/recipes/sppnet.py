"""How the SPPnet of lesson 03 is built and trained: R-CNN's stages on features of one shared map.

    fine_tune  ->  fc6 and fc7 learn to tell proposals that cover an object from the rest; the convolutions stay
    fit        ->  SVMs and box regressors are fitted to the features

The convolutions are the lessons' body, pre-trained on crops of single objects.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lessons.backbones.resnet import LastStage, small_resnet
from lessons.checkpoints import data_hash, save_checkpoint
from lessons.data.scenes import CLASSES
from lessons.detection_training import measure, open_with_proposals, summary
from lessons.detectors.sppnet import SPPNet
from lessons.images import ImagePreparation
from lessons.order import seeded
from lessons.plans import side_of
from lessons.recipes.rcnn import fine_tune, fit
from lessons.recipes.small_resnet import start_from_pre_trained
from lessons.zoo import CHECKPOINTS


@dataclass(frozen=True)
class Plan:
    """How much of everything a profile takes."""

    images: int  # to fine-tune on
    steps: int  # of 128 proposals out of 8 images
    fitted: int  # of these images, how many SVMs and box regressors see
    measured: int  # images of each validation split


PLANS = {"short": Plan(40, 40, 40, 20), "full": Plan(800, 1000, 500, 200)}
LESSON = CHECKPOINTS / "sppnet.safetensors"
PROPOSALS = 200  # of each picture
LEVELS = (6, 3, 2, 1)  # bins a side
HIDDEN = 256  # width of fc6 and fc7


def build(num_classes: int = len(CLASSES), seed: int = 0, sides: tuple[int, ...] = (160,)) -> SPPNet:
    """The lesson's detector, untrained. num_classes counts the background; sides: short sides of its scales, pixels."""
    with seeded(seed):
        scales = [ImagePreparation((side,), 2 * side) for side in sides]
        return SPPNet(LastStage(small_resnet((1, 2, 1))), num_classes, scales, LEVELS, HIDDEN, PROPOSALS)


def train(dataset: str = "scenes", profile: str = "short", resume: bool = False, device: str | None = None,
          seed: int = 0, folder: str | Path | None = None) -> SPPNet:
    """The whole training of a profile; returns the model, measured, on the CPU and in evaluation mode.

    The checkpoint goes into `folder`, where there is one; that of the full profile on the scenes with seed 0 into
    data/checkpoints, as the lesson's.
    """
    plan, began, folder = PLANS[profile], time.perf_counter(), None if folder is None else Path(folder)
    file = folder / "proposals.safetensors" if folder and resume else None
    data = open_with_proposals(dataset, plan.images, PROPOSALS, file)
    model = build(len(data.classes), seed, (side_of(dataset),))
    start_from_pre_trained(model.backbone.body)  # type: ignore[arg-type]
    fine_tune(model, data, plan.steps, seed, folder, resume, device)
    data.transform = None  # no mirroring
    fit(model, data, min(plan.fitted, len(data)))
    model.to("cpu")
    seconds, metrics = round(time.perf_counter() - began), measure(model, dataset, plan.measured)
    card = {"seed": seed, "data": data_hash(data), "plan": asdict(plan), "steps": plan.steps, "seconds": seconds,
            "device": str(device or "fastest"), "metrics": metrics}
    print(summary(metrics))
    is_lesson = (dataset, profile, seed) == ("scenes", "full", 0)
    for path in {folder and folder / "sppnet.safetensors", is_lesson and LESSON}:
        if path:
            save_checkpoint(path, model.state_dict(), card, torch.float16)
    return model
