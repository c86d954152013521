"""What follows a training from outside: the progress bar, and whatever else wants to be told of every step."""

import math
import sys
from collections.abc import Mapping

from tqdm import tqdm

History = dict[str, list[float]]  # "step", "lr", "loss" (the sum) and every loss by its name; one entry per step


class Callback:
    """Base of the followers: a subclass overrides what it needs. Only the main process calls them."""

    def on_start(self, history: History, steps: int) -> None:
        """Before the first step of `steps`; `history` is empty, or holds what went before a resumption."""

    def on_step(self, step: int, losses: Mapping[str, float], lr: float) -> None:
        """After step `step` (from 0): its losses, with their sum as "loss", and the learning rate it was taken with."""

    def on_end(self, history: History) -> None:
        """After the last step, also where the training was interrupted or failed."""


class ProgressBar(Callback):
    """A line of text: the share done, the time left, the loss (smoothed over about 20 steps), the learning rate."""

    def on_start(self, history: History, steps: int) -> None:
        self.loss = float("nan")
        for loss in history.get("loss", ()):
            self._smooth(loss)
        done = len(history.get("step", ()))
        # a log file gets a line now and then, a screen sees the bar move
        seconds = 0.5 if sys.stdout.isatty() else 2.0
        self.bar = tqdm(total=steps, initial=done, desc="training", file=sys.stdout, ascii=True, ncols=100,
                        mininterval=seconds, maxinterval=30.0)

    def on_step(self, step: int, losses: Mapping[str, float], lr: float) -> None:
        self._smooth(losses["loss"])
        self.bar.set_postfix_str(f"loss {self.loss:.4g}, lr {lr:.2g}", refresh=False)
        self.bar.update()

    def on_end(self, history: History) -> None:
        self.bar.close()

    def _smooth(self, loss: float) -> None:
        self.loss = loss if math.isnan(self.loss) else 0.95 * self.loss + 0.05 * loss
