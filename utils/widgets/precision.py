"""The precision-recall explorer: a ranked list, a threshold, and the area under a curve in three protocols."""

from typing import Any

import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from lessons.metrics import READINGS, average_precision, precision_recall
from utils.figures import BLUE, VERMILLION, draw_precision_recall, finish_axes, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors

PROTOCOLS = {"voc07": "VOC 2007, 11 points", "voc": "VOC 2010, exact area", "coco": "COCO, 101 points"}


class PrecisionRecallExplorer(LessonWidget):
    """Ten or so detections by score, to be cut anywhere and turned from right to wrong.

    scores (N,); matched (N,) bool, whether the detection found an object; num_ground_truth: objects there are.
    Raises ValueError as `lessons.metrics.precision_recall`.
    """

    _esm = script("precision")
    scores = traitlets.List(traitlets.Float()).tag(sync=True)
    matched = traitlets.List(traitlets.Bool()).tag(sync=True)
    num_ground_truth = traitlets.Int().tag(sync=True)
    threshold = traitlets.Float(0.5).tag(sync=True)
    protocol = traitlets.Enum(list(PROTOCOLS), "voc").tag(sync=True)
    protocols = traitlets.Dict(PROTOCOLS).tag(sync=True)
    flip = traitlets.Int(-1).tag(sync=True)
    precision = traitlets.List().tag(sync=True)
    recall = traitlets.List().tag(sync=True)
    readings = traitlets.List().tag(sync=True)
    average = traitlets.Float().tag(sync=True)

    def __init__(self, scores: Tensor, matched: Tensor, num_ground_truth: int, threshold: float = 0.5,
                 protocol: str = "voc") -> None:
        precision_recall(scores, matched, num_ground_truth)  # says what is wrong before anything is drawn
        order = scores.argsort(descending=True, stable=True)
        super().__init__(scores=scores[order].tolist(), matched=matched[order].bool().tolist(), threshold=threshold,
                         num_ground_truth=num_ground_truth, protocol=protocol)
        self._compute()
        self.observe(self._compute, ["matched", "protocol"])
        self.observe(self._turn, "flip")

    @shows_errors
    def _compute(self, change: Any = None) -> None:
        scores, matched = torch.tensor(self.scores), torch.tensor(self.matched, dtype=torch.bool)
        precision, recall = precision_recall(scores, matched, self.num_ground_truth)
        self.precision, self.recall = precision.tolist(), recall.tolist()
        self.readings = self._read(precision, recall)
        self.average = average_precision(scores, matched, self.num_ground_truth, self.protocol).item()

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
        ax = draw_precision_recall(axes[0, 1], torch.tensor(self.precision), torch.tensor(self.recall))
        shown = sum(score >= self.threshold for score in self.scores)
        if shown:
            ax.plot(self.recall[shown - 1], self.precision[shown - 1], "o", markersize=14, fillstyle="none",
                    color="black", label="at the threshold")
        finish_axes(ax, "recall", "precision", f"{PROTOCOLS[self.protocol]}: AP {self.average:.3f}")
        return figure
