"""How the detectors are trained that learn all their parts at once, from one sum of losses (Fast R-CNN and after).

A recipe says how its detector is built and how much of everything a profile takes; `Recipe.train` does the rest: the
pre-trained body, the data, the loop, the measuring, the checkpoint and its card.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from lessons.callbacks import Callback
from lessons.checkpoints import CheckpointError, data_hash, save_checkpoint
from lessons.data.catalogue import open_dataset
from lessons.data.proposed import WithProposals
from lessons.data.remembered import LIMIT, Remembered
from lessons.data.sample import DetectionDataset
from lessons.data.scenes import Scenes
from lessons.data.transforms import (
    Compose,
    RandomMirror,
    RandomTranspose,
    RandomUpsideDown,
    Resize,
    Transform,
    brighten,
)
from lessons.evaluation import evaluate
from lessons.metrics import CocoMetrics
from lessons.plans import PHOTOGRAPHS, Plan, side_of
from lessons.recipes.small_resnet import start_from_pre_trained
from lessons.schedules import cosine, linear
from lessons.training import Trainer
from lessons.zoo import CHECKPOINTS, load

Metrics = Mapping[str, Callable[[], Any]]  # what is measured, and what makes the object that measures it
BOXES: Metrics = {"boxes": CocoMetrics}
PER_CLASS = "box_head.cls_score", "box_head.bbox_pred", "mask_head.logits"  # layers with rows for every class


@dataclass(frozen=True)
class Recipe:
    """All that distinguishes the training of one lesson's detector from that of another.

    build(num_classes, seed, side) makes it untrained. transform: what a sample needs besides being mirrored at random;
    metrics: what is measured; proposals: how many of Selective Search every training sample carries, for detectors that
    make none of their own; begins_with: the lesson whose finished detector this one extends, otherwise only the body is
    trained before. On photographs a detector begins as the lesson's own, finished on the scenes, if that is shipped.
    before_step(model, step): what changes in the detector as the training goes on, if anything; notes: what the card
    tells of that, and what a training must have in common with one that it resumes.
    """

    name: str
    build: Callable[..., nn.Module]
    plans: Mapping[str, Plan]  # by profile, "short" or "full"
    transform: Transform | None = None
    metrics: Metrics = field(default_factory=lambda: BOXES)
    proposals: int = 0
    begins_with: str | None = None
    before_step: Callable[[Any, int], None] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def train(self, dataset: str = "scenes", profile: str = "short", resume: bool = False, device: str | None = None,
              seed: int = 0, folder: str | Path | None = None) -> nn.Module:
        """Builds the detector, trains and measures it; returns it on the CPU, in evaluation mode.

        The checkpoint goes into `folder` and, for a lesson's own, into data/checkpoints. With `resume` the state and
        Selective Search's proposals are kept in `folder`, and an interrupted training goes on from there.
        """
        folder, plan = None if folder is None else Path(folder), self.plan(dataset, profile)
        data = self.open(dataset, plan, folder if resume else None)
        model = self.build_for(dataset, len(data.classes), seed)
        is_finished = (CHECKPOINTS / f"{self.name}.safetensors").is_file()
        begins_with = self.name if dataset in PHOTOGRAPHS and is_finished else self.begins_with
        if begins_with is None:
            start_from_pre_trained(model.backbone.body)  # type: ignore[arg-type, union-attr]
        else:
            start_from_lesson(model, begins_with)
        trainer = fit(model, data, plan, seed, folder, resume, device, self.before_step,
                      notes=self.notes)
        model = trainer.trained_model().to("cpu").eval()
        found = measure(model, dataset, plan.measured, self.transform, self.metrics)
        print(summary(found))
        data.transform = None  # what is random has no place in a hash
        card = {"seed": seed, "data": data_hash(data), "plan": asdict(plan), "steps": plan.steps, **self.notes,
                "begins_with": begins_with or "small_resnet", "seconds": round(trainer.seconds),
                "device": str(device or "fastest"), "metrics": found}
        is_lesson = (dataset, profile, seed) == ("scenes", "full", 0)
        for place in (folder, is_lesson and CHECKPOINTS):
            if place:
                save_checkpoint(place / f"{self.name}.safetensors", model.state_dict(), card, torch.float16)
        return model

    def build_for(self, dataset: str, num_classes: int, seed: int = 0) -> nn.Module:
        """The untrained detector as a data set needs it; a checkpoint of a training on photographs fits only this one.

        num_classes counts the background.
        """
        model = self.build(num_classes=num_classes, seed=seed, side=side_of(dataset))
        if dataset in PHOTOGRAPHS:
            PHOTOGRAPHS[dataset].adapt(model)
        return model

    def plan(self, dataset: str, profile: str) -> Plan:
        """How much of everything: the profile's, and in full on photographs what those need."""
        is_real = dataset in PHOTOGRAPHS and profile == "full"
        return PHOTOGRAPHS[dataset].plan_for("masks" in self.metrics) if is_real else self.plans[profile]

    def open(self, dataset: str, plan: Plan, folder: Path | None = None) -> DetectionDataset:
        """The training split, with proposals if the detector needs them; `folder` keeps those."""
        if self.proposals:
            file = folder and folder / "proposals.safetensors"
            return open_with_proposals(dataset, plan.images, self.proposals, file)
        needs_masks = self.transform is not None or "masks" in self.metrics
        return open_for_training(dataset, plan.images, self.transform, () if needs_masks else ("masks",))


def start_from_lesson(model: nn.Module, name: str) -> None:
    """Gives a detector the weights of a finished one whose parts it has.

    In the layers of PER_CLASS, where there are more or fewer classes, each begins as the mean of the objects that the
    finished one knows: how a box should move and what is no background hardly depends on the class. Other layers that
    do not fit stay as they are. Raises CheckpointError where the file is missing or damaged, or holds a part that the
    detector has not.
    """
    finished = load(name, "lesson")
    tensors, own = finished.state_dict(), model.state_dict()
    if surplus := tensors.keys() - own.keys():
        raise CheckpointError(f"{type(model).__name__} has no {min(surplus)}, which the lesson's {name} has.")
    for key, tensor in tensors.items():
        if tensor.shape != own[key].shape and key.startswith(PER_CLASS):
            tensors[key] = for_other_classes(tensor, finished.box_head.num_classes,  # type: ignore[arg-type, union-attr]
                                             model.box_head.num_classes)  # type: ignore[arg-type, union-attr]
    fitting = {key: tensor for key, tensor in tensors.items() if tensor.shape == own[key].shape}
    model.load_state_dict(fitting, strict=False)


def for_other_classes(rows: Tensor, num_known: int, num_classes: int) -> Tensor:
    """Weights (num_known * r, ...), r rows for each class, the background first -> (num_classes * r, ...).

    The background's rows stay, those of every object are the mean over the known objects. Raises ValueError where the
    rows cannot be those of so many classes, or no object is known.
    """
    if num_known < 2 or len(rows) % num_known:
        raise ValueError(f"{len(rows)} rows of weights are not those of {num_known} classes; want the background and "
                         "one object or more, all with equally many rows.")
    by_class = rows.unflatten(0, (num_known, -1))
    background, objects = by_class[:1], by_class[1:].mean(dim=0, keepdim=True)
    return torch.cat([background, objects.expand(num_classes - 1, *objects.shape[1:])]).flatten(0, 1)


def fit(model: nn.Module, data: DetectionDataset, plan: Plan, seed: int = 0, folder: Path | None = None,
        resume: bool = False, device: str | None = None, before_step: Callable[[Any, int], None] | None = None,
        callbacks: Sequence[Callback] = (), progress: bool = True, notes: Mapping[str, Any] | None = None) -> Trainer:
    """The loop that notebooks show: AdamW, a warm-up, then down to 0 by cosines or a line; long gradients shortened.

    before_step(model, step) is called before each step, from 0; notes: what a resumed training must have in common
    with the saved one. Returns the trainer, which knows the history of the losses, the seconds that it took and, where
    the plan wants averaged weights, the model that has them: `trained_model()`. `model` itself has the last ones.
    """
    # fused: one pass over the weights in place of ten; not for Apple's GPUs, where older versions of torch have none
    optimizer = torch.optim.AdamW(parameter_groups(model, plan), lr=plan.learning_rate, weight_decay=0.05,
                                  fused=not torch.backends.mps.is_available())
    warmup = min(100, plan.steps // 4)
    schedule = linear(plan.steps, warmup) if plan.straight else cosine(plan.steps, warmup, restarts=plan.restarts)
    trainer = Trainer(model, optimizer, data, batch_size=plan.batch_size, steps=plan.steps, seed=seed,
                      schedule=schedule, clip_norm=plan.clip_norm, ema_decay=plan.ema_decay, device=device,
                      before_step=before_step and partial(before_step, model), notes=notes or {},
                      callbacks=callbacks, folder=folder and folder / "training", progress=progress)
    trainer.run(resume)
    return trainer


def parameter_groups(model: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """What an optimiser trains: all parameters, those of the body apart where they have a rate of their own."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if plan.body_rate == 1:
        return [{"params": trained}]
    body = set(model.backbone.body.parameters())  # type: ignore[union-attr]
    return [{"params": [p for p in trained if p not in body]},
            {"params": [p for p in trained if p in body], "lr": plan.learning_rate * plan.body_rate}]


def open_for_training(dataset: str, images: int, transform: Transform | None = None,
                      without: Sequence[str] = ()) -> DetectionDataset:
    """The training split at the lessons' size: scenes as many as wanted, other sets at most all; mirrored at random.

    without: entries of a target that the detector has no use for, such as "masks".
    """
    data = _open_unchanged(dataset, images, without)
    data.transform = Compose([random_mirrors(dataset), *([transform] if transform else [])])
    return data


def _open_unchanged(dataset: str, images: int, without: Sequence[str] = ()) -> DetectionDataset:
    """The training split at the lessons' size, with nothing random; photographs of small sets are read only once."""
    if dataset == "scenes":
        return Scenes("train", length=images)
    limit = LIMIT if dataset in PHOTOGRAPHS else 0
    return Remembered(open_dataset(dataset, "train"), Compose(_transforms(dataset)), without, limit)


def random_mirrors(dataset: str) -> Transform:
    """What may happen to a training sample: it is mirrored, and turned in other ways where a set allows it."""
    if dataset not in PHOTOGRAPHS:
        return RandomMirror()
    allowed = PHOTOGRAPHS[dataset]
    return Compose([RandomMirror(), *([RandomUpsideDown()] if allowed.upside_down else []),
                    *([RandomTranspose()] if allowed.transposed else [])])


def open_with_proposals(dataset: str, images: int, count: int, file: Path | None = None) -> WithProposals:
    """The training split with Selective Search's first `count` boxes of each picture; mirrored, with them, at random.

    The search takes a quarter of a second for a scene; `file` keeps what it found.
    """
    data = _open_unchanged(dataset, images, without=("masks",))
    found = WithProposals(data, min(images, len(data)), count).prepare(file)
    found.transform = random_mirrors(dataset)
    return found


def open_for_measuring(dataset: str, split: str, transform: Transform | None = None) -> DetectionDataset:
    """A split at the lessons' size, as it is."""
    data = open_dataset(dataset, split)
    data.transform = Compose([*_transforms(dataset), *([transform] if transform else [])])
    return data


def _transforms(dataset: str) -> list[Transform]:
    """What every picture of a set goes through, in training and after."""
    faint = dataset in PHOTOGRAPHS and PHOTOGRAPHS[dataset].faint
    return [] if dataset == "scenes" else [Resize(side_of(dataset)), *([brighten] if faint else [])]


def measure(model: nn.Module, dataset: str, images: int, transform: Transform | None = None,
            metrics: Metrics = BOXES) -> dict[str, Any]:
    """COCO's numbers on the first `images` of each validation split: "val", and what is not boxes as "val masks"."""
    results: dict[str, Any] = {}
    for split in ("val", "val_unknown") if dataset == "scenes" else ("val",):
        data = open_for_measuring(dataset, split, transform)
        some = Subset(data, range(min(images, len(data))))
        batch_size = 8 if dataset == "scenes" else 1  # a hundred masks of a photograph, in full size, fill memory
        for kind, metric in metrics.items():
            results[split if kind == "boxes" else f"{split} {kind}"] = evaluate(model, some, metric, batch_size)
    return results


def summary(metrics: dict[str, Any]) -> str:
    """One line for each thing measured: AP and AP50."""
    return "\n".join(f"{name:20} AP {m['AP']:.3f}  AP50 {m['AP50']:.3f}" for name, m in metrics.items())
