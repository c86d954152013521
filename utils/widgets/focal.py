"""The focal loss explorer: who pays for a detector's loss, the easy background, the hard background or the objects."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from lessons.detectors.retinanet import RetinaNet, class_goals
from lessons.images import resize_boxes
from lessons.losses import sigmoid_focal_loss
from lessons.matching import BETWEEN
from utils.figures import draw_boxes, draw_heat_map, finish_axes, new_figure
from utils.widgets.base import LessonWidget, data_url, script, shows_errors
from utils.widgets.proposals import heat_picture

KINDS = ("easy background", "hard background", "objects")
GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)  # of the still figure
CURVE = torch.cat([torch.linspace(0.01, 0.1, 19), torch.linspace(0.12, 0.999, 45)])  # p_t at which the loss is drawn

Maps = Sequence[Tensor]  # of each level (h, w, n): n numbers, one for each anchor and class of a cell


class FocalLossExplorer(LessonWidget):
    """Sliders over gamma and alpha, and what easy background, hard background and objects then carry.

    image (3, H, W); truth (G, 4) xyxy pixels; logits: by name, for instance "trained", a detector's logits of each
    level; goals: of each level 1 where the class of an anchor's object stands, 0 elsewhere, -1 for anchors that the
    loss leaves out. Background is easy below the score `limit`; the paper's "well-classified" is a limit of 0.5.
    alpha weighs objects and 1 - alpha background; without `balanced` both weigh 1. `shares` holds each kind's part of
    terms, loss and gradient (the sum of |dL/dx| over the logits). Raises ValueError where shapes differ.
    """

    _esm = script("focal")
    truth = traitlets.List().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    scores = traitlets.Unicode("").tag(sync=True)
    gamma = traitlets.Float(2.0).tag(sync=True)
    alpha = traitlets.Float(0.25).tag(sync=True)
    balanced = traitlets.Bool(True).tag(sync=True)
    limit = traitlets.Float(0.5).tag(sync=True)
    counts = traitlets.List().tag(sync=True)
    shares = traitlets.Dict().tag(sync=True)
    curves = traitlets.Dict().tag(sync=True)
    veil = traitlets.Unicode("").tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, image: Tensor, truth: Tensor, logits: Mapping[str, Maps], goals: Maps, gamma: float = 2.0,
                 alpha: float = 0.25, limit: float = 0.5) -> None:
        wanted = [tuple(goal.shape) for goal in goals]
        for name, maps in logits.items():
            if (given := [tuple(one.shape) for one in maps]) != wanted:
                raise ValueError(f"logits {name!r} of shapes {given} for goals of {wanted}.")
        self._logits, self._goals = {name: [m.detach() for m in maps] for name, maps in logits.items()}, list(goals)
        super().__init__(image, truth=truth.tolist(), names=list(logits), scores=next(iter(logits)), gamma=gamma,
                         alpha=alpha, limit=limit)
        self._weigh()
        self.observe(self._weigh, ["scores", "gamma", "alpha", "balanced", "limit"])

    @classmethod
    @torch.no_grad()
    def from_detectors(cls, detectors: Mapping[str, RetinaNet], image: Tensor, target: Mapping[str, Tensor],
                       **options: float) -> "FocalLossExplorer":
        """What RetinaNets with equal anchors say of a picture (3, H, W) with its target (boxes, labels)."""
        logits = {}
        for name, detector in detectors.items():
            batch, _ = detector.prepare([image])
            features = detector.backbone(batch.pixels)
            cells = [tuple(feature.shape[2:]) for feature in features]
            logits[name] = [one[0].view(*size, -1) for one, size in zip(detector.head(features)[0], cells, strict=True)]
        anchors = detector.anchors(features, batch)
        boxes = resize_boxes(target["boxes"], batch.originals[0], batch.sizes[0])
        matches = detector.assign(anchors, boxes)
        goals = class_goals(matches, target["labels"], detector.head.num_classes)  # type: ignore[arg-type]
        parts = goals.masked_fill((matches == BETWEEN)[:, None], -1).split([len(one) for one in anchors])
        return cls(image, target["boxes"], logits,
                   [one.reshape(*size, -1) for one, size in zip(parts, cells, strict=True)], **options)

    @shows_errors
    def _weigh(self, change: Any = None) -> None:
        counts, shares = self.carried(self.gamma)
        self.counts, self.shares = counts, shares
        self.veil = data_url(heat_picture(self._where(self.gamma)).float())
        self.curves = self._curves()
        self.message = self._sentence()

    def _weight(self) -> float:
        return self.alpha if self.balanced else -1

    def carried(self, gamma: float) -> tuple[list[int], dict[str, list[float]]]:
        """How many terms each of KINDS has, and its share of terms, loss and gradient at that gamma."""
        goal = torch.cat([one.flatten() for one in self._goals])
        counted = goal >= 0
        goal, logit = goal[counted], torch.cat([one.flatten() for one in self._logits[self.scores]])[counted]
        logit = logit.double().requires_grad_()
        with torch.enable_grad():
            loss = sigmoid_focal_loss(logit, goal.double(), self._weight(), gamma)
            gradient = torch.autograd.grad(loss.sum(), logit)[0].abs()
        easy = logit.detach().sigmoid() < self.limit
        kinds = (easy & (goal == 0), ~easy & (goal == 0), goal == 1)
        counts = [int(kind.sum()) for kind in kinds]
        amounts = {"terms": torch.ones_like(gradient), "loss": loss.detach(), "gradient": gradient}
        return counts, {name: [_share(amount, kind) for kind in kinds] for name, amount in amounts.items()}

    def _where(self, gamma: float) -> Tensor:
        """The loss by place, (h, w) of the finest level, the highest 1: a coarse cell's is spread over its area."""
        finest, total = self._goals[0].shape[:2], torch.zeros(self._goals[0].shape[:2])
        for logit, goal in zip(self._logits[self.scores], self._goals, strict=True):
            loss = sigmoid_focal_loss(logit.float(), goal.clamp(min=0).float(), self._weight(), gamma) * (goal >= 0)
            per_cell = loss.sum(dim=2) * goal.shape[0] * goal.shape[1] / (finest[0] * finest[1])
            total += F.interpolate(per_cell[None, None], size=finest, mode="nearest")[0, 0]
        return total / total.max().clamp(min=1e-12)

    def _curves(self) -> dict[str, list[float]]:
        """Loss against p_t: cross-entropy, and what is made of it for objects and for background."""
        logit = CURVE.double().logit()
        sides = {"objects": (logit, torch.ones_like(logit)), "background": (-logit, torch.zeros_like(logit))}
        found = {name: sigmoid_focal_loss(*side, self._weight(), self.gamma).tolist() for name, side in sides.items()}
        return {"p": CURVE.tolist(), "cross-entropy": (-CURVE.double().log()).tolist(), **found}

    def _sentence(self) -> str:
        total, (easy, hard, objects) = sum(self.counts), self.counts
        if not total:
            return "No anchor counts in this picture."
        loss, gradient = (self.shares[name][0] for name in ("loss", "gradient"))
        return (f"{easy:,} of {total:,} terms are easy background, {hard:,} hard background, {objects:,} objects. The "
                f"easy ones carry {_percent(loss)} of the loss and {_percent(gradient)} of the gradient.")

    def static(self) -> Figure:
        """Shares of the easy background against gamma, and where the loss lies at gamma 0 and now, as a still."""
        figure, axes = new_figure(columns=3, width=4.4, height=3.9)
        found = [self.carried(gamma)[1] for gamma in GAMMAS]
        for name, style, marker in (("loss", "-", "o"), ("gradient", "--", "s")):
            axes[0, 0].plot(GAMMAS, [one[name][0] for one in found], style, marker=marker, linewidth=2.5,
                            label=f"of the {name}")
        axes[0, 0].axhline(found[0]["terms"][0], color="black", linestyle=":", label="of the terms")
        axes[0, 0].set_ylim(0, 1.05)
        words = f"α {self.alpha:.2f}" if self.balanced else "no α"
        finish_axes(axes[0, 0], "γ", "share", f"Easy background ({self.scores}, {words})")
        for ax, gamma in zip(axes[0, 1:], (0.0, self.gamma), strict=True):
            draw_heat_map(ax, self._pixels, self._where(gamma), f"where the loss lies, γ = {gamma:g}", opacity=0.75)
            ax.images[-1].set_clim(0, 1)
            draw_boxes(ax, torch.tensor(self.truth).reshape(-1, 4), colors=["#FFFFFF"], linestyle="--", linewidth=1.5)
        return figure


def _share(amount: Tensor, kind: Tensor) -> float:
    total = float(amount.sum())
    return float(amount[kind].sum()) / total if total else 0.0


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}" if share >= 0.001 else f"{share:.3%}"
