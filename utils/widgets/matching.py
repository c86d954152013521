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
from lessons.detectors.detr import DETR, in_parts, sides
from lessons.images import shape
from lessons.losses import detr_matching_cost
from lessons.matching import hungarian_match
from utils.figures import DARK_TEXT_ON, PALETTE, VERMILLION, draw_boxes, draw_image, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors

PARTS = {"class": "−p of its class", "L1": "L1 distance", "GIoU": "−GIoU"}
CANDIDATES = 3  # an object's cheapest queries, which the table does not dim
Pairs = list[tuple[int, int]]


def greedy_match(cost: Tensor) -> Pairs:
    """Pairs (query, object) of a cost (Q, G), each query and object once, always the cheapest one left.

    In total they may cost more than `hungarian_match`. Sorted by query.
    """
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
    sliders, the matching is Hungarian or greedy, and `cell`, a query and an object, shows what their pair costs.
    Raises ValueError as `detr_matching_cost`, and for no objects.
    """

    _esm = script("matching")
    class_weight = traitlets.Float(1.0, min=0).tag(sync=True)
    l1_weight = traitlets.Float(5.0, min=0).tag(sync=True)
    giou_weight = traitlets.Float(2.0, min=0).tag(sync=True)
    part = traitlets.Enum(["sum", *PARTS], "sum").tag(sync=True)  # whose cost the table shows
    method = traitlets.Enum(["hungarian", "greedy"], "hungarian").tag(sync=True)
    cell = traitlets.List(traitlets.Int()).tag(sync=True)
    cells = traitlets.List().tag(sync=True)  # (Q, G) of value and colour
    candidates = traitlets.List().tag(sync=True)  # queries among the cheapest of an object
    pairs = traitlets.List().tag(sync=True)  # (query, object) of the chosen method
    others = traitlets.List().tag(sync=True)  # of the other one
    objects = traitlets.List().tag(sync=True)  # box, name and colour of each
    queries = traitlets.List().tag(sync=True)  # box of each, xyxy pixels
    totals = traitlets.Dict().tag(sync=True)  # of both methods
    equation = traitlets.Unicode("").tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, logits: Tensor, boxes: Tensor, target: Target, classes: Sequence[str]) -> None:
        if not len(target["labels"]):
            raise ValueError("a picture without objects has nothing to match; choose one with objects.")
        size, labels = shape(image), target["labels"].cpu()
        logits, boxes, truth = (one.detach().cpu().double() for one in (logits, boxes, target["boxes"]))
        given = logits, boxes, labels, in_parts(truth, size)
        alone = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        self._costs = {name: detr_matching_cost(*given, weights=weights) + 0.0  # no minus before a zero
                       for name, weights in zip(PARTS, alone, strict=True)}
        self._said = [f"{_name(classes, label)} {p:.2f}"
                      for p, label in zip(*_values(logits.softmax(dim=1).max(dim=1)), strict=True)]
        found = box_convert(boxes, "cxcywh", "xyxy") * sides(size, boxes)
        super().__init__(image, queries=found.tolist(), objects=[
            {"box": box, "number": i + 1, "name": classes[label], "colour": PALETTE[i % len(PALETTE)]}
            for i, (box, label) in enumerate(zip(truth.tolist(), labels.tolist(), strict=True))])
        self._match()
        self.cell = list(self.pairs[0])
        self.observe(self._match, ["class_weight", "l1_weight", "giou_weight", "part", "method"])
        self.observe(self._look, ["cell"])

    @classmethod
    @torch.no_grad()
    def from_detector(cls, model: DETR, image: Tensor, target: Target, classes: Sequence[str], layer: int = -1
                      ) -> "MatchingExplorer":
        """What a DETR, in evaluation mode, says of a picture after decoder layer `layer`, the last one by default."""
        batch, _ = model.prepare([image])
        prediction = model.predict(batch)
        return cls(image, prediction.logits[layer, 0], prediction.boxes[layer, 0], target, classes)

    def cost(self) -> Tensor:
        """The weighted sum of the parts, (Q, G)."""
        parts = torch.stack(list(self._costs.values()))
        return (parts.new_tensor(self._weights())[:, None, None] * parts).sum(dim=0)

    def _weights(self) -> tuple[float, float, float]:
        return self.class_weight, self.l1_weight, self.giou_weight

    @shows_errors
    def _match(self, change: Any = None) -> None:
        cost = self.cost()
        ways = {"hungarian": list(zip(*_values(hungarian_match(cost)), strict=True)), "greedy": greedy_match(cost)}
        self.totals = {name: sum(cost[pair].item() for pair in pairs) for name, pairs in ways.items()}
        self.pairs = ways.pop(self.method)
        (self.others,) = ways.values()
        self.candidates = sorted({*cost.topk(min(CANDIDATES, len(cost)), dim=0, largest=False).indices.flatten()
                                 .tolist(), *(query for query, _ in self.pairs + self.others)})
        self.cells = self._coloured(cost if self.part == "sum" else self._costs[self.part])
        self.message = self._sentence()
        self._describe()

    @staticmethod
    def _coloured(shown: Tensor) -> list[list[dict[str, Any]]]:
        low, high = shown.min().item(), shown.max().item()
        colours = colormaps["viridis"](((shown - low) / max(high - low, 1e-12)).numpy())  # what is cheap is dark
        return [[{"value": value, "colour": to_hex(colour)} for value, colour in zip(*row, strict=True)]
                for row in zip(shown.tolist(), colours, strict=True)]

    @shows_errors
    def _look(self, change: Any = None) -> None:
        self._describe()

    def _describe(self) -> None:
        """The sum that the chosen query and object cost, with its numbers."""
        query, column = self.cell or self.pairs[0]
        cost = self.cost()
        if not (0 <= query < cost.shape[0] and 0 <= column < cost.shape[1]):
            raise ValueError(f"cell {list(self.cell)} lies outside the table of {cost.shape[0]} x {cost.shape[1]}.")
        terms = [f"{weight:g}\u00a0·\u00a0{_signed(part[query, column].item())}"  # no line break inside
                 for weight, part in zip(self._weights(), self._costs.values(), strict=True)]
        one = self.objects[column]
        self.equation = (f"q{query} ({self._said[query]}) for {one['number']} {one['name']}: "
                         f"{' + '.join(terms)} = {cost[query, column].item():.2f}".replace("-", "−"))

    def _sentence(self) -> str:
        """Both totals, and where the two ways differ."""
        least, greedy = (f"{self.totals[name]:.2f}".replace("-", "−") for name in ("hungarian", "greedy"))
        said = f"Hungarian: {least} in all, greedy: {greedy}"
        differ = sorted({column + 1 for _, column in set(self.pairs) ^ set(self.others)})
        if not differ:
            return f"{said}. Both make the same pairs."
        return f"{said}. They differ at object{'s' * (len(differ) > 1)} {', '.join(map(str, differ))}."

    def static(self) -> Figure:
        """The present matching on the picture, and the cost with its parts, as a still figure."""
        rows, columns = self.cost().shape
        ratios = [5.6, *[max(1.7, 0.5 * columns + 0.7)] * 4]
        figure, axes = new_figure(columns=5, width=sum(ratios) / 5, height=max(4.6, 0.23 * rows + 1.2),
                                  width_ratios=ratios)
        self._draw_pairs(axes[0, 0])
        title = "cost: {:g} class\n+ {:g} L1 + {:g} GIoU".format(*self._weights())
        costs = {title: self.cost(), **{PARTS[name]: cost for name, cost in self._costs.items()}}
        for ax, (title, cost) in zip(axes[0, 1:], costs.items(), strict=True):
            self._draw_cost(ax, cost, title)
        axes[0, 1].set_ylabel("query", fontsize=12)
        crosses = " Dots: this matching; crosses: the other way." if self.pairs != self.others else ""
        figure.suptitle(self.message + crosses, fontsize=13)
        return figure

    def _draw_pairs(self, ax: Axes) -> None:
        colours = [one["colour"] for one in self.objects]
        draw_image(ax, self._pixels, f"{self.method.title()}: objects, and their queries dashed")
        draw_boxes(ax, torch.tensor([one["box"] for one in self.objects]), torch.arange(len(self.objects)),
                   classes=[f"{one['number']} {one['name']}" for one in self.objects], colors=colours)
        for query, column in self.pairs:
            draw_boxes(ax, torch.tensor([self.queries[query]]), colors=[colours[column]], linestyle="--")
            x, y = self.queries[query][2:]
            ax.text(min(x, self.size[0]), min(y, self.size[1]), f"q{query}", fontsize=11, ha="right", va="bottom",
                    color="black" if colours[column] in DARK_TEXT_ON else "white",
                    bbox={"facecolor": colours[column], "edgecolor": "white", "pad": 1.5})

    def _draw_cost(self, ax: Axes, cost: Tensor, title: str) -> None:
        ax.imshow(cost.numpy(), cmap="viridis", aspect="auto")
        low, high = cost.min().item(), cost.max().item()
        for query, row in enumerate(cost.tolist()):
            for column, value in enumerate(row):
                ax.text(column, query, f"{value:.2f}".replace("-", "−"), ha="center", va="center", fontsize=10,
                        color="white" if value < low + 0.55 * (high - low) else "black",
                        fontweight="bold" if query in self.candidates else "normal")
        for pairs, mark in ((set(self.others) - set(self.pairs), "X"), (self.pairs, "o")):
            for query, column in pairs:
                ax.plot(column + 0.42, query, mark, markersize=9, color=VERMILLION, markeredgecolor="white")
        ax.set(xticks=range(len(self.objects)), xticklabels=[one["number"] for one in self.objects], xlabel="object",
               yticks=range(len(cost)) if len(cost) <= 40 else range(0, len(cost), 10))
        ax.set_title(title, fontsize=12)


def _values(pair: Sequence[Tensor]) -> tuple[list, ...]:
    return tuple(one.tolist() for one in pair)


def _name(classes: Sequence[str], label: int) -> str:
    """A class's name by its column in the logits, whose last says that there is no object."""
    return classes[label] if label < len(classes) else "no object"


def _signed(value: float) -> str:
    return f"({value:.2f})" if value < 0 else f"{value:.2f}"
