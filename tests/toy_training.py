"""A small training for the tests, also run as a script by several processes: `torchrun toy_training.py FOLDER MODE`."""

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lessons.resume import optimizer_tensors
from lessons.schedules import cosine
from lessons.training import Callback, Trainer


class Blobs(Dataset):
    """Three classes of noisy 8 x 8 pictures. The noise comes from all three global generators, as transforms' would."""

    def __init__(self, length: int = 37, noise: float = 0.1):
        self.length, self.noise = length, noise
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        self.read.append(index)
        image = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index))
        image[index % 3] += 1.0
        noise = torch.randn(3, 8, 8) + np.random.standard_normal() + random.random()  # noqa: NPY002
        return image + self.noise * noise, {"labels": torch.tensor([index % 3])}


class Net(nn.Module):
    """A classifier with everything that makes resuming hard: dropout, batch normalisation, momentum to come."""

    def __init__(self, dropout: float = 0.3, norm: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(8, 3)

    def forward(self, images: list[Tensor], targets: list[dict]) -> dict[str, Tensor]:
        features = self.norm(self.conv(torch.stack(images))).relu().mean((2, 3))
        scores = self.linear(self.dropout(features))
        labels = torch.cat([target["labels"] for target in targets])
        return {"classifier": nn.functional.cross_entropy(scores, labels), "size": 0.01 * scores.square().mean()}


class At(Callback):
    """Calls a function after one step."""

    def __init__(self, step: int, action):
        self.step, self.action = step, action

    def on_step(self, step, losses, lr):
        if step == self.step:
            self.action()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def make_trainer(model: nn.Module | None = None, sgd: bool = False, **settings) -> Trainer:
    """A training of 20 steps, the same at every call but for `settings`."""
    if model is None:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            model = Net()
    if sgd:
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    defaults = {"dataset": Blobs(), "batch_size": 8, "steps": 20, "schedule": cosine(20, warmup=3), "clip_norm": 1.0,
                "save_every": 7, "device": "cpu", "progress": False}
    return Trainer(model, optimizer, **{**defaults, **settings})


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    """All tensors that a training ends with, and its history."""
    optimizer, _ = optimizer_tensors(trainer.optimizer)
    return {**{f"model {k}": v for k, v in trainer.model.state_dict().items()},
            **{f"optimizer {k}": v for k, v in optimizer.items()},
            **({f"average {k}": v for k, v in trainer.average.tensors.items()} if trainer.average else {}),
            **{f"history {k}": torch.tensor(v, dtype=torch.float64) for k, v in trainer.history.items()}}


def assert_identical(first: Trainer, second: Trainer) -> None:
    """Both ended with the same tensors, to the last bit."""
    a, b = everything(first), everything(second)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert different == []


def main(folder: Path, *modes: str) -> None:
    """One of several processes: trains once for each mode, one after the other."""
    for mode in modes:
        run_one(folder / mode, mode, rank=int(os.environ.get("RANK", 0)))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run_one(folder: Path, mode: str, rank: int) -> None:
    """Writes what this process saw and got to `folder`/RANK.pt.

    mode: "whole"; "twice", a second training of the same model; "interrupted" or "nan", what happens to process 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(100 + rank)  # each process begins with other weights; those of the first must win
    model = Net(dropout=0.0, norm=False)
    trainer = make_trainer(model, steps=6, schedule=cosine(6), folder=folder / "state", ema_decay=0.9, sgd=True,
                           callbacks=[At(0, (folder / f"called-{rank}").touch)])
    if rank == 1:  # what happens here the other can only be told
        trainer.dataset = {"interrupted": InterruptedBlobs(), "nan": NanBlobs()}.get(mode, trainer.dataset)
    outcome = "done"
    try:
        trainer.run()
        if mode == "twice":
            first, trainer = trainer, make_trainer(model, steps=6, schedule=cosine(6), ema_decay=0.9, sgd=True, seed=1)
            trainer.run()
            del first  # only now: it was there all the time, as it would be in a notebook
    except (KeyboardInterrupt, FloatingPointError) as error:
        outcome = f"{type(error).__name__}: {error}"
    torch.save({"outcome": outcome, "done": trainer.done, "read": trainer.dataset.read, "history": trainer.history,
                "model": model.state_dict(), "average": trainer.average.tensors,
                "gradient": {name: p.grad for name, p in model.named_parameters()}}, folder / f"{rank}.pt")


class InterruptedBlobs(Blobs):
    def __getitem__(self, index: int):
        if len(self.read) == 10:  # in the third step of a process that reads four samples a step
            interrupt()
        return super().__getitem__(index)


class NanBlobs(Blobs):
    def __getitem__(self, index: int):
        image, target = super().__getitem__(index)
        return (image * float("nan") if len(self.read) == 10 else image), target


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
