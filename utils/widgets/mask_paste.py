"""From the mask head's small square of probabilities to an outline in the photograph."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lessons.masks import paste_masks
from utils.figures import class_color, draw_boxes, draw_image, draw_masks, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors


def veil_url(mask: Tensor, colour: str, opacity: float = 0.55) -> str:
    """A mask (H, W) bool as a PNG data URL: the colour #rrggbb where it is true, nothing elsewhere."""
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[mask.numpy()] = [*(int(colour[i : i + 2], 16) for i in (1, 3, 5)), round(255 * opacity)]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


class MaskPaste(LessonWidget):
    """A slider over the probabilities of a detection's mask, as the head draws it and pasted into the photograph.

    image (3, H, W); masks (N, M, M) in [0, 1], as `mask_probabilities` gives them; detections: dict(boxes (N, 4) xyxy
    pixels, labels (N,)) of that image; classes: names by label; truth: masks (N, H, W) bool of the same objects, if
    they are known. Raises ValueError where numbers differ or a label has no name.
    """

    _esm = script("mask_paste")
    threshold = traitlets.Float(0.5).tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)
    names = traitlets.List().tag(sync=True)
    colours = traitlets.List().tag(sync=True)
    boxes = traitlets.List().tag(sync=True)
    squares = traitlets.List().tag(sync=True)
    veil = traitlets.Unicode("").tag(sync=True)
    counts = traitlets.Dict().tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, masks: Tensor, detections: Mapping[str, Tensor], classes: Sequence[str],
                 truth: Tensor | None = None) -> None:
        boxes, labels = detections["boxes"], detections["labels"].tolist()
        known = boxes if truth is None else truth
        if masks.ndim != 3 or not len(masks) == len(boxes) == len(labels) == len(known):
            raise ValueError(f"masks of shape {tuple(masks.shape)} for {len(boxes)} boxes and {len(labels)} labels: "
                             "want (N, M, M) for N of each, and as many true masks if there are any.")
        for label in labels:
            if not 0 <= label < len(classes):
                raise ValueError(f"label {label} has no name: there are {len(classes)} names.")
        self._masks, self._truth, self._labels = masks.detach().float(), truth, labels
        self._pasted = paste_masks(self._masks[:, None], boxes, (image.shape[1], image.shape[2]))[:, 0]
        super().__init__(image, boxes=boxes.tolist(), names=[classes[label] for label in labels],
                         colours=[class_color(label) for label in labels],
                         squares=(self._masks * 100).round().int().tolist())
        self._paste_again()
        self.observe(self._paste_again, ["threshold", "chosen"])

    @shows_errors
    def _paste_again(self, change: Any = None) -> None:
        if not self.names:
            self.message = "There are no detections in this picture."
            return
        if not 0 <= self.chosen < len(self.names):
            raise ValueError(f"detection {self.chosen} is not in 0 ... {len(self.names) - 1}.")
        mask = self._mask(self.threshold)
        self.veil = veil_url(mask, self.colours[self.chosen])
        self.counts = {"pixels": int(mask.sum()), "iou": self._iou(mask)}
        self.message = self._sentence()

    def _mask(self, threshold: float) -> Tensor:
        """The chosen detection's mask (H, W); what the box does not hold is never in it."""
        pasted = self._pasted[self.chosen]
        return (pasted >= threshold) & (pasted > 0)

    def _iou(self, mask: Tensor) -> float | None:
        if self._truth is None:
            return None
        truth = self._truth[self.chosen]
        return int((mask & truth).sum()) / max(int((mask | truth).sum()), 1)

    def _sentence(self) -> str:
        side = self._masks.shape[-1]
        x1, y1, x2, y2 = self.boxes[self.chosen]
        words = (f"{self.names[self.chosen]}: {side} × {side} numbers stretched over a box of {x2 - x1:.0f} × "
                 f"{y2 - y1:.0f} pixels; {self.counts['pixels']} pixels reach {self.threshold:.2f}.")
        return words if self.counts["iou"] is None else f"{words} IoU with the true mask {self.counts['iou']:.2f}."

    def static(self) -> Figure:
        """The head's square, and the mask at three thresholds, as a still figure."""
        figure, axes = new_figure(columns=4, width=3.3, height=3.6)
        if not self.names:
            draw_image(axes[0, 0], self._pixels, self.message)
            return figure
        side = self._masks.shape[-1]
        draw_image(axes[0, 0], self._masks[self.chosen], f"the head's {side} × {side} numbers")
        stages = (self.threshold / 2, self.threshold, (1 + self.threshold) / 2)
        for ax, threshold in zip(axes[0, 1:], stages, strict=True):
            mask = self._mask(threshold)
            words = "" if self._truth is None else f", IoU {self._iou(mask):.2f}"
            draw_image(ax, self._pixels, f"threshold {threshold:.2f}{words}")
            draw_masks(ax, mask[None], torch.tensor([self._labels[self.chosen]]))
            draw_boxes(ax, torch.tensor([self.boxes[self.chosen]]), colors=["#FFFFFF"], linestyle="--", linewidth=1.5)
        return figure
