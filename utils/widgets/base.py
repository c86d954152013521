"""What all widgets are made of: script and style, the picture they lie on, scores on a slider, errors that are seen."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import anywidget
import torch
import traitlets
from PIL import Image
from torch import Tensor

FOLDER = Path(__file__).parent
Method = TypeVar("Method", bound=Callable[..., Any])


def script(name: str) -> str:
    """The widget's JavaScript with what all of them share in front: an anywidget module stands alone."""
    return (FOLDER / "shared.js").read_text(encoding="utf-8") + (FOLDER / f"{name}.js").read_text(encoding="utf-8")


def style() -> str:
    """The style sheet of all widgets."""
    return (FOLDER / "shared.css").read_text(encoding="utf-8")


def data_url(image: Tensor) -> str:
    """A photograph (3, H, W) in [0, 1] as a PNG data URL, so that a widget needs no server and no file."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image of shape {tuple(image.shape)}: want (3, H, W).")
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def decimals(scores: Tensor) -> list[float]:
    """Scores (N,) as the shortest decimal numbers that stand for them in their own precision.

    0.7 in float32 is 0.699999988 in float64, which would lie below a threshold of 0.7. Raises ValueError for a score
    that is not finite, since a slider has ends.
    """
    if not scores.isfinite().all():
        raise ValueError(f"score {scores[~scores.isfinite()][0].item()} is not finite.")
    return [_shortest(score) for score in scores.detach().cpu()]


def _shortest(score: Tensor) -> float:
    exact = score.item()
    rounded = (float(f"{exact:.{digits}g}") for digits in range(1, 18))
    return next((short for short in rounded if torch.tensor(short, dtype=score.dtype).item() == exact), exact)


def slider_range(values: Sequence[float]) -> dict[str, float]:
    """Ends and step of a slider over scores, as traits: a round step, every value inside, the highest below the top.

    30 to 320 steps wide, so that an arrow key is a small change. Without values, 0 to 1 in steps of 0.01.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    digits = 2 - round(math.log10(high - low)) if high > low else 2  # decimals of a step of about 1 %
    step = 10.0**-digits
    lowest, highest = math.floor(low / step + 1e-6), math.floor(high / step + 1e-6) + 1
    return {"lowest": round(lowest * step, max(digits, 0)), "highest": round(highest * step, max(digits, 0)),
            "score_step": round(step, max(digits, 0))}


def shows_errors(method: Method) -> Method:
    """For callbacks: an exception becomes the widget's `error` sentence, since a notebook would swallow it.

    What a callback changes reaches the page in one message: a reader never sees a new number beside an old sentence.
    """

    @wraps(method)
    def guarded(self: "LessonWidget", *arguments: Any) -> Any:
        with self.hold_sync():
            self.error = ""
            try:
                return method(self, *arguments)
            except Exception as error:  # whatever went wrong, the reader must see it
                self.error = f"{type(error).__name__}: {error}"
                return None

    return guarded  # type: ignore[return-value]


class LessonWidget(anywidget.AnyWidget):
    """A widget on a photograph (3, H, W); `size` is its (width, height) in pixels."""

    _css = style()
    image = traitlets.Unicode("").tag(sync=True)
    size = traitlets.List([100, 100]).tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor | None = None, **traits: Any) -> None:
        if image is not None:
            traits |= {"image": data_url(image), "size": [image.shape[2], image.shape[1]]}
            self._pixels = image
        super().__init__(**traits)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: run this cell in JupyterLab to use it; a still picture follows."
