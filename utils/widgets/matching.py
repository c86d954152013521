"""DETR's matching: what pairing each query with each object costs, part by part, and who gets whom."""

from collections.abc import Sequence
from typing import Any

import torch
import traitlets
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from lessons.boxes import box_convert
from lessons.data.sample import Target
from lessons.detectors.detr import in_parts, sides
from lessons.losses import detr_matching_cost
from lessons.matching import hungarian_match
from utils.figures import class_color, draw_boxes, draw_image, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors

PARTS = {"class": "-p of its class", "L1": "L1 distance", "GIoU": "-GIoU"}
Pairs = list[tuple[int, int]]


def greedy_match(cost: Tensor) -> Pairs:
    """Pairs (query, object) of a cost (Q, G), the cheapest first, each query and object once; not the least in total."""
    left, pairs = cost.clone(), []
    for _ in range(min(cost.shape)):
        query, column = divmod(int(left.argmin()), cost.shape[1])
        pairs.append((query, column))
        left[query], left[:, column] = torch.inf, torch.inf
    return sorted(pairs)


class MatchingExplorer(LessonWidget):
    """The cost of every query with every object of a picture, by parts and in sum, and the matching that follows.

    image (3, H, W); logits (Q, K + 1) and boxes (Q, 4), cxcywh in parts of the picture, what DETR says of it; target:
    its objects, boxes (G, 4) xyxy pixels and labels (G,); classes: names by label. The weights of the three parts are
    sliders, the matching is Hungarian or greedy. Raises ValueError as `detr_matching_cost`, and for no objects.
    """

    _esm = script("matching")
    class_weight = traitlets.Float(1.0, min=0).tag(sync=True)
    l1_weight = traitlets.Float(5.0, min=0).tag(sync=True)
    giou_weight = traitlets.Float(2.0, min=0).tag(sync=True)
    part = traitlets.Unicode("sum").tag(sync=True)  # whose cost is shown: "sum", "class", "L1" or "GIoU"
    method = traitlets.Unicode("hungarian").tag(sync=True)  # or "greedy"
    cells = traitlets.List().tag(sync=True)  # (Q, G) of value and colour
    pairs = traitlets.List().tag(sync=True)  # (query, object) of the chosen method
    others = traitlets.List().tag(sync=True)  # of the other one
    objects = traitlets.List().tag(sync=True)  # box, name and colour of each
    queries = traitlets.List().tag(sync=True)  # box of each, xyxy pixels
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, logits: Tensor, boxes: Tensor, target: Target, classes: Sequence[str]) -> None:
        if not len(target["labels"]):
            raise ValueError("a picture without objects has nothing to match; choose one with objects.")
        size, labels = (image.shape[1], image.shape[2]), target["labels"]
        given = logits, boxes, labels, in_parts(target["boxes"], size)
        self._costs = {name: detr_matching_cost(*given, weights=tuple(float(i == j) for j in range(3)))
                       for i, name in enumerate(PARTS)}
        found = box_convert(boxes, "cxcywh", "xyxy") * sides(size, boxes)
        super().__init__(image, queries=found.tolist(),
                         objects=[{"box": box, "name": f"{i + 1} {classes[label]}", "colour": class_color(label)}
                                  for i, (box, label) in enumerate(zip(target["boxes"].tolist(), labels.tolist(),
                                                                       strict=True))])
        self._match_again()
        self.observe(self._match_again, ["class_weight", "l1_weight", "giou_weight", "part", "method"])

    def cost(self) -> Tensor:
        """The weighted sum of the parts, (Q, G)."""
        weights = (self.class_weight, self.l1_weight, self.giou_weight)
        return torch.stack([w * part for w, part in zip(weights, self._costs.values(), strict=True)]).sum(dim=0)

    @shows_errors
    def _match_again(self, change: Any = None) -> None:
        cost = self.cost()
        shown = cost if self.part == "sum" else self._costs[self.part]
        self.cells = [[{"value": value, "colour": to_hex(self._colour(value, shown))} for value in row]
                      for row in shown.tolist()]
        ways = {"hungarian": list(zip(*(index.tolist() for index in hungarian_match(cost)), strict=True)),
                "greedy": greedy_match(cost)}
        self.pairs = ways.pop(self.method)
        self.others, = ways.values()
        self.message = self._sentence(cost)

    def _colour(self, value: float, shown: Tensor) -> tuple[float, ...]:
        low, high = shown.min().item(), shown.max().item()
        return colormaps["viridis_r"]((value - low) / max(high - low, 1e-12))  # what is cheap is dark

    def _sentence(self, cost: Tensor) -> str:
        """Both totals, and where the two ways differ."""
        ways = {self.method: self.pairs, "greedy" if self.method == "hungarian" else "hungarian": self.others}
        total = {name: sum(cost[query, column].item() for query, column in pairs) for name, pairs in ways.items()}
        said = f"Hungarian costs {total['hungarian']:.2f} in all, greedy {total['greedy']:.2f}"
        differ = sorted({column + 1 for _, column in set(map(tuple, self.pairs)) ^ set(map(tuple, self.others))})
        return f"{said}: the same pairs." if not differ else f"{said}; they differ at object {', '.join(map(str, differ))}."

    def static(self) -> Figure:
        """The present matching on the picture, and the cost with its parts, as a still figure."""
        figure, axes = new_figure(columns=5, width=2.9, height=4.2)
        self._draw_pairs(axes[0, 0])
        for ax, (title, cost) in zip(axes[0, 1:], [("weighted sum", self.cost()), *(
                (PARTS[name], cost) for name, cost in self._costs.items())], strict=True):
            self._draw_cost(ax, cost, title)
        axes[0, 1].set_ylabel("query")
        figure.suptitle(self.message, fontsize=12)
        return figure

    def _draw_pairs(self, ax: Axes) -> None:
        draw_image(ax, self._pixels, f"{self.method} matching")
        draw_boxes(ax, torch.tensor([one["box"] for one in self.objects]), colors=[o["colour"] for o in self.objects])
        for query, column in self.pairs:
            colour = self.objects[column]["colour"]
            draw_boxes(ax, torch.tensor([self.queries[query]]), colors=[colour], linestyle="--")
            x, y = self.queries[query][:2]
            ax.text(x, y, f"q{query}", fontsize=10, color="black", backgroundcolor=colour)

    def _draw_cost(self, ax: Axes, cost: Tensor, title: str) -> None:
        ax.imshow(cost.numpy(), cmap="viridis_r", aspect="auto")
        for query, column in self.pairs:
            ax.plot(column, query, "o", markersize=9, markerfacecolor="none", markeredgecolor="white", markeredgewidth=2)
        ax.set(xticks=range(len(self.objects)), xticklabels=range(1, len(self.objects) + 1), xlabel="object")
        ax.set_title(title, fontsize=12)
