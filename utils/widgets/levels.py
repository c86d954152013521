"""The level explorer: on which map of a feature pyramid a box is looked at, and how many cells it has on each."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import traitlets
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lessons.roi import pyramid_levels
from utils.figures import ORANGE, VERMILLION, draw_boxes, images_figure
from utils.widgets.base import LessonWidget, script, shows_errors
from utils.widgets.boxes import checked_box


def covered_cells(box: Sequence[float], stride: int, size: Sequence[int]) -> list[int]:
    """The cells that a box touches on a map, as columns and rows [from, from, to, to], the ends not counted.

    box xyxy pixels; size: (width, height) of the picture; a box without area lies in one cell.
    """
    first = [min(int(box[axis] // stride), math.ceil(size[axis] / stride) - 1) for axis in (0, 1)]
    last = [min(max(math.ceil(box[axis + 2] / stride), first[axis] + 1), math.ceil(size[axis] / stride))
            for axis in (0, 1)]
    return first + last


class LevelExplorer(LessonWidget):
    """A box to drag over a photograph, and the level of a pyramid that its size sends it to (FPN, equation 1).

    image (3, H, W); box xyxy pixels; strides: of the levels, powers of two, finest first. A box of `canonical_size`
    pixels a side belongs to `canonical_level`, whose stride is 2^canonical_level. `level` is the chosen one's name,
    as P3. Raises ValueError for a malformed box and for other strides.
    """

    _esm = script("levels")
    box = traitlets.List(traitlets.Float()).tag(sync=True)
    canonical_size = traitlets.Int(224).tag(sync=True)
    levels = traitlets.List().tag(sync=True)
    level = traitlets.Unicode("").tag(sync=True)
    equation = traitlets.Unicode("").tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, box: Sequence[float], strides: Sequence[int] = (4, 8, 16, 32),
                 canonical_size: int = 224, canonical_level: int = 4) -> None:
        pyramid_levels(torch.zeros(0, 4), strides)  # says what is wrong before anything is drawn
        self._strides, self._canonical_level = tuple(strides), canonical_level
        super().__init__(image, box=checked_box(box), canonical_size=canonical_size)
        self._assign()
        self.observe(self._assign, ["box", "canonical_size"])

    @shows_errors
    def _assign(self, change: Any = None) -> None:
        box = checked_box(self.box)
        chosen = int(pyramid_levels(torch.tensor([box], dtype=torch.float64), self._strides, self.canonical_size,
                                    self._canonical_level))
        self.levels = [{"name": f"P{round(math.log2(stride))}", "stride": stride, "chosen": number == chosen,
                        "cells": covered_cells(box, stride, self.size)}
                       for number, stride in enumerate(self._strides)]
        self.level = self.levels[chosen]["name"]
        self.equation = self._equation()
        self.message = self._sentence(chosen)

    def _equation(self) -> str:
        """Equation 1 with the numbers put in."""
        width, height = self.box[2] - self.box[0], self.box[3] - self.box[1]
        if not width * height:
            return "The box has no area, and log₂ 0 is −∞: it goes to the finest level."
        side = math.sqrt(width * height)
        exact = self._canonical_level + math.log2(side / self.canonical_size)
        level = math.floor(exact + 1e-6)
        limited = "" if f"P{level}" == self.level else f", limited to {self.level}"
        return (f"k = ⌊{self._canonical_level} + log₂(√({width:.0f} · {height:.0f}) / {self.canonical_size})⌋ = "
                f"⌊{self._canonical_level} + log₂({side:.1f} / {self.canonical_size})⌋ = "
                f"⌊{exact:.2f}⌋ = {level}{limited}".replace("-", "−"))

    def _sentence(self, chosen: int) -> str:
        left, top, right, bottom = self.levels[chosen]["cells"]
        return (f"The box goes to {self.level}, stride {self._strides[chosen]}: it touches {right - left} × "
                f"{bottom - top} cells there.")

    def static(self) -> Figure:
        """The box and its cells on every level as a still figure."""
        titles = [f"{row['name']}, stride {row['stride']}" + (": here" if row["chosen"] else "") for row in self.levels]
        figure, axes = images_figure([self._pixels] * len(titles), titles)
        for ax, row in zip(axes, self.levels, strict=True):
            stride = row["stride"]
            left, top, right, bottom = (end * stride for end in row["cells"])
            ax.add_patch(Rectangle((left, top), right - left, bottom - top, color=ORANGE, alpha=0.45, linewidth=0))
            for axis, line in ((0, ax.axvline), (1, ax.axhline)):
                for place in range(0, self.size[axis] + 1, stride):
                    line(place, color="white", linewidth=0.5, alpha=min(0.7, 14 * stride / max(self.size)))
            draw_boxes(ax, torch.tensor([self.box]), colors=[VERMILLION if row["chosen"] else "#FFFFFF"])
        figure.suptitle(self.equation, fontsize=13)
        return figure
