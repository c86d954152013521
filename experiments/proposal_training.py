"""What the experiments on Faster R-CNN and pyramids share: short trainings from the pre-trained body, and recall.

A seed draws other scenes (training and validation), other first weights of what is new, and another order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from lessons.data.sample import Detections, Sample, Target
from lessons.data.scenes import Scenes
from lessons.data.transforms import RandomMirror
from lessons.detection_training import Plan, fit
from lessons.detectors.alternating import ProposalTask
from lessons.detectors.faster_rcnn import FasterRCNN
from lessons.evaluation import evaluate
from lessons.images import resize_boxes
from lessons.metrics import CocoMetrics

NEEDED = ("boxes", "labels", "image_id", "area", "iscrowd")


@dataclass(frozen=True)
class Size:
    """Scenes to train and to measure on, and steps of four scenes."""

    images: int
    steps: int
    measured: int


class KeptScenes(Scenes):
    """Scenes that are made once and kept, without the maps and masks that boxes do not need."""

    def __init__(self, split: str, length: int, seed: int) -> None:
        super().__init__(split, length, seed)
        self.kept: dict[int, Sample] = {}

    def load(self, index: int) -> Sample:
        if index not in self.kept:
            image, target = super().load(index)
            self.kept[index] = image, {key: target[key] for key in NEEDED}  # type: ignore[literal-required, assignment]
        image, target = self.kept[index]
        return image, {**target}  # type: ignore[return-value]


@lru_cache(maxsize=1)
def training_scenes(count: int, seed: int) -> KeptScenes:
    """Scenes of a seed to train on, mirrored at random; the lesson's own training does not use these seeds."""
    data = KeptScenes("train", count, 1000 + seed)
    data.transform = RandomMirror()
    return data


def train_briefly(task: nn.Module, size: Size, seed: int) -> nn.Module:
    """The lessons' loop over the scenes of a seed, on the CPU; returns what was trained, in evaluation mode."""
    fit(task, training_scenes(size.images, seed), Plan(size.images, size.steps, size.measured, batch_size=4),
        seed, device="cpu", progress=False)
    return task.eval()


def train_proposals(model: FasterRCNN, size: Size, seed: int) -> None:
    """Backbone and RPN alone, as the first of the paper's four steps."""
    train_briefly(ProposalTask(model, ["backbone", "rpn"]), size, seed)
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


def average_recalls(model: FasterRCNN, size: Size, seed: int) -> dict[str, float]:
    """Average recall over IoU 0.5 to 0.95 of 10 and of 100 proposals, and of 100 for small and medium objects."""
    found = evaluate(Proposer(model), Scenes("val", size.measured, seed=1000 + seed), Recalls, progress=False)
    return {key: round(found[key], 4) for key in ("AR10", "AR100", "AR_small", "AR_medium")}
