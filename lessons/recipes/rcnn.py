"""How the R-CNN of lesson 02 is trained, as the paper does it, step after step:

    pre_train  ->  the CNN learns to classify single objects (the paper: a million pictures of ImageNet)
    fine_tune  ->  it learns to tell proposals that cover an object from the rest
    fit        ->  SVMs and box regressors are fitted to its features

`train` runs all three and writes the checkpoint; the notebook calls them one by one.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Subset
from tqdm import tqdm

from lessons.backbones.alexnet import SmallAlexNet
from lessons.callbacks import Callback, History
from lessons.checkpoints import data_hash, load_checkpoint, save_checkpoint
from lessons.data.catalogue import open_dataset
from lessons.data.crops import Crops, stack_crops
from lessons.data.proposed import WithProposals
from lessons.data.sample import DetectionDataset
from lessons.data.scenes import CLASSES
from lessons.data.transforms import Resize
from lessons.detectors.rcnn import RCNN
from lessons.detectors.svm_detector import SVMDetector
from lessons.detectors.svm_fitting import describe_regions, set_feature_norms, train_box_regressors, train_svms
from lessons.evaluation import evaluate, move
from lessons.order import seeded
from lessons.schedules import cosine
from lessons.training import Trainer
from lessons.zoo import CHECKPOINTS


@dataclass(frozen=True)
class Plan:
    """How much of everything a profile takes. A crop or an image is drawn again when they run out."""

    crops: int  # different crops to pre-train on
    pre_training_steps: int  # of 64 crops; 0: begin with the CNN that the full profile pre-trained
    images: int  # to fine-tune on
    fine_tuning_steps: int  # of 128 proposals
    fitted: int  # of these images, how many SVMs and box regressors see
    measured: int  # images of each validation split


PLANS = {"short": Plan(2000, 0, 40, 50, 40, 20), "full": Plan(40000, 1600, 2000, 2400, 1000, 200)}
PRE_TRAINED, LESSON = CHECKPOINTS / "rcnn_pretrained.safetensors", CHECKPOINTS / "rcnn.safetensors"
IMAGES_PER_STEP = 8
PROPOSALS = {"scenes": 200, "photographs": 400}  # that are looked at in each image


def build(num_classes: int = len(CLASSES), seed: int = 0) -> RCNN:
    """The lesson's R-CNN, untrained, its first weights drawn from `seed`. num_classes counts the background."""
    with seeded(seed):
        return RCNN(SmallAlexNet(num_classes))


class CropClassifier(nn.Module):
    """The CNN alone, as pre-training sees it: `model(crops (B, 3, S, S) in [0, 1], labels (B,))` gives the loss."""

    mean: Tensor

    def __init__(self, detector: RCNN) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.register_buffer("mean", detector.mean)

    def forward(self, crops: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss_crops": F.cross_entropy(self.backbone(crops - self.mean[:, None, None]), labels)}


def pre_train(model: RCNN, plan: Plan, seed: int = 0, folder: Path | None = None, resume: bool = False,
              device: str | None = None, callbacks: Sequence[Callback] = ()) -> History:
    """Teaches the CNN to classify single objects; also sets the mean colour, which every crop is freed of."""
    crops = Crops(plan.crops, model.backbone.crop_size, seed=seed)
    model.mean.copy_(torch.stack([crops[i][0].mean((1, 2)) for i in range(min(200, len(crops)))]).mean(0))
    classifier = CropClassifier(model)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3, weight_decay=0.01)
    steps = plan.pre_training_steps
    trainer = Trainer(classifier, optimizer, crops, batch_size=64, steps=steps, seed=seed, collate=stack_crops,
                      schedule=cosine(steps, warmup=min(10, steps // 4)), device=device, callbacks=callbacks,
                      folder=folder and folder / "pre_training")
    return trainer.run(resume)


def fine_tune(model: SVMDetector, data: WithProposals, steps: int, seed: int = 0, folder: Path | None = None,
              resume: bool = False, device: str | None = None, callbacks: Sequence[Callback] = ()) -> History:
    """Teaches the CNN to classify proposals, 32 of objects and 96 of background at a time, with a new last layer.

    What requires no gradient (SPPnet's convolutions) stays. Departs from the paper: AdamW at half the learning rate of
    pre-training instead of SGD at a tenth of it; a batch's proposals come from 8 images instead of from all.
    """
    generator = torch.Generator().manual_seed(seed)
    last = model.last_layer
    with torch.no_grad():
        last.weight.copy_(torch.randn(last.weight.shape, generator=generator) * 0.01)
        last.bias.zero_()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4, weight_decay=0.01)
    trainer = Trainer(model, optimizer, data, batch_size=IMAGES_PER_STEP, steps=steps, seed=seed,
                      schedule=cosine(steps, warmup=min(10, steps // 4)), device=device, callbacks=callbacks,
                      folder=folder and folder / "fine_tuning")
    return trainer.run(resume)


def fit(model: SVMDetector, data: WithProposals, count: int | None = None, progress: bool = True) -> None:
    """Fits SVMs and box regressors to the features of the first `count` images, by default all."""
    model.eval()
    device = model.svm_weight.device
    regions = []
    for index in tqdm(range(len(data) if count is None else count), "features", ascii=True, ncols=100, mininterval=1.0,
                      disable=not progress):
        image, target = data[index]
        regions.append(describe_regions(model, *move((image, target), device)))
    set_feature_norms(model, regions)
    train_svms(model, regions)
    train_box_regressors(model, regions)


def start_from_pre_trained(model: RCNN) -> None:
    """Gives the model the CNN that the full profile pre-trained; its last layer, for other classes, is left out.

    Raises CheckpointError where the file is missing or damaged.
    """
    tensors = load_checkpoint(PRE_TRAINED)[0]
    known = {name: tensor for name, tensor in tensors.items() if not name.startswith("backbone.fc8.")}
    model.load_state_dict(model.state_dict() | known)


def save_pre_trained(model: RCNN, card: dict[str, Any]) -> None:
    """Writes the CNN and the mean colour, without SVMs and box regressors, which are fitted later."""
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(("backbone.", "mean"))}
    save_checkpoint(PRE_TRAINED, tensors, card, torch.float16)


def train(dataset: str = "scenes", profile: str = "short", resume: bool = False, device: str | None = None,
          seed: int = 0, folder: str | Path | None = None) -> RCNN:
    """The whole training of a profile; returns the model, measured, on the CPU and in evaluation mode.

    The checkpoint goes into `folder`, where there is one; that of the full profile on the scenes with seed 0 into
    data/checkpoints, as the lesson's. Another set than the scenes begins with the lesson's pre-trained CNN, as R-CNN
    began with one trained on ImageNet.
    """
    plan, began = PLANS[profile], time.perf_counter()
    folder = None if folder is None else Path(folder)
    training = open_small(dataset, "train")
    is_lesson = (dataset, profile, seed) == ("scenes", "full", 0)
    model = build(len(training.classes), seed)
    if dataset == "scenes" and plan.pre_training_steps:
        pre_train(model, plan, seed, folder, resume, device)
        if is_lesson:
            save_pre_trained(model, {"seed": seed, "plan": asdict(plan), "steps": plan.pre_training_steps})
    else:
        start_from_pre_trained(model)
    model.max_proposals = PROPOSALS.get(dataset, PROPOSALS["photographs"])
    data = WithProposals(training, min(plan.images, len(training)), model.max_proposals)
    data.prepare(folder / "proposals.safetensors" if folder and resume else None)
    fine_tune(model, data, plan.fine_tuning_steps, seed, folder, resume, device)
    fit(model, data, min(plan.fitted, len(data)))
    model.to("cpu")
    seconds, metrics = round(time.perf_counter() - began), measure(model, dataset, plan.measured)
    card = {"seed": seed, "data": data_hash(data), "plan": asdict(plan), "steps": plan.fine_tuning_steps,
            "seconds": seconds, "device": str(device or "fastest"), "metrics": metrics}
    print(summary(metrics))
    for path in {folder and folder / "rcnn.safetensors", is_lesson and LESSON}:
        if path:
            save_checkpoint(path, model.state_dict(), card, torch.float16)
    return model


def measure(model: SVMDetector, dataset: str, images: int) -> dict[str, dict[str, float]]:
    """COCO's numbers on the first `images` of each validation split that the set has."""
    splits = ("val", "val_unknown") if dataset == "scenes" else ("val",)
    return {split: evaluate(model, first(open_small(dataset, split), images)) for split in splits}


def open_small(dataset: str, split: str) -> DetectionDataset:
    """A data set for the lesson's small R-CNN: photographs are shrunk to a short side of 240 pixels."""
    data = open_dataset(dataset, split)
    if dataset != "scenes":
        data.transform = Resize(240)
    return data


def adapt(data: WithProposals, steps: int, seed: int = 0, device: str | None = None,
          callbacks: Sequence[Callback] = ()) -> RCNN:
    """A detector for other classes out of the lesson's pre-trained CNN: fine-tuned, fitted, in evaluation mode.

    It looks at as many proposals as `data` holds for each image.
    """
    model = build(len(data.classes), seed)
    model.max_proposals = data.count
    start_from_pre_trained(model)
    fine_tune(model, data, steps, seed, device=device, callbacks=callbacks)
    fit(model, data, progress=False)
    return model


def first(data: DetectionDataset, count: int) -> Subset:
    """The first `count` samples of a data set, or all where there are fewer."""
    return Subset(data, range(min(count, len(data))))


def summary(metrics: dict[str, Any]) -> str:
    """One line per split: AP and AP50."""
    return "\n".join(f"{split:12} AP {m['AP']:.3f}  AP50 {m['AP50']:.3f}" for split, m in metrics.items())
