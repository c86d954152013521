"""What all widgets are made of: their script and style, the picture they lie on, and errors that are seen."""

import base64
import io
from collections.abc import Callable
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


def shows_errors(method: Method) -> Method:
    """For callbacks: an exception becomes the widget's `error` sentence, since a notebook would swallow it."""

    @wraps(method)
    def guarded(self: "LessonWidget", *arguments: Any) -> Any:
        try:
            result = method(self, *arguments)
            self.error = ""
            return result
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
