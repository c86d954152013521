"""The anchor explorer: which anchors learn an object, which background, and which are left out."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from lessons.anchors import anchor_grid
from lessons.boxes import box_iou
from lessons.matching import match_boxes
from utils.figures import GREEN, ORANGE, PURPLE, SKY, draw_boxes, images_figure
from utils.widgets.base import LessonWidget, script, shows_errors

KINDS = ("negative", "ignored", "positive")  # ranked: a cell shows the highest kind of its anchors
COLOURS = {"positive": GREEN, "ignored": ORANGE, "negative": SKY}
RESCUED = PURPLE  # positive only as the best of an object
RATIOS = {"wide": 0.5, "square": 1.0, "tall": 2.0}  # height / width
MOST = 60  # boxes drawn of one kind


class AnchorExplorer(LessonWidget):
    """Anchors on a photograph with its true boxes, and what the two thresholds make of them.

    image (3, H, W); boxes (G, 4) xyxy pixels and names (G,) of the true objects; stride: pixels from cell to cell;
    sizes: square roots of the anchors' areas, pixels, of those offered in `offered`; ratios: names of RATIOS. An anchor
    is positive from IoU `high` with an object, negative below `low`, else ignored; with `best_rule` the best anchors of
    each object are positive, too (lessons.matching.match_boxes). Raises ValueError where names and boxes differ.
    """

    _esm = script("anchors")
    truth = traitlets.List().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    stride = traitlets.Enum(["4", "8", "16", "32"], "16").tag(sync=True)
    sizes = traitlets.List(traitlets.Int()).tag(sync=True)
    offered = traitlets.List(traitlets.Int()).tag(sync=True)
    ratios = traitlets.List(traitlets.Enum(list(RATIOS))).tag(sync=True)
    high = traitlets.Float(0.7).tag(sync=True)
    low = traitlets.Float(0.3).tag(sync=True)
    best_rule = traitlets.Bool(True).tag(sync=True)
    shown = traitlets.Enum(list(KINDS), "positive").tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, boxes: Tensor, names: Sequence[str], stride: int = 16,
                 sizes: Sequence[int] = (32, 64), ratios: Sequence[str] = tuple(RATIOS), high: float = 0.7,
                 low: float = 0.3, best_rule: bool = True, offered: Sequence[int] = (16, 32, 64, 128)) -> None:
        if len(boxes) != len(names):
            raise ValueError(f"{len(boxes)} boxes with {len(names)} names.")
        self._truth = boxes.detach().float().reshape(-1, 4)
        super().__init__(image, truth=self._truth.tolist(), names=list(names), stride=str(stride), sizes=list(sizes),
                         offered=sorted({*offered, *sizes}), ratios=list(ratios), high=high, low=low,
                         best_rule=best_rule)
        self._match_again()
        self.observe(self._match_again, ["stride", "sizes", "ratios", "high", "low", "best_rule"])

    @shows_errors
    def _match_again(self, change: Any = None) -> None:
        if self.low > self.high:
            raise ValueError(f"the lower threshold {self.low:.2f} is above the upper one {self.high:.2f}.")
        anchors, cells = self._anchors()
        overlap = box_iou(self._truth, anchors)
        matches = match_boxes(overlap, self.high, self.low, self.best_rule)
        plain = match_boxes(overlap, self.high, self.low)
        rescued = (matches >= 0) & (plain < 0)
        kinds = (matches == -2) + 2 * (matches >= 0)  # index into KINDS
        self._found = anchors, kinds, rescued
        per_cell = kinds.reshape(math.prod(cells), -1)
        state = {"grid": list(cells), "stride": int(self.stride),
                 "cells": per_cell.amax(dim=1).tolist() if per_cell.numel() else [],
                 "counts": {kind: int((kinds == number).sum()) for number, kind in enumerate(KINDS)},
                 "rescued": int(rescued.sum()), "boxes": {kind: self._drawn(kind) for kind in KINDS},
                 "objects": self._objects(overlap, matches)}
        self.state = state
        self.message = self._sentence(state)

    def _anchors(self) -> tuple[Tensor, tuple[int, int]]:
        """All anchors (N, 4), and the grid's rows and columns; none where no size or no ratio is chosen."""
        stride = int(self.stride)
        cells = math.ceil(self.size[1] / stride), math.ceil(self.size[0] / stride)
        if not self.sizes or not self.ratios:
            return torch.zeros(0, 4), cells
        return anchor_grid(cells, stride, self.sizes, [RATIOS[name] for name in self.ratios]), cells

    def _drawn(self, kind: str) -> list[dict[str, Any]]:
        """At most MOST anchors of a kind, spread over all of them; of the positive ones those of the rule first."""
        anchors, kinds, rescued = self._found
        index = torch.where(kinds == KINDS.index(kind))[0]
        index = torch.cat([index[rescued[index]], index[~rescued[index]]])
        if len(index) > MOST:
            index = index[torch.linspace(0, len(index) - 1, MOST).round().long()]
        return [{"box": anchors[i].tolist(), "rescued": bool(rescued[i])} for i in index.tolist()]

    def _objects(self, overlap: Tensor, matches: Tensor) -> list[dict[str, Any]]:
        """For each object its best IoU with an anchor, and how many anchors learn it."""
        return [{"name": name, "best": max(row.tolist(), default=0.0), "anchors": int((matches == number).sum())}
                for number, (name, row) in enumerate(zip(self.names, overlap, strict=True))]

    def _sentence(self, state: dict[str, Any]) -> str:
        if not sum(state["counts"].values()):
            return "No anchor: choose at least one size and one shape."
        if not self.names:
            return "There is no object: every anchor is negative."
        low = [f"{row['name']} ({row['best']:.2f})" for row in state["objects"] if row["best"] < self.high]
        if not low:
            return f"Every object has an anchor of IoU {self.high:.2f} or more."
        fate = "learnt through their best anchors all the same" if self.best_rule else "learnt by no anchor"
        return f"Without an anchor of IoU {self.high:.2f} (best one): {', '.join(low)}; {fate}."

    def static(self) -> Figure:
        """Positive, ignored and negative anchors side by side as a still figure; true boxes dashed white."""
        anchors, kinds, rescued = self._found
        order = ("positive", "ignored", "negative")
        titles = [f"{kind}: {self.state['counts'][kind]}" for kind in order]
        if self.state["rescued"]:
            titles[0] += f", {self.state['rescued']} by the rule"
        figure, axes = images_figure([self._pixels] * 3, titles, columns=3, width=4)
        for ax, kind in zip(axes, order, strict=True):
            for own, colour in ((False, COLOURS[kind]), (True, RESCUED)):
                boxes = [row["box"] for row in self.state["boxes"][kind] if row["rescued"] == own]
                draw_boxes(ax, torch.tensor(boxes).reshape(-1, 4), colors=[colour], linewidth=1.2)
            draw_boxes(ax, self._truth, colors=["#FFFFFF"], linestyle="--", linewidth=1.5)
        figure.suptitle(f"Stride {self.stride}, positive from IoU {self.high:.2f}, negative below {self.low:.2f}"
                        + ("; purple: the best of an object" if self.state["rescued"] else ""), fontsize=14)
        return figure
