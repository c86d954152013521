"""What each of DETR's queries is in charge of: where its boxes fall over many pictures, and how large they are."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from lessons.detectors.detr import DETR
from utils.figures import BLUE, GREEN, ORANGE, VERMILLION, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors

COLUMNS = 5  # of the small multiples
SIDEWAYS = 1.25  # a box is wide or tall from this ratio of its sides
Kind = tuple[str, str, str]  # a name, a colour, a mark: "dot" of three sizes, "wide" or "tall"
KINDS: dict[str, tuple[Kind, Kind, Kind]] = {
    "size": (("small", GREEN, "dot 1"), ("medium", ORANGE, "dot 2"), ("large", BLUE, "dot 3")),
    "shape": (("square", GREEN, "dot 2"), ("wide", VERMILLION, "wide"), ("tall", BLUE, "tall")),
    "figure 7": (("small", GREEN, "dot 1"), ("large and wide", VERMILLION, "wide"), ("large and tall", BLUE, "tall")),
}
MARKS = {"dot 1": ("o", 3.0), "dot 2": ("o", 5.0), "dot 3": ("o", 7.5), "wide": ("_", 9.0), "tall": ("|", 9.0)}


def kinds_of(boxes: Tensor, by: str, limits: Sequence[float]) -> Tensor:
    """Of which of KINDS[by] each box (..., 4), cxcywh, is: (...) int64, 0 to 2.

    limits: sqrt(w * h) from which a box is medium, and from which large; what is not small is large in "figure 7".
    """
    width, height = boxes[..., 2], boxes[..., 3]
    side = (width * height).sqrt()
    if by == "size":
        return torch.bucketize(side, side.new_tensor(list(limits)), right=True)
    if by == "shape":
        return torch.where(width >= SIDEWAYS * height, 1, torch.where(height >= SIDEWAYS * width, 2, 0))
    return torch.where(side < limits[0], 0, torch.where(width >= height, 1, 2))


class QueryExplorer(LessonWidget):
    """Choose a query: the middles of its boxes in all pictures, by size or shape, beside those of all queries.

    boxes (N, Q, 4), what each of Q queries finds in each of N pictures, cxcywh in parts of the picture; scores (N, Q)
    of the boxes, to hide those below `lowest`; limits: sqrt(w * h) from which a box is medium, and large; query: the
    chosen one to begin with. `outlines` draws its boxes. Raises ValueError for other shapes and for limits that fall.
    """

    _esm = script("queries")
    query = traitlets.Int(0).tag(sync=True)
    queries = traitlets.Int(0).tag(sync=True)
    colour = traitlets.Enum(list(KINDS), "size").tag(sync=True)
    lowest = traitlets.Float(0.0).tag(sync=True)
    scored = traitlets.Bool(False).tag(sync=True)
    outlines = traitlets.Bool(False).tag(sync=True)
    places = traitlets.List().tag(sync=True)  # of each query x, y, x, y, ..., thousandths of the picture's sides
    groups = traitlets.List().tag(sync=True)  # of each query a letter a picture: 0, 1 or 2, or "-" for hidden
    sides = traitlets.List().tag(sync=True)  # of the chosen query width, height, ..., thousandths
    legend = traitlets.List().tag(sync=True)
    summary = traitlets.Dict().tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, boxes: Tensor, scores: Tensor | None = None, limits: Sequence[float] = (0.3, 0.4),
                 query: int = 0) -> None:
        if boxes.ndim != 3 or boxes.shape[2] != 4 or not boxes.numel():
            raise ValueError(f"boxes of shape {tuple(boxes.shape)}: want (pictures, queries, 4), at least one of each.")
        if scores is not None and scores.shape != boxes.shape[:2]:
            raise ValueError(f"scores of shape {tuple(scores.shape)} for boxes of {tuple(boxes.shape)}.")
        if not 0 < limits[0] <= limits[1]:
            raise ValueError(f"limits {tuple(limits)}: want where medium and where large begin, rising.")
        self._boxes, self._limits = boxes.detach().cpu().double(), tuple(limits)
        self._scores = None if scores is None else scores.detach().cpu()
        super().__init__(query=query, queries=boxes.shape[1], scored=scores is not None,
                         places=_thousandths(self._boxes[..., :2].transpose(0, 1).flatten(1)))
        if not 0 <= query < self.queries:
            raise ValueError(f"query {query} of {self.queries}: they count from 0.")
        self._sort()
        self.observe(self._sort, ["colour", "lowest"])
        self.observe(self._look, ["query"])

    @classmethod
    @torch.no_grad()
    def from_detector(cls, model: DETR, images: Iterable[Tensor], batch_size: int = 8, **options: Any
                      ) -> "QueryExplorer":
        """What a DETR's queries, in evaluation mode, find in pictures (3, H, W), with their scores."""
        found, device, images = [], next(model.parameters()).device, iter(images)
        while some := [image.to(device) for image in islice(images, batch_size)]:
            prediction = model.predict(model.prepare(some)[0])
            found.append((prediction.boxes[-1], prediction.logits[-1].softmax(dim=-1)[..., :-1].amax(dim=-1)))
        if not found:
            raise ValueError("no pictures: the queries have nothing to look at.")
        boxes, scores = (torch.cat(one) for one in zip(*found, strict=True))
        return cls(boxes, scores, **options)

    @shows_errors
    def _sort(self, change: Any = None) -> None:
        """Which kind each box is, and which are hidden."""
        self._kinds = kinds_of(self._boxes, self.colour, self._limits)
        self._shown = torch.ones_like(self._kinds, dtype=torch.bool)
        if self._scores is not None:
            self._shown = self._scores >= self.lowest
        letters = torch.where(self._shown, self._kinds, -1).T.tolist()
        self.groups = ["".join("-" if kind < 0 else str(kind) for kind in row) for row in letters]
        self._describe()

    @shows_errors
    def _look(self, change: Any = None) -> None:
        self._describe()

    def _describe(self) -> None:
        """The chosen query in numbers and words."""
        if not 0 <= self.query < self.queries:
            raise ValueError(f"query {self.query} of {self.queries}: they count from 0.")
        shown = self._shown[:, self.query]
        kinds, middles = self._kinds[shown, self.query], self._boxes[shown, self.query, :2]
        shares = [(kinds == kind).double().mean().item() if len(kinds) else 0.0 for kind in range(3)]
        mean = middles.mean(dim=0) if len(middles) else middles.new_full((2,), 0.5)
        spread = (middles - mean).square().sum(dim=1).mean().sqrt().item() if len(middles) else 0.0
        self.legend = [{"name": name, "colour": colour, "mark": mark, "share": share}
                       for (name, colour, mark), share in zip(KINDS[self.colour], shares, strict=True)]
        self.summary = {"count": len(kinds), "x": mean[0].item(), "y": mean[1].item(), "spread": spread,
                        "shares": {one["name"]: one["share"] for one in self.legend}}
        self.sides = _thousandths(self._boxes[:, self.query, 2:].flatten())
        self.message = self._sentence()

    def _sentence(self) -> str:
        found, pictures = self.summary, len(self._boxes)
        if not found["count"]:
            return f"Query {self.query} has no box with a score this high in {pictures} pictures."
        shares = ", ".join(f"{share:.0%} {name}" for name, share in found["shares"].items())
        which = f"on {pictures} pictures"
        if self.scored and self.lowest > 0:
            which = f"reaches this score in {found['count']} of {pictures} pictures"
        return (f"Query {self.query} {which}: on average {found['x']:.0%} from the left and {found['y']:.0%} from the "
                f"top, ± {found['spread']:.0%}; {shares}.")

    def static(self) -> Figure:
        """The chosen query's boxes, large, and small multiples of all queries, as a still figure."""
        rows = -(-self.queries // COLUMNS)
        wide = max(2, rows - 1)  # columns of the grid for the large one
        figure, axes = new_figure(columns=COLUMNS + wide, rows=rows, width=1.6, height=1.7)
        for ax in axes[:, :wide].flat:
            ax.remove()
        large = figure.add_subplot(axes[0, 0].get_gridspec()[:, :wide])
        self._draw(large, self.query, f"query {self.query}", 1.0)
        large.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], xlabel="part of the width", ylabel="part of the height")
        marks = [Line2D([], [], linestyle="", marker=MARKS[one["mark"]][0], color=one["colour"], markersize=10,
                        markeredgewidth=2.5, label=f"{one['name']}: {one['share']:.0%}") for one in self.legend]
        large.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False,
                     fontsize=12)
        for query, ax in enumerate(axes[:, wide:].flat):
            if query < self.queries:
                self._draw(ax, query, str(query), 0.6)
            ax.set_visible(query < self.queries)
        figure.suptitle(f"Middles of the boxes that each of {self.queries} queries finds in {len(self._boxes)} "
                        "pictures", fontsize=14)
        return figure

    def _draw(self, ax: Axes, query: int, title: str, scale: float) -> None:
        for kind, (_, colour, mark) in enumerate(KINDS[self.colour]):
            x, y = self._boxes[self._shown[:, query] & (self._kinds[:, query] == kind), query, :2].T.tolist()
            shape, size = MARKS[mark]
            ax.plot(x, y, shape, color=colour, markersize=size * scale, markeredgewidth=2 * scale, alpha=0.8)
        ax.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
        ax.set_title(title, fontsize=11, fontweight="bold" if query == self.query else "normal")
        if query == self.query:
            for spine in ax.spines.values():
                spine.set(linewidth=3, color=VERMILLION)


def _thousandths(parts: Tensor) -> list:
    return (parts * 1000).round().long().tolist()
