"""What the experiments on Fast R-CNN share: short trainings from the lessons' pre-trained body, and their measurement.

A seed draws other scenes and another training. Trained detectors and proposals are kept in runs/experiments, because
several experiments look at the same ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experiments.rcnn_training import KEPT, ap_by_iou, scenes
from experiments.record import checkpoint_hash
from lessons.checkpoints import CheckpointError, data_hash, load_checkpoint, load_strictly, save_checkpoint
from lessons.coco_metrics import CocoMetrics
from lessons.data.proposed import WithProposals
from lessons.data.sample import Detections, Target
from lessons.data.transforms import RandomMirror
from lessons.detection_training import Plan, fit
from lessons.detectors.fast_rcnn import FastRCNN
from lessons.recipes.fast_rcnn import build
from lessons.recipes.small_resnet import LESSON as PRE_TRAINED
from lessons.recipes.small_resnet import start_from_pre_trained

MOST = 400  # proposals kept of each validation scene


@dataclass(frozen=True)
class Size:
    """Scenes to train and to measure on, and steps of 4 scenes."""

    images: int
    steps: int
    measured: int


FULL, SHORT = Size(120, 140, 50), Size(8, 6, 5)


class Partly(nn.Module):
    """A detector of which only the modules called `learning` are trained; the rest stays in evaluation mode."""

    def __init__(self, model: FastRCNN, learning: Sequence[str]) -> None:
        super().__init__()
        self.model, self.learning = model, tuple(learning)
        model.requires_grad_(False)
        for name in learning:
            model.get_submodule(name).requires_grad_(True)

    def train(self, mode: bool = True) -> "Partly":
        super().train(mode)
        self.model.backbone.eval()
        for name in self.learning:
            self.model.get_submodule(name).train(mode)
        return self

    def forward(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        return self.model(images, targets)


class OneLoss(nn.Module):
    """A detector of whose losses only one counts."""

    def __init__(self, model: nn.Module, loss: str) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        return {self.loss: self.model(images, targets)[self.loss]}


def size_of(short: bool) -> Size:
    """The amounts of a run in the notebook (short) or of the stored experiment."""
    return SHORT if short else FULL


def start(seed: int) -> FastRCNN:
    """The lesson's detector before training."""
    model = build(seed=seed)
    start_from_pre_trained(model.backbone.body)  # type: ignore[arg-type]
    return model


def learn(model: nn.Module, seed: int, size: Size, steps: int | None = None) -> None:
    """Trains on the seed's scenes, 4 at a time, mirrored at random."""
    data = scenes("train", size.images, seed)
    data.transform = RandomMirror()
    count = size.steps if steps is None else steps
    fit(model, data, Plan(size.images, count, 0, batch_size=4), seed, device="cpu", progress=False)
    model.eval()


def kept(name: str, seed: int, size: Size, train: Callable[[FastRCNN], None]) -> FastRCNN:
    """The detector that `train` makes of a new one, or the one that it made before."""
    model = start(seed)
    origin = f"{data_hash(scenes('train', size.images, seed))}-{checkpoint_hash(PRE_TRAINED)}"
    file = KEPT / f"fast_rcnn-{name}-{seed}-{size.images}-{size.steps}-{origin}.safetensors"
    try:
        load_strictly(model, load_checkpoint(file)[0], str(file))
    except CheckpointError:
        train(model)
        model.requires_grad_(True)
        save_checkpoint(file, model.state_dict(), {"seed": seed})
    return model.eval()


def multi_task(seed: int, size: Size) -> FastRCNN:
    """Trained as the lesson's: everything learns, from both losses."""
    return kept("multi_task", seed, size, lambda model: learn(model, seed, size))


def validation(seed: int, size: Size) -> WithProposals:
    """The seed's validation scenes with MOST proposals each."""
    return scenes("val", size.measured, seed, MOST)


@torch.no_grad()
def detect(model: FastRCNN, data: WithProposals, count: int = 200) -> list[Detections]:
    """The detections of every scene on its first `count` proposals."""
    return [model([image], proposals=[target["proposals"][:count]])[0] for image, target in
            (data[index] for index in range(len(data)))]


def measure(detections: Sequence[Detections], data: WithProposals) -> dict[str, float]:
    """AP, AP50, AP75 and AP at every IoU threshold."""
    metrics = CocoMetrics()
    metrics.update(list(detections), [data[index][1] for index in range(len(data))])
    found = metrics.compute()
    numbers = {key: found[key] for key in ("AP", "AP50", "AP75")}
    return {key: round(value, 4) for key, value in (numbers | ap_by_iou(metrics)).items()}


def measured(model: FastRCNN, data: WithProposals, count: int = 200) -> dict[str, float]:
    """What `measure` says of the detections on every scene's first `count` proposals."""
    return measure(detect(model, data, count), data)


def without_regression(model: FastRCNN) -> FastRCNN:
    """The same detector, whose boxes stay where the proposals are."""
    same = build()
    same.load_state_dict(model.state_dict())
    nn.init.zeros_(same.box_head.bbox_pred.weight)
    nn.init.zeros_(same.box_head.bbox_pred.bias)
    return same.eval()
