"""What the experiments on R-CNN share: detectors fine-tuned from the lesson's pre-trained CNN, and their measurement.

A seed draws other scenes (training and validation) and another fine-tuning. Fine-tuned CNNs and proposals are kept in
runs/experiments, because several experiments look at the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.record import checkpoint_hash
from lessons import zoo
from lessons.backbones.alexnet import Features
from lessons.checkpoints import CheckpointError, data_hash, load_checkpoint, load_strictly, save_checkpoint
from lessons.coco_metrics import IOU_THRESHOLDS, CocoMetrics
from lessons.data.proposed import WithProposals
from lessons.data.sample import Detections, Target
from lessons.data.scenes import Scenes
from lessons.detectors.rcnn import RCNN
from lessons.detectors.svm_detector import FEATURE_NORM, suppress
from lessons.detectors.svm_fitting import DescribedRegions, describe_regions, set_feature_norms, train_box_regressors
from lessons.recipes.rcnn import PRE_TRAINED, build, fine_tune, start_from_pre_trained

KEPT = Path(__file__).resolve().parents[1] / "runs" / "experiments"


@dataclass(frozen=True)
class Size:
    """Scenes to train and to measure on, and steps of fine-tuning; with 0 steps the lesson's finished CNN is taken."""

    images: int
    steps: int
    measured: int


FULL, SHORT = Size(400, 500, 100), Size(30, 0, 15)


class Examined(NamedTuple):
    """A validation scene as a detector sees it: its target and the N proposals with their features."""

    target: Target
    boxes: Tensor
    features: Features


def size_of(short: bool) -> Size:
    """The amounts of a run in the notebook (short) or of the stored experiment."""
    return SHORT if short else FULL


def scenes(split: str, count: int, seed: int, proposals: int = 200) -> WithProposals:
    """Scenes that belong to a seed, with their proposals, which are kept on disk."""
    data = Scenes(split, count, seed=1000 + seed)  # seeds that the lesson's own training does not use
    file = KEPT / f"{split}-{seed}-{count}-{proposals}-{data_hash(data)}.safetensors"
    return WithProposals(data, count=proposals).prepare(file, progress=False)


def detector(seed: int, size: Size, context_padding: int = 4) -> RCNN:
    """An R-CNN with a fine-tuned CNN; SVMs and box regressors are still to be fitted."""
    if not size.steps:
        model = zoo.load("rcnn", "lesson")
        assert isinstance(model, RCNN)
        model.context_padding = context_padding
        return model
    model = build(seed=seed)
    model.context_padding = context_padding
    start_from_pre_trained(model)
    train = scenes("train", size.images, seed)
    name = f"rcnn-{seed}-{size.images}-{size.steps}-{context_padding}-{data_hash(train)}-{checkpoint_hash(PRE_TRAINED)}"
    file = KEPT / f"{name}.safetensors"
    try:
        load_strictly(model, load_checkpoint(file)[0], str(file))
    except CheckpointError:
        fine_tune(model, train, size.steps, seed, device="cpu")
        save_checkpoint(file, model.state_dict(), {"seed": seed})
    return model.eval()


def describe(model: RCNN, data: WithProposals) -> list[DescribedRegions]:
    """The training regions of all scenes; sets the model's feature scale and fits its box regressors."""
    regions = [describe_regions(model, *data[index]) for index in range(len(data))]
    set_feature_norms(model, regions)
    train_box_regressors(model, regions)
    return regions


@torch.no_grad()
def examine(model: RCNN, data: WithProposals) -> list[Examined]:
    """Features of all proposals of all scenes, so that several classifiers can be measured on them."""
    found = []
    for image, target in (data[index] for index in range(len(data))):
        boxes = torch.as_tensor(target["proposals"])
        found.append(Examined(target, boxes, model.features(image, boxes)))
    return found


def svm_features(model: RCNN, regions: Sequence[DescribedRegions]) -> list[Tensor]:
    """The fc7 features of training regions at the scale that SVMs learn from."""
    return [region.fc7 * (FEATURE_NORM / model.feature_norms[1]) for region in regions]


@torch.no_grad()
def detect(model: RCNN, seen: Examined, scores: Tensor, regress: bool = True, threshold: float = -1.0) -> Detections:
    """Detections of a scene of 160 pixels from the class scores (N, K) of its proposals."""
    regressed = model.regress(seen.features, seen.boxes)
    if not regress:
        regressed = seen.boxes[:, None].expand_as(regressed)
    return suppress(seen.boxes, scores, regressed, (160, 160), score_threshold=threshold)


def measure(detections: Sequence[Detections], examined: Sequence[Examined]) -> dict[str, float]:
    """AP, AP50, AP75 and AP at every IoU threshold."""
    metrics = CocoMetrics()
    metrics.update(list(detections), [seen.target for seen in examined])
    found = metrics.compute()
    numbers = {key: found[key] for key in ("AP", "AP50", "AP75")}
    return {key: round(value, 4) for key, value in (numbers | ap_by_iou(metrics)).items()}


def ap_by_iou(metrics: CocoMetrics) -> dict[str, float]:
    """AP at IoU 0.50, 0.55 .. 0.95, the mean over classes."""
    labels = list(metrics.per_class())
    return {f"AP@{threshold:.2f}": sum(metrics.precision_at_recalls(label, threshold)[1].mean() for label in labels)
            / len(labels) for threshold in IOU_THRESHOLDS.tolist()}
