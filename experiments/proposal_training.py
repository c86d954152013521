"""What the experiments on Faster R-CNN and pyramids share: short trainings from the pre-trained body, and recall.

A seed draws other scenes (training and validation), other first weights of what is new, and another order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from lessons.data.sample import Detections, Sample, Target
from lessons.data.scenes import CLASSES, Scenes
from lessons.data.transforms import RandomMirror
from lessons.detection_training import Plan, fit
from lessons.detectors.alternating import ProposalTask
from lessons.detectors.faster_rcnn import FasterRCNN
from lessons.evaluation import evaluate
from lessons.images import resize_boxes
from lessons.metrics import CocoMetrics

NEEDED = ("boxes", "labels", "area", "iscrowd")  # of each object


@dataclass(frozen=True)
class Size:
    """Scenes to train and to measure on, and steps of four scenes."""

    images: int
    steps: int
    measured: int


class KeptScenes(Scenes):
    """Scenes that are made once and kept, without the maps and masks that boxes do not need.

    classes: the labels that count as objects, others are left unlabelled; none: all do.
    """

    def __init__(self, split: str, length: int, seed: int, classes: Sequence[int] = ()) -> None:
        super().__init__(split, length, seed)
        self.classes = torch.tensor(list(classes or range(1, len(CLASSES))))
        self.kept: dict[int, Sample] = {}

    def load(self, index: int) -> Sample:
        if index not in self.kept:
            image, target = super().load(index)
            counts = torch.isin(target["labels"], self.classes)
            kept = {key: target[key][counts] for key in NEEDED}  # type: ignore[literal-required]
            self.kept[index] = image, {**kept, "image_id": target["image_id"]}  # type: ignore[typeddict-item]
        image, target = self.kept[index]
        return image, {**target}  # type: ignore[return-value]


@lru_cache(maxsize=1)
def training_scenes(count: int, seed: int, classes: Sequence[int] = ()) -> KeptScenes:
    """Scenes of a seed to train on, mirrored at random; the lesson's own training does not use these seeds."""
    data = KeptScenes("train", count, 1000 + seed, classes)
    data.transform = RandomMirror()
    return data


def train_briefly(task: nn.Module, size: Size, seed: int, classes: Sequence[int] = ()) -> nn.Module:
    """The lessons' loop over the scenes of a seed, on the CPU; returns what was trained, in evaluation mode."""
    plan = Plan(size.images, size.steps, size.measured, batch_size=4)
    fit(task, training_scenes(size.images, seed, tuple(classes)), plan, seed, device="cpu", progress=False)
    return task.eval()


def train_proposals(model: FasterRCNN, size: Size, seed: int, classes: Sequence[int] = ()) -> None:
    """Backbone and RPN alone, as the first of the paper's four steps."""
    train_briefly(ProposalTask(model, ["backbone", "rpn"]), size, seed, classes)
    model.eval()


class Proposer(nn.Module):
    """A detector's proposals in place of its detections, all of one class, the best with the highest score."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Sequence[Tensor]) -> list[Detections]:
        batch, _ = self.model.prepare(images)
        proposals, _ = self.model.rpn(self.model.backbone(batch.pixels), batch)
        boxes = [resize_boxes(p, *sizes) for p, *sizes in zip(proposals, batch.sizes, batch.originals, strict=True)]
        return [{"boxes": b, "labels": torch.ones(len(b), dtype=torch.int64),
                 "scores": torch.linspace(1, 0, len(b))} for b in boxes]


class Recalls(CocoMetrics):
    """COCO's numbers where every object is of one class: AR is the average recall of proposals."""

    def update(self, detections: Sequence[Detections], targets: Sequence[Target]) -> None:
        super().update(detections, [{**t, "labels": torch.ones_like(t["labels"])} for t in targets])


def average_recalls(model: FasterRCNN, size: Size, seed: int, classes: Sequence[int] = ()) -> dict[str, float]:
    """Average recall over IoU 0.5 to 0.95 of 10 and of 100 proposals, and of 100 for small and medium objects."""
    scenes = KeptScenes("val", size.measured, 1000 + seed, classes)
    found = evaluate(Proposer(model), scenes, Recalls, progress=False)
    return {key: round(found[key], 4) for key in ("AR10", "AR100", "AR_small", "AR_medium")}
