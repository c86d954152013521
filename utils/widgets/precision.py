"""The precision-recall explorer: a ranked list, a threshold, and the area under a curve in three protocols."""

from typing import Any

import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from lessons.metrics import READINGS, average_precision, precision_recall
from utils.figures import BLUE, VERMILLION, draw_precision_recall, finish_axes, new_figure
from utils.widgets.base import LessonWidget, decimals, script, shows_errors, slider_range

PROTOCOLS = {"voc07": "VOC 2007, 11 points", "voc": "VOC 2010, exact area", "coco": "COCO, 101 points"}


class PrecisionRecallExplorer(LessonWidget):
    """Ten or so detections by score, to be cut anywhere and turned from right to wrong.

    scores (N,); matched (N,) bool, whether the detection found an object; num_ground_truth: objects there are.
    `counts` holds, for each number of detections above the threshold, what is right, wrong and missed, and precision
    and recall; what is not defined (0 / 0) is None. Raises ValueError as `lessons.metrics.precision_recall`.
    """

    _esm = script("precision")
    scores = traitlets.List(traitlets.Float()).tag(sync=True)
    matched = traitlets.List(traitlets.Bool()).tag(sync=True)
    num_ground_truth = traitlets.Int().tag(sync=True)
    threshold = traitlets.Float(0.5).tag(sync=True)
    lowest = traitlets.Float(0).tag(sync=True)
    highest = traitlets.Float(1).tag(sync=True)
    score_step = traitlets.Float(0.01).tag(sync=True)
    protocol = traitlets.Enum(list(PROTOCOLS), "voc").tag(sync=True)
    protocols = traitlets.Dict(PROTOCOLS).tag(sync=True)
    flip = traitlets.Int(-1).tag(sync=True)
    precision = traitlets.List().tag(sync=True)
    recall = traitlets.List().tag(sync=True)
    readings = traitlets.List().tag(sync=True)
    counts = traitlets.List().tag(sync=True)
    average = traitlets.Float(None, allow_none=True).tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, scores: Tensor, matched: Tensor, num_ground_truth: int, threshold: float = 0.5,
                 protocol: str = "voc") -> None:
        precision_recall(scores, matched, num_ground_truth)  # says what is wrong before anything is drawn
        order = scores.argsort(descending=True, stable=True)
        ranked = decimals(scores[order])
        super().__init__(None, scores=ranked, matched=matched[order].bool().tolist(), protocol=protocol,
                         num_ground_truth=num_ground_truth, threshold=threshold, **slider_range([*ranked, threshold]))
        self._compute()
        self.observe(self._compute, ["matched", "protocol"])
        self.observe(self._turn, "flip")

    @shows_errors
    def _compute(self, change: Any = None) -> None:
        scores = torch.tensor(self.scores, dtype=torch.float64)
        matched = torch.tensor(self.matched, dtype=torch.bool)
        precision, recall = precision_recall(scores, matched, self.num_ground_truth)
        self.counts = self._count(precision, recall)
        self.precision = precision.tolist()
        self.recall = recall.tolist() if self.num_ground_truth else []
        self.readings = self._read(precision, recall) if self.num_ground_truth else []
        average = average_precision(scores, matched, self.num_ground_truth, self.protocol)
        self.average = average.item() if self.num_ground_truth else None
        self.message = "" if self.num_ground_truth else (
            "There are no objects: nothing can be found, so recall and average precision are not defined.")

    def _count(self, precision: Tensor, recall: Tensor) -> list[dict[str, float | None]]:
        """What the first 0, 1, 2, ... detections amount to."""
        objects = self.num_ground_truth
        rows: list[dict[str, float | None]] = [
            {"tp": 0, "fp": 0, "fn": objects, "precision": None, "recall": 0.0 if objects else None}]
        for seen, (share, found) in enumerate(zip(precision.tolist(), recall.tolist(), strict=True), start=1):
            right = round(share * seen)
            rows.append({"tp": right, "fp": seen - right, "fn": objects - right, "precision": share,
                         "recall": found if objects else None})
        return rows

    def shown(self) -> int:
        """How many detections have a score of at least the threshold."""
        return sum(score >= self.threshold for score in self.scores)

    def _read(self, precision: Tensor, recall: Tensor) -> list[list[float]]:
        """Where the protocol reads the envelope: pairs of recall and precision."""
        if self.protocol not in READINGS:
            return []
        envelope = torch.cat([precision.flip(0).cummax(0).values.flip(0), precision.new_zeros(1)])
        points = READINGS[self.protocol]
        return torch.stack([points, envelope[torch.searchsorted(recall, points)]], dim=1).tolist()

    @shows_errors
    def _turn(self, change: Any) -> None:
        index, self.flip = self.flip, -1
        if index < 0:
            return
        turned = [not hit if i == index else hit for i, hit in enumerate(self.matched)]
        if sum(turned) > self.num_ground_truth:
            raise ValueError(f"there are only {self.num_ground_truth} objects, and each can be found once.")
        self.matched = turned

    def static(self) -> Figure:
        """List and curve at the present threshold as a still figure."""
        figure, axes = new_figure(columns=2, width=5, height=3.8)
        ranks = range(len(self.scores))
        colors = [BLUE if hit else VERMILLION for hit in self.matched]
        bars = axes[0, 0].barh(ranks, self.scores, color=colors)
        for bar, hit in zip(bars, self.matched, strict=True):
            bar.set_hatch("" if hit else "//")
        axes[0, 0].set_yticks(ranks, ["right" if hit else "wrong" for hit in self.matched])
        axes[0, 0].invert_yaxis()
        axes[0, 0].axvline(self.threshold, color="black", linestyle="--")
        finish_axes(axes[0, 0], "score", "", "Detections by score; dashed: threshold", legend=False)
        if self.average is None:
            axes[0, 1].text(0.5, 0.5, "no objects: recall and AP\nare not defined", ha="center", fontsize=14)
            axes[0, 1].axis("off")
            return figure
        ax = draw_precision_recall(axes[0, 1], torch.tensor(self.precision), torch.tensor(self.recall))
        if shown := self.shown():
            ax.plot(self.recall[shown - 1], self.precision[shown - 1], "o", markersize=14, fillstyle="none",
                    color="black", label="at the threshold")
        finish_axes(ax, "recall", "precision", f"{PROTOCOLS[self.protocol]}: AP {self.average:.3f}")
        return figure
