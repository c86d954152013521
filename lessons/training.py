"""The training loop of every lesson, and the command `python -m lessons.training LESSON`.

One step is the same in all of them: take a batch, compute the losses, follow their gradient a little way downhill.
`Trainer.train_step` is that step and `Trainer.run` repeats it; the rest keeps hours of computing from being lost.
Hugging Face accelerate lets the same code run on one processor, on several GPUs or machines (`accelerate launch`) and
in mixed precision.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lessons.averaging import MovingAverage
from lessons.callbacks import Callback, History, ProgressBar
from lessons.checkpoints import CheckpointError, Tensors, load_strictly
from lessons.data.sample import collate
from lessons.evaluation import evaluate, move
from lessons.interrupt import StopRequest, TrainingInterrupted
from lessons.order import BatchPositions, SampleStream, batch_loader, derive_seed, own_random_state, seed_everything
from lessons.resume import join, load_optimizer, load_state, optimizer_tensors, part, remove_states, save_state
from lessons.schedules import Schedule, constant
from lessons.settings import check_same_settings, check_settings, open_accelerator, training_settings

__all__ = ["Callback", "History", "Trainer", "TrainingInterrupted", "evaluate"]


@dataclass(eq=False)
class Trainer:
    """Trains `model` for `steps` steps; on one device, the same settings and seed give the same result.

    The model follows torchvision's convention: in training mode `model(images, targets)` returns a dict of scalar
    losses, whose sum is minimised. (`model(*collate(samples))`, to be exact: another `collate` makes other inputs.)

        trainer = Trainer(model, optimizer, dataset, steps=800, schedule=cosine(800, warmup=50), folder="runs/mine")
        history = trainer.run()                # and after an interruption: trainer.run(resume=True)

    Raises ValueError, one sentence, for settings that make no sense.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    dataset: Dataset
    batch_size: int = 8  # samples per step, over all processes together
    steps: int = 800
    schedule: Schedule = constant()
    clip_norm: float | None = None  # the longest gradient (L2 norm over all parameters) to follow; None: any
    ema_decay: float | None = None  # also keep a moving average of the weights, e.g. with 0.999; None: none
    mixed_precision: str = "no"  # or "bf16", or on a GPU "fp16"
    folder: str | Path | None = None  # where the training's state is saved; None: nowhere
    save_every: int = 200  # steps
    seed: int = 0
    collate: Callable[[list], Any] = collate
    workers: int = 0  # further processes that read samples; they change the speed, not the result
    device: str | torch.device | None = None  # "cpu", "cuda" or "mps"; None: the fastest there is
    before_step: Callable[[int], None] | None = None  # told of each step, in every process: may change the model
    notes: Mapping[str, Any] = field(default_factory=dict)  # what else decides the result; compared on resuming
    callbacks: Sequence[Callback] = ()
    progress: bool = True

    def __post_init__(self) -> None:
        check_settings(self)
        self.folder = None if self.folder is None else Path(self.folder)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.settings = training_settings(self)
        self._begin()

    def _begin(self) -> None:
        """Step 0: nothing done, nothing measured, nothing saved."""
        self.done = 0  # steps taken
        self.seconds: float = 0.0  # that they took
        self.clock: float = time.perf_counter()
        self.history: History = {}
        self.saved: int | None = None  # the step of the newest saved state
        self.average: MovingAverage | None = None

    # --- the loop ------------------------------------------------------------------------------------------------

    def run(self, resume: bool = False) -> History:
        """Trains up to `steps`, from the model as it is or, with `resume`, from the newest state saved in `folder`.

        Returns the history: lists "step", "lr", "loss" (the sum) and each loss by its name. Without `resume`, states
        that an earlier training left in the folder are removed. After Ctrl-C or "interrupt kernel" the current step
        is finished, the state saved, and TrainingInterrupted raised. Raises FloatingPointError where a loss or the
        gradient is NaN or infinite, ValueError where the saved training had other settings.
        """
        with self._opened(), StopRequest() as stop:
            self._restore() if resume else self._restart()
            with self._followed():
                try:
                    self._repeat(stop)
                except KeyboardInterrupt:
                    raise TrainingInterrupted(self._where_it_stands()) from None
        return self.history

    def _repeat(self, stop: StopRequest) -> None:
        """Steps, until all are done or somebody asks to stop, with the state saved now and then."""
        for batch in self._batches():
            self.train_step(batch)
            stopping = self._in_any_process(stop.requested)
            if stopping or self.done % self.save_every == 0 or self.done == self.steps:
                self._save()
            if stopping:
                raise KeyboardInterrupt

    def train_step(self, batch: Sequence) -> None:
        """One step of gradient descent. batch: what the model is called with, (images, targets)."""
        self._seed()
        rate = self._set_learning_rate()
        if self.before_step:
            self.before_step(self.done)

        losses = self.parallel_model(*move(batch, self.accelerator.device))
        values = self._check_losses(losses)
        self.parallel_optimizer.zero_grad()
        self.accelerator.backward(sum(losses.values()))
        self._clip_gradient()
        self.parallel_optimizer.step()

        if self.average:
            self.average.update(self.model, self.done)
        self._record(values, rate)

    def trained_model(self) -> nn.Module:
        """The model to evaluate and to keep: a copy with the averaged weights where there are any, else the model."""
        return self.average.applied_to(self.model) if self.average else self.model

    @property
    def is_main_process(self) -> bool:
        """Whether it is up to this process to write files: true for the first of several, and for the only one."""
        return int(os.environ.get("RANK", 0)) == 0

    # --- the parts of a step -------------------------------------------------------------------------------------

    def _seed(self) -> None:
        """Random numbers that belong to this step, for dropout and the like; other ones in each process."""
        seed = derive_seed(self.seed, "step", self.done, self.accelerator.process_index)
        seed_everything(seed, self.accelerator.device)

    def _set_learning_rate(self) -> float:
        factor = self.schedule(self.done)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        return self.rates[0] * factor

    def _check_losses(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """The losses as numbers, averaged over the processes, with their sum as "loss"; all of them must be finite."""
        shared = torch.stack([loss.detach().float() for loss in losses.values()])
        shared = self.accelerator.reduce(shared, "mean")  # also a NaN: every process learns of it and stops
        values = dict(zip(losses, shared.tolist(), strict=True))
        bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(f"Training stopped at step {self.done}: {', '.join(bad)}. {self._what_is_saved()}")
        return {"loss": sum(values.values()), **values}

    def _clip_gradient(self) -> None:
        """Shortens the gradient to clip_norm; refuses one that is not finite (its loss can be finite all the same)."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm or math.inf)
        # with fp16 the scaler meets infinite gradients now and then, skips the step and lowers its scale
        if self.accelerator.scaler is None and not math.isfinite(norm):
            raise FloatingPointError(f"Training stopped at step {self.done}: the losses are finite but the gradient's "
                                     f"norm is {float(norm)}. {self._what_is_saved()}")

    def _record(self, values: Mapping[str, float], rate: float) -> None:
        row = {"step": self.done, "lr": rate, **values}
        if self.history and list(row) != list(self.history):
            raise ValueError(f"the model's losses changed from {list(self.history)[2:]} to {list(values)}.")
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)
        for callback in self.followers:
            callback.on_step(self.done, values, rate)
        self._take_time()
        self.done += 1

    def _take_time(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self.clock
        self.clock = now

    # --- what stands around the loop -----------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Model and optimiser on their device, shared among the processes; random state and learning rates put back."""
        self.accelerator = open_accelerator(self.device, self.mixed_precision)
        # wrapped, so that what accelerate does to a module for mixed precision is not done to the reader's model
        self.parallel_model, self.parallel_optimizer = self.accelerator.prepare(Losses(self.model), self.optimizer)
        self.model.train()
        with own_random_state(self.accelerator.device):
            try:
                yield
            finally:
                # lets go of the model, which another training may share next
                del self.parallel_model, self.parallel_optimizer, self.accelerator
                for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                    group["lr"] = rate

    @contextmanager
    def _followed(self) -> Iterator[None]:
        """The callbacks hear of start and end; in the main process only."""
        bar = [ProgressBar()] if self.progress else []
        self.followers: list[Callback] = [*self.callbacks, *bar] if self.accelerator.is_main_process else []
        self.clock = time.perf_counter()
        for callback in self.followers:
            callback.on_start(self.history, self.steps)
        try:
            yield
        finally:
            for callback in self.followers:
                callback.on_end(self.history)

    def _batches(self) -> DataLoader:
        """The batches of the steps that are left."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        positions = BatchPositions(self.done, self.steps, self.batch_size, rank, world)
        return batch_loader(SampleStream(self.dataset, self.seed), positions, self.collate, self.workers)

    def _in_any_process(self, flag: bool) -> bool:
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum") > 0)

    # --- saving and resuming -------------------------------------------------------------------------------------

    def _restart(self) -> None:
        self._begin()
        self.average = MovingAverage(self.model, self.ema_decay) if self.ema_decay else None
        if isinstance(self.folder, Path) and self.accelerator.is_main_process:
            remove_states(self.folder)
        self._save()

    def _restore(self) -> None:
        """Model, optimiser, average, history and position as the newest saved state has them; all processes alike."""
        if not isinstance(self.folder, Path):
            raise ValueError("to resume, the trainer needs the folder of the saved training: Trainer(..., folder=...).")
        with self.accelerator.main_process_first():  # it alone sets a damaged state aside
            found = load_state(self.folder)
        if found is None:
            self._restart()
        else:
            self._load(*found)
        steps = self.accelerator.gather(torch.tensor([self.done], device=self.accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise CheckpointError(f"The processes found states of steps {steps}; all must see the same {self.folder}.")

    def _load(self, tensors: Tensors, notes: dict[str, Any]) -> None:
        check_same_settings(notes["settings"], self.settings, self.folder)
        load_strictly(self.model, part(tensors, "model"), f"The training saved in {self.folder}")
        load_optimizer(self.optimizer, part(tensors, "optimizer"), notes["optimizer"])
        if self.ema_decay:
            self.average = MovingAverage(self.model, self.ema_decay)
            self.average.load(part(tensors, "average"))
        if self.accelerator.scaler and notes["scaler"]:
            self.accelerator.scaler.load_state_dict(notes["scaler"])
        columns = part(tensors, "history")
        self.history = {name: columns[name].tolist() for name in notes["history"]}
        self.done = self.saved = notes["done"]
        self.seconds = notes["seconds"]

    def _save(self) -> None:
        """Saves all that the rest of the training depends on; the main process writes."""
        if not isinstance(self.folder, Path):
            return
        if self.accelerator.is_main_process:
            optimizer, numbers = optimizer_tensors(self.optimizer)
            average = self.average.tensors if self.average else {}
            history = {name: torch.tensor(column, dtype=torch.float64) for name, column in self.history.items()}
            tensors = join(model=self.model.state_dict(), optimizer=optimizer, average=average, history=history)
            scaler = self.accelerator.scaler
            notes = {"done": self.done, "seconds": self.seconds, "settings": self.settings, "optimizer": numbers,
                     "history": list(self.history), "scaler": scaler.state_dict() if scaler else None}
            save_state(self.folder, self.done, tensors, notes)
        self.saved = self.done

    def _where_it_stands(self) -> str:
        return f"Training was interrupted after {self.done} of {self.steps} steps. {self._what_is_saved()}"

    def _what_is_saved(self) -> str:
        if self.saved is None:
            return "Nothing was saved, since no folder was given."
        return (f"The state after {self.saved} steps is saved in {self.folder}; "
                "trainer.run(resume=True), or --resume on the command line, continues from there.")


class Losses(nn.Module):
    """Calls a model and makes sure that what it returns is a dict of losses."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *batch: Any) -> dict[str, Tensor]:
        losses = self.model(*batch)
        if not isinstance(losses, dict) or not losses:
            raise ValueError(f"in training mode the model must return a dict of losses, got {type(losses).__name__}.")
        for name, loss in losses.items():
            if name in ("step", "lr") or (name == "loss" and len(losses) > 1):
                raise ValueError(f"a loss cannot be called {name!r}; the history has that name already.")
            if not isinstance(loss, Tensor) or loss.ndim > 0:
                raise ValueError(f"{name} must be a scalar tensor, got {getattr(loss, 'shape', loss)}.")
        return losses


if __name__ == "__main__":
    from lessons.command import main
    from lessons.memory import keep_freed_memory

    keep_freed_memory()
    sys.exit(main())
