"""How the lessons' shared body is pre-trained: it learns to classify crops of single objects.

What ImageNet's million photographs are to the papers, crops of the embedded photographs are here: every detector from
notebook 03 on begins with this body. It has seen the objects and backgrounds of the training split only.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from lessons.backbones.resnet import ResNet, small_resnet
from lessons.checkpoints import data_hash, load_checkpoint, save_checkpoint
from lessons.data.crops import Crops, stack_crops
from lessons.data.scenes import CLASSES
from lessons.images import normalise
from lessons.order import seeded
from lessons.schedules import cosine
from lessons.training import Trainer
from lessons.zoo import CHECKPOINTS


@dataclass(frozen=True)
class Plan:
    """Different crops, steps of 64 crops, and crops of the validation split to measure on."""

    crops: int
    steps: int
    measured: int


PLANS = {"short": Plan(2000, 60, 200), "full": Plan(60000, 2400, 2000)}
LESSON = CHECKPOINTS / "small_resnet.safetensors"


def build(seed: int = 0, steps: tuple[int, ...] = (1, 2, 2, 2)) -> ResNet:
    """The body, untrained, its first weights drawn from `seed`."""
    with seeded(seed):
        return small_resnet(steps)


class CropClassifier(nn.Module):
    """A body, the mean of its last map, and one linear layer: crops (B, 3, S, S) in [0, 1] -> class scores (B, K).

    In training mode `model(crops, labels (B,))` returns the loss.
    """

    def __init__(self, body: ResNet, num_classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.body, self.fc = body, nn.Linear(body.channels[-1], num_classes)
        nn.init.zeros_(self.fc.weight)  # all classes equally likely at first

    def forward(self, crops: Tensor, labels: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        scores = self.fc(self.body(normalise(crops))[-1].mean(dim=(2, 3)))
        return scores if labels is None else {"loss_crops": F.cross_entropy(scores, labels)}


def train(dataset: str = "scenes", profile: str = "short", resume: bool = False, device: str | None = None,
          seed: int = 0, folder: str | Path | None = None) -> ResNet:
    """Pre-trains the body and returns it, on the CPU; that of the full profile with seed 0 becomes the lessons' own.

    Raises ValueError for another data set than the scenes, whose photographs the crops are made of.
    """
    if dataset != "scenes":
        raise ValueError(f"the body is pre-trained on crops of the scenes, not on {dataset}.")
    plan = PLANS[profile]
    model = CropClassifier(build(seed=seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    crops = Crops(plan.crops, 64, seed=seed)
    trainer = Trainer(model, optimizer, crops, batch_size=64, steps=plan.steps, seed=seed, collate=stack_crops,
                      schedule=cosine(plan.steps, warmup=min(100, plan.steps // 4)), device=device,
                      folder=folder and Path(folder) / "pre_training")
    trainer.run(resume)
    model.to("cpu").eval()
    accuracy = {split: top1(model, Crops(plan.measured, 64, split)) for split in ("val", "val_unknown")}
    print("share of crops classified rightly:", ", ".join(f"{split} {share:.3f}" for split, share in accuracy.items()))
    card = {"seed": seed, "data": data_hash(crops), "plan": asdict(plan), "steps": plan.steps,
            "seconds": round(trainer.seconds), "device": str(device or "fastest"), "metrics": accuracy}
    for path in (folder and Path(folder) / "small_resnet.safetensors", profile == "full" and seed == 0 and LESSON):
        if path:
            save_checkpoint(path, model.body.state_dict(), card, torch.float16)
    return model.body


def top1(model: CropClassifier, crops: Dataset, batch_size: int = 64) -> float:
    """The share of crops whose class has the highest score. The model is in evaluation mode."""
    right = 0
    length = len(crops)  # type: ignore[arg-type]
    with torch.no_grad():
        for start in range(0, length, batch_size):
            pixels, labels = stack_crops([crops[i] for i in range(start, min(start + batch_size, length))])
            right += int((model(pixels).argmax(1) == labels).sum())
    return right / length


def start_from_pre_trained(body: ResNet) -> None:
    """Gives a body of any number of stages the pre-trained weights; a stage keeps them whatever its step.

    Raises CheckpointError where the file is missing or damaged.
    """
    tensors = load_checkpoint(LESSON)[0]
    body.load_state_dict({name: tensors[name] for name in body.state_dict()})
