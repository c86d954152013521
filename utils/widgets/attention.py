"""Where DETR looks: from a place of the picture in the encoder, from a query in the decoder, layer by layer."""

from collections.abc import Sequence
from typing import Any

import torch
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lessons.detectors.detr import DETR, SetPrediction
from lessons.images import ImageBatch
from utils.figures import class_color, draw_boxes, draw_image, new_figure
from utils.widgets.base import LessonWidget, data_url, script, shows_errors
from utils.widgets.proposals import heat_picture

MEAN = "mean"  # of the heads
DRAWN = 4  # objects in the still figure


class AttentionExplorer(LessonWidget):
    """Click a place of a photograph or choose an object: where the encoder, or the decoder, looks from there.

    model: a DETR in evaluation mode; image (3, H, W); classes: names by label. `objects` are the queries whose score
    reaches `threshold`, surest first. `kind` says whose attention is shown, the encoder's from `cell`, a column and a
    row of the feature map, or the decoder's from the object `chosen`; `layer` counts from 1, `head` is "mean" or
    "1", "2", ... The brightest cell is the row's largest weight. Raises ValueError for a model in training mode.
    """

    _esm = script("attention")
    kind = traitlets.Enum(["encoder", "decoder"], "encoder").tag(sync=True)
    layer = traitlets.Int(1).tag(sync=True)
    layers = traitlets.Int(1).tag(sync=True)  # of the present kind
    head = traitlets.Unicode(MEAN).tag(sync=True)
    heads = traitlets.List(traitlets.Unicode()).tag(sync=True)
    cell = traitlets.List(traitlets.Int()).tag(sync=True)
    grid = traitlets.List(traitlets.Int()).tag(sync=True)  # columns and rows with picture in them
    cell_size = traitlets.List(traitlets.Float()).tag(sync=True)  # width and height, pixels of the image
    objects = traitlets.List().tag(sync=True)
    chosen = traitlets.Int(0).tag(sync=True)
    veils = traitlets.Dict().tag(sync=True)  # the map of every head and their mean, as a picture of a cell a pixel
    largest = traitlets.Float(0.0).tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    @torch.no_grad()
    def __init__(self, model: DETR, image: Tensor, classes: Sequence[str], threshold: float = 0.5) -> None:
        if model.training:
            raise ValueError("the model is in training mode; call model.eval() first.")
        device = next(model.parameters()).device
        batch, _ = model.prepare([image.to(device)])
        prediction = model.predict(batch, need_weights=True)
        self._tables = attention_tables(prediction)
        objects = _found(model, prediction, batch, classes, threshold)
        rows, columns = self._tables["encoder"][0].shape[1:3]
        (height, width), (old_height, old_width) = batch.sizes[0], batch.originals[0]
        stride = batch.pixels.shape[3] / prediction.padding.shape[2]
        super().__init__(image, objects=objects, grid=[columns, rows], cell=[columns // 2, rows // 2],
                         cell_size=[stride * old_width / width, stride * old_height / height],
                         heads=[MEAN, *(str(i + 1) for i in range(len(self._tables["encoder"][0])))],
                         layer=len(self._tables["encoder"]))
        if objects:
            self.cell = self._cell_of(objects[0]["box"])
        self._look()
        self.observe(self._show_encoder, ["cell"])
        self.observe(self._show_decoder, ["chosen"])
        self.observe(self._look, ["kind", "layer", "head"])

    def _cell_of(self, box: Sequence[float]) -> list[int]:
        """Column and row of the cell in the middle of a box."""
        middle = [(box[axis] + box[axis + 2]) / 2 / self.cell_size[axis] for axis in (0, 1)]
        return [min(max(int(place), 0), count - 1) for place, count in zip(middle, self.grid, strict=True)]

    def _show_encoder(self, change: Any = None) -> None:
        self._show("encoder")

    def _show_decoder(self, change: Any = None) -> None:
        self._show("decoder")

    @shows_errors
    def _show(self, kind: str) -> None:
        if self.kind == kind:
            self._look()
        else:
            self.kind = kind  # and that looks

    @shows_errors
    def _look(self, change: Any = None) -> None:
        self.layers = len(self._tables[self.kind])
        self.layer = min(max(self.layer, 1), self.layers)
        maps = self._maps(self.kind, self._source())
        self.veils = {name: data_url(heat_picture(one / one.max().clamp(min=1e-12)).float())
                      for name, one in maps.items()}
        self.largest = self.row().max().item()
        self.message = self._sentence(self.row())

    def _source(self) -> Sequence[int]:
        """Where the attention starts: the cell, or the number of the chosen object's query."""
        if self.kind == "encoder":
            (column, row), (columns, rows) = self.cell, self.grid
            if not (0 <= column < columns and 0 <= row < rows):
                raise ValueError(f"cell {list(self.cell)} lies outside the map of {columns} x {rows} cells.")
            return row, column
        if not 0 <= self.chosen < len(self.objects):
            raise ValueError(f"object {self.chosen} of {len(self.objects)}: lower the threshold to have more of them.")
        return (self.objects[self.chosen]["query"],)

    def _maps(self, kind: str, source: Sequence[int]) -> dict[str, Tensor]:
        """The weights (h, w) of the mean and of each head, from one cell or query, in the present layer."""
        weights = self._tables[kind][self.layer - 1]
        for place in source:
            weights = weights[:, place]
        return dict(zip(self.heads, [weights.mean(dim=0), *weights], strict=True))

    def row(self) -> Tensor:
        """The weights that are shown, (h, w); they sum to 1."""
        if self.head not in self.heads:
            raise ValueError(f"head {self.head!r}: want one of {', '.join(self.heads)}.")
        return self._maps(self.kind, self._source())[self.head]

    def inside(self, box: Sequence[float]) -> Tensor:
        """How much of each cell a box (4,), xyxy pixels, covers: (h, w), from 0 to 1."""
        parts = []
        for axis in (1, 0):
            ends = torch.arange(self.grid[axis] + 1) * self.cell_size[axis]
            inner = ends.clamp(box[axis], max(box[axis], box[axis + 2]))
            parts.append(inner.diff() / self.cell_size[axis])
        return parts[0][:, None] * parts[1]

    def _sentence(self, weights: Tensor) -> str:
        where = f"{self.kind.title()}, layer {self.layer}, {self._head()}"
        if self.kind == "decoder":
            one = self.objects[self.chosen]
            return f"{where}. Query {one['query']}, {one['name']} {one['score']:.2f}: {self._share(weights, one)}."
        column, row = self.cell
        covering = [one for one in self.objects if self.inside(one["box"])[row, column] >= 0.5]
        place = f"From column {column}, row {row}"
        if not covering:
            most = divmod(int(weights.argmax()), self.grid[0])
            return (f"{where}. {place}, in no detected box: most, {weights.max():.0%}, goes to column {most[1]}, row "
                    f"{most[0]}; {1 / weights.numel():.1%} each would be even.")
        return f"{where}. {place}: {self._share(weights, min(covering, key=lambda one: _area(one['box'])))}."

    def _head(self) -> str:
        return "mean of the heads" if self.head == MEAN else f"head {self.head}"

    def _share(self, weights: Tensor, one: dict[str, Any]) -> str:
        covered = self.inside(one["box"])
        return (f"{(weights * covered).sum():.0%} of the attention falls into the box of {one['name']}, which covers "
                f"{covered.mean():.0%} of the picture")

    def static(self) -> Figure:
        """The encoder's attention from the cell and the objects' middles, and the decoder's from the objects."""
        drawn = self.objects[:DRAWN]
        figure, axes = new_figure(columns=1 + max(len(drawn), 1), rows=2, width=3.3, height=3.5)
        self._draw(axes[0, 0], None, "detected objects", self.objects)
        chosen = self._maps("encoder", self.cell[::-1])[self.head]
        self._draw(axes[1, 0], chosen, "encoder, from the chosen cell", [], self.cell)
        for i, one in enumerate(drawn, start=1):
            cell = self._cell_of(one["box"])
            before = self._maps("encoder", cell[::-1])[self.head]
            after = self._maps("decoder", (one["query"],))[self.head]
            self._draw(axes[0, i], before, f"encoder, from {one['name']}", [], cell)
            self._draw(axes[1, i], after, f"decoder, query {one['query']}", [one])
        for ax in axes.flat:
            ax.set_visible(ax.has_data())
        figure.suptitle(f"Attention in layer {self.layer}, {self._head()}; each map's brightest cell is its largest "
                        "weight", fontsize=14)
        return figure

    def _draw(self, ax: Axes, weights: Tensor | None, title: str, objects: Sequence[dict[str, Any]],
              cell: Sequence[int] | None = None) -> None:
        width, height = self.cell_size
        draw_image(ax, self._pixels if weights is None else _greyer(self._pixels), title)
        if weights is not None:
            ax.imshow(weights.numpy(), cmap="viridis", alpha=0.6, interpolation="nearest", vmin=0,
                      extent=(0, self.grid[0] * width, self.grid[1] * height, 0))
            ax.set(xlim=(0, self.size[0]), ylim=(self.size[1], 0))
        if cell is not None:
            square = torch.tensor([[cell[0] * width, cell[1] * height, (cell[0] + 1) * width, (cell[1] + 1) * height]])
            draw_boxes(ax, square, colors=["#FFFFFF"])
        draw_boxes(ax, torch.tensor([one["box"] for one in objects]), torch.arange(len(objects)),
                   torch.tensor([one["score"] for one in objects]), [one["name"] for one in objects],
                   [one["colour"] for one in objects])


def attention_tables(prediction: SetPrediction) -> dict[str, list[Tensor]]:
    """Attention of the first picture of a batch by layer, without padded cells, on the CPU.

    Returns "encoder": (heads, h, w, h, w), from row and column to row and column, and "decoder": (heads, Q, h, w).
    """
    padding = prediction.padding[0]
    grid = padding.shape
    rows, columns = int((~padding).any(dim=1).sum()), int((~padding).any(dim=0).sum())
    return {"encoder": [table[0].unflatten(2, grid).unflatten(1, grid)[:, :rows, :columns, :rows, :columns].cpu()
                        for table in prediction.encoder_attention],
            "decoder": [table[0].unflatten(2, grid)[:, :, :rows, :columns].cpu()
                        for table in prediction.decoder_attention]}


def _found(model: DETR, prediction: SetPrediction, batch: ImageBatch, classes: Sequence[str], threshold: float
           ) -> list[dict[str, Any]]:
    """The queries with at least that score, surest first, and what they have found."""
    (detections,) = model.detect(prediction, batch)
    boxes, labels, scores = (detections[key].cpu() for key in ("boxes", "labels", "scores"))
    order = scores.argsort(descending=True, stable=True).tolist()
    return [{"query": query, "name": classes[int(labels[query])], "score": scores[query].item(),
             "box": boxes[query].tolist(), "colour": class_color(max(int(labels[query]), 1))}
            for query in order if scores[query] >= threshold]


def _greyer(image: Tensor) -> Tensor:
    """The photograph with little colour left, since colours belong to the map over it."""
    return image.lerp(image.mean(dim=0, keepdim=True).expand_as(image), 0.8)


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
