"""Detections on a photograph above a score threshold."""

from collections.abc import Sequence

import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from utils.figures import class_color, draw_boxes, draw_image, images_figure
from utils.widgets.base import LessonWidget, decimals, script, slider_range


class DetectionThreshold(LessonWidget):
    """A slider over the scores of one image's detections, dict(boxes (N, 4) xyxy pixels, labels (N,), scores (N,)).

    classes: names by label, background first. Scores may be probabilities or margins: the slider spans them.
    Raises ValueError for a label that has no name.
    """

    _esm = script("threshold")
    boxes = traitlets.List().tag(sync=True)
    scores = traitlets.List().tag(sync=True)
    names = traitlets.List().tag(sync=True)
    colours = traitlets.List().tag(sync=True)
    lowest = traitlets.Float(0).tag(sync=True)
    highest = traitlets.Float(1).tag(sync=True)
    score_step = traitlets.Float(0.01).tag(sync=True)
    threshold = traitlets.Float(0.5).tag(sync=True)

    def __init__(self, image: Tensor, detections: dict[str, Tensor], classes: Sequence[str], threshold: float = 0.5
                 ) -> None:
        self._detections, self._classes = detections, classes
        scores, labels = decimals(detections["scores"]), detections["labels"].tolist()
        for label in labels:
            if not 0 <= label < len(classes):
                raise ValueError(f"label {label} has no name: there are {len(classes)} names, for 0 to "
                                 f"{len(classes) - 1}.")
        super().__init__(image, boxes=detections["boxes"].tolist(), scores=scores, threshold=threshold,
                         names=[classes[label] for label in labels], colours=[class_color(label) for label in labels],
                         **slider_range([*scores, threshold] if scores else []))

    def static(self) -> Figure:
        """Three thresholds side by side as a still figure: low, the present one, and high."""
        stages = (self.lowest, self.threshold, (self.threshold + self.highest) / 2)
        kept = [torch.tensor([score >= stage for score in self.scores], dtype=torch.bool) for stage in stages]
        figure, axes = images_figure([self._pixels] * 3, [f"score ≥ {stage:.2f}: {int(k.sum())}"
                                                          for stage, k in zip(stages, kept, strict=True)], columns=3)
        for ax, keep in zip(axes, kept, strict=True):
            draw_image(ax, self._pixels, ax.get_title())
            boxes, labels, scores = (self._detections[key][keep] for key in ("boxes", "labels", "scores"))
            draw_boxes(ax, boxes, labels, scores, self._classes)
        return figure
