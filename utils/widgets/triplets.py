"""Corners and centres: which pairs of corners make a box, and which of them a centre confirms."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lessons.boxes import box_iou
from lessons.corners import Detections, KeypointMaps, central_region, centre_scores, decode_corners, find_peaks
from lessons.data.sample import Target
from lessons.detectors.centernet import CenterNet
from utils.figures import BLUE, VERMILLION, class_color, draw_boxes, draw_image, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors

SHAPES = {"top_left": "^", "bottom_right": "v", "centre": "o"}
MOST = 60  # boxes that are drawn


class TripletExplorer(LessonWidget):
    """Boxes from pairs of corners on a photograph, with CenterNet's central-region test on or off.

    image (3, H, W); maps: for top_left, bottom_right and centre the maps of this one picture, (1, ...) with
    probabilities for heat; target: its true boxes and labels from 1; classes: names by label; stride: pixels a cell;
    large: pixels, as in `lessons.corners.central_region`. A box is right where it has IoU 0.5 or more with an object of
    its class. `lowest` hides boxes below a score, `chosen` is the place of one in the list, with its middle drawn.
    """

    _esm = script("triplets")
    central = traitlets.Bool(False).tag(sync=True)
    distance = traitlets.Float(0.5).tag(sync=True)
    lowest = traitlets.Float(0.1).tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)
    truth = traitlets.List().tag(sync=True)
    keypoints = traitlets.List().tag(sync=True)
    pairs = traitlets.List().tag(sync=True)
    counts = traitlets.Dict().tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, maps: Mapping[str, KeypointMaps], target: Target, classes: Sequence[str],
                 stride: int = 4, large: float = 150.0) -> None:
        if set(maps) != set(SHAPES):
            raise ValueError(f"maps of {', '.join(maps)}: want {', '.join(SHAPES)}.")
        self._maps, self._target, self._classes = dict(maps), target, list(classes)
        self._stride, self._large, self._top_k = stride, large, CenterNet.top_k
        super().__init__(image, truth=target["boxes"].tolist())
        self._pair()
        self.observe(self._pair, ["distance", "lowest", "central"])
        self.observe(self._say, ["chosen"])

    @classmethod
    @torch.no_grad()
    def from_detector(cls, detector: CenterNet, image: Tensor, target: Target, classes: Sequence[str]
                      ) -> "TripletExplorer":
        """What a trained detector, in evaluation mode, says of a picture at the size that it looks at."""
        maps, _ = detector.predict([image])
        return cls(image, maps, target, classes, detector.stride, detector.large)

    @shows_errors
    def _pair(self, change: Any = None) -> None:
        corners = self._maps["top_left"], self._maps["bottom_right"]
        (pairs,) = decode_corners(*corners, self._top_k, self.distance)
        rows = self._rows(pairs)
        self.keypoints = [mark for kind in SHAPES for mark in self._marks(kind)]
        self.pairs = rows[:MOST]
        self.counts = {f"{kind} {state}": sum(row["right"] == right and row["kept"] == kept for row in rows)
                       for kind, right in (("right", True), ("wrong", False))
                       for state, kept in (("kept", True), ("rejected", False))}
        self.chosen = max(0, min(self.chosen, len(self.pairs) - 1))
        self._say()

    def _rows(self, pairs: Detections) -> list[dict[str, Any]]:
        """Every pair with at least the lowest score, best first, and what the test says of it."""
        shown = pairs["scores"] >= self.lowest
        boxes, labels, scores = (pairs[key][shown] for key in ("boxes", "labels", "scores"))
        centres, large = find_peaks(self._maps["centre"], 0, self._top_k), self._large / self._stride
        regions = central_region(boxes, large) * self._stride
        passed = centre_scores(boxes, labels, centres, large) > 0
        overlap = box_iou(self._target["boxes"].to(boxes), boxes * self._stride)
        right = ((overlap >= 0.5) & (self._target["labels"][:, None] == labels + 1)).any(dim=0)
        return [{"box": (box * self._stride).tolist(), "region": region.tolist(), "name": self._classes[int(label) + 1],
                 "colour": class_color(int(label) + 1), "score": score.item(), "right": bool(good),
                 "kept": bool(confirmed)}
                for box, region, label, score, good, confirmed
                in zip(boxes, regions, labels, scores, right, passed, strict=True)]

    def _marks(self, kind: str) -> list[dict[str, Any]]:
        """The keypoints of one kind with at least the lowest score."""
        peaks = find_peaks(self._maps[kind], 0, self._top_k)
        rows = zip((peaks.places * self._stride).tolist(), peaks.labels.tolist(), peaks.scores.tolist(), strict=True)
        return [{"kind": kind, "x": x, "y": y, "colour": class_color(label + 1), "score": score}
                for (x, y), label, score in rows if score >= self.lowest]

    @shows_errors
    def _say(self, change: Any = None) -> None:
        if not self.pairs:
            self.message = "No pair of corners: raise the difference of tags, or lower the lowest score."
            return
        counts, one = self.counts, self.pairs[self.chosen]
        right, wrong = (counts[f"{kind} kept"] + counts[f"{kind} rejected"] for kind in ("right", "wrong"))
        words = f"Corners alone make {right} right and {wrong} wrong boxes."
        if self.central:
            words += (f" A centre in the middle keeps {counts['right kept']} of the right and {counts['wrong kept']} "
                      "of the wrong ones.")
        width, height = one["box"][2] - one["box"][0], one["box"][3] - one["box"][1]
        verdict = "a centre of its class lies in its middle" if one["kept"] else "no centre of its class in its middle"
        self.message = (f"{words} Chosen: {one['name']}, {width:.0f} × {height:.0f} px, score {one['score']:.2f}; "
                        f"{verdict}.")

    def static(self) -> Figure:
        """All pairs of corners, those that a centre confirms, and the chosen box with its middle, as a still figure."""
        figure, axes = new_figure(columns=3, width=4.2, height=4.4)
        self._draw_pairs(axes[0, 0], self.pairs, "corners alone")
        self._draw_pairs(axes[0, 1], [row for row in self.pairs if row["kept"]], "confirmed by a centre")
        ax = draw_image(axes[0, 2], self._pixels, "one box and its middle")
        if self.pairs:
            one = self.pairs[self.chosen]
            draw_boxes(ax, torch.tensor([one["box"]]), colors=[BLUE if one["right"] else VERMILLION])
            x1, y1, x2, y2 = one["region"]
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor="white", alpha=0.45, edgecolor="black"))
        for mark in self.keypoints:
            ax.plot(mark["x"], mark["y"], SHAPES[mark["kind"]], color=mark["colour"], markeredgecolor="white",
                    markersize=8)
        figure.suptitle(self.message.partition(" Chosen")[0], fontsize=12)
        return figure

    def _draw_pairs(self, ax: Axes, rows: Sequence[Mapping[str, Any]], title: str) -> None:
        wrong, right = ([row["box"] for row in rows if row["right"] == good] for good in (False, True))
        draw_image(ax, self._pixels, f"{title}: {len(right)} right, {len(wrong)} wrong")
        draw_boxes(ax, self._target["boxes"], colors=["#FFFFFF"], linestyle=":", linewidth=1.5)
        for boxes, colour, style in ((wrong, VERMILLION, "--"), (right, BLUE, "-")):
            draw_boxes(ax, torch.tensor(boxes).reshape(-1, 4), colors=[colour], linestyle=style, linewidth=1.8)

