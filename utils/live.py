"""The loss curve that grows in the notebook while a model trains, and stays there as a picture."""

import html
import time
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate

from lessons.callbacks import Callback, History


class LiveCurve(Callback):
    """Hand it to a trainer: `Trainer(..., callbacks=[LiveCurve()])`. Without a notebook it does nothing.

    The picture is drawn at most every `seconds` seconds, always in the same output of the cell, so that one static PNG
    with alternative text is left at the end.
    """

    def __init__(self, title: str = "Training loss", seconds: float = 2.0):
        self.title, self.seconds = title, seconds
        self.output: str | None = None  # the display's id, once there is one

    def on_start(self, history: History, steps: int) -> None:
        self.active = in_notebook()
        self.steps, self.output = steps, None
        self.history: History = {name: list(column) for name, column in history.items()}
        self.next_drawing = time.monotonic() + self.seconds
        if self.active:  # at once, so that the picture keeps its place above whatever is printed while training
            self._draw(self.history)

    def on_step(self, step: int, losses: Mapping[str, float], lr: float) -> None:
        if not self.active:
            return
        for name, value in {"step": float(step), "lr": lr, **losses}.items():
            self.history.setdefault(name, []).append(value)
        if time.monotonic() >= self.next_drawing:
            self._draw(self.history)
            self.next_drawing = time.monotonic() + self.seconds

    def on_end(self, history: History) -> None:
        if self.active and history:
            self._draw(history)

    def _draw(self, history: History) -> None:
        """Draws and shows; a picture that fails must not cost the training."""
        try:
            picture, words = curve_png(history, self.steps, self.title), describe_curve(history, self.steps)
            self.output = show_png(picture, words, self.output)
        except Exception as error:
            self.active = False
            warnings.warn(f"the loss curve could not be drawn: {error!r}; the training goes on.", stacklevel=2)


def in_notebook() -> bool:
    """Whether this code runs in a Jupyter kernel."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return hasattr(get_ipython(), "kernel")


def show_png(picture: bytes, words: str, output: str | None = None) -> str:
    """Displays a PNG with alternative text `words`, and the words foldable below it, as utils.figures.show does.

    With `output`, in place of what that display showed. Returns the display's id, for the next picture.
    """
    from uuid import uuid4

    from IPython.display import display

    name, update = output or uuid4().hex, output is not None
    details = f"<details><summary>Text description</summary>{html.escape(words)}</details>"
    display({"image/png": picture, "text/plain": words}, raw=True, metadata={"image/png": {"alt": words}},
            display_id=name, update=update)
    display({"text/html": details, "text/plain": ""}, raw=True, display_id=f"{name}-words", update=update)
    return name


def curve_png(history: History, steps: int, title: str = "Training loss") -> bytes:
    """The losses over the steps, each as it was (pale) and smoothed (strong), as a PNG."""
    from matplotlib.figure import Figure

    from utils.figures import PALETTE, png_bytes

    figure = Figure(figsize=(8.0, 3.6))
    axes = figure.add_subplot()
    axes.set(title=title, xlabel="step", ylabel="loss", xlim=(0, max(1, steps - 1)))
    axes.grid(alpha=0.3)
    names = _shown(history)
    for name, colour in zip(names, PALETTE, strict=False):
        axes.plot(history["step"], history[name], color=colour, alpha=0.25, linewidth=1)
        axes.plot(history["step"], smooth(history[name]), color=colour, linewidth=2, label=name)
    if names:
        axes.set_ylim(bottom=min(0.0, *(min(history[name]) for name in names)))
        axes.legend(loc="upper right")
    return png_bytes(figure)


def describe_curve(history: History, steps: int) -> str:
    """The curve in words, for those who do not see it."""
    parts = [f"{name} from {values[0]:.3g} to {values[-1]:.3g}"
             for name in _shown(history) if (values := smooth(history[name]))]
    done = len(history.get("step", ()))
    return f"Loss curve over {done} of {steps} training steps" + (f", smoothed: {'; '.join(parts)}." if parts else ".")


def smooth(values: Sequence[float]) -> list[float]:
    """The mean over a window around each value, a twentieth of the curve wide; cut off at the ends."""
    half, last = max(1, len(values) // 40), len(values)
    sums = [0.0, *accumulate(values)]
    windows = [(max(0, i - half), min(last, i + half + 1)) for i in range(last)]
    return [(sums[end] - sums[start]) / (end - start) for start, end in windows]


def _shown(history: History) -> list[str]:
    """The losses worth a line: their sum, and the parts where there are several; six at most."""
    if not history.get("loss"):
        return []
    parts = [name for name in history if name not in ("step", "lr", "loss")]
    return ["loss", *parts][:6] if len(parts) > 1 else ["loss"]
