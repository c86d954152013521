"""The race: detectors as points between two chosen axes, and what each idea bought against the one before."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import traitlets
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from utils.figures import BLUE, SKY, finish_axes, new_figure
from utils.widgets.base import LessonWidget, script, shows_errors

PLOT = (380, 300)  # of the plot, pixels of the drawing
LETTER, LINE = 6.6, 14  # of a name's letters, pixels


class Axis(NamedTuple):
    """What is measured: its name, whether it is a cost (less is better, drawn by ratios), and how it is written."""

    label: str
    cost: bool = False
    unit: float = 1.0  # that many make one of what is written
    digits: int = 3

    def text(self, value: float) -> str:
        """The number as it is written."""
        return f"{value / self.unit:.{self.digits}f}"


AXES = {
    "AP": Axis("AP"), "AP50": Axis("AP50"), "AP75": Axis("AP75"), "AP_small": Axis("AP, small objects"),
    "AP_medium": Axis("AP, medium objects"), "unknown AP": Axis("AP, unknown objects"),
    "unknown AP50": Axis("AP50, unknown objects"),
    "ratio": Axis("time, Faster R-CNN = 1", True, digits=2),
    "multiply_adds": Axis("multiply-adds, millions", True, 1e6, 0),
    "parameters": Axis("numbers stored, millions", True, 1e6, 2),
}


class RaceExplorer(LessonWidget):
    """Detectors between two axes of choice; the chosen one tells its numbers and what its idea bought.

    runners, in the order of their papers: dicts with name, title, year, idea, before (a name or None), numbers (by the
    keys of AXES) and doubts (how large a change against `before` may be by the choice of scenes, where it is known).
    `best` lists those that no other beats on both axes. Raises ValueError for no runners, a number that is missing or
    not finite, a cost that is not positive and a predecessor that does not run.
    """

    _esm = script("race")
    x = traitlets.Enum(list(AXES), "ratio").tag(sync=True)
    y = traitlets.Enum(list(AXES), "AP").tag(sync=True)
    chosen = traitlets.Unicode("").tag(sync=True)
    axes = traitlets.List().tag(sync=True)
    plot = traitlets.List(list(PLOT)).tag(sync=True)
    points = traitlets.List().tag(sync=True)
    ticks = traitlets.Dict().tag(sync=True)
    best = traitlets.List().tag(sync=True)
    before = traitlets.Unicode("").tag(sync=True)
    table = traitlets.List().tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, runners: Sequence[Mapping[str, Any]], x: str = "ratio", y: str = "AP", chosen: str = "") -> None:
        self._runners = {runner["name"]: runner for runner in runners}
        self._check()
        super().__init__(None, x=x, y=y, chosen=chosen or next(reversed(self._runners)),
                         axes=[[key, axis.label] for key, axis in AXES.items()])
        self._place()
        self._tell()
        self.observe(self._place, ["x", "y"])
        self.observe(self._tell, ["x", "y", "chosen"])

    def _check(self) -> None:
        if not self._runners:
            raise ValueError("nobody runs: give at least one detector.")
        for name, runner in self._runners.items():
            for key, axis in AXES.items():
                value = runner["numbers"].get(key, math.nan)
                if not math.isfinite(value) or (axis.cost and value <= 0):
                    raise ValueError(f"{name} has {key} {value}: want a finite number, of costs a positive one.")
            if runner["before"] is not None and runner["before"] not in self._runners:
                raise ValueError(f"{name} comes after {runner['before']}, who does not run.")

    def _values(self, key: str) -> dict[str, float]:
        return {name: runner["numbers"][key] for name, runner in self._runners.items()}

    @shows_errors
    def _place(self, change: Any = None) -> None:
        across, up = (Scale(list(self._values(key).values()), AXES[key]) for key in (self.x, self.y))
        places = {name: (across.share(self._values(self.x)[name]), up.share(self._values(self.y)[name]))
                  for name in self._runners}
        sides = label_sides({self._runners[name]["title"]: place for name, place in places.items()})
        self.ticks = {"x": across.ticks(), "y": up.ticks()}
        self.best = self._unbeaten()
        self.points = [{"name": name, "title": runner["title"], "left": places[name][0], "up": places[name][1],
                        "side": sides[runner["title"]]} for name, runner in self._runners.items()]

    def _unbeaten(self) -> list[str]:
        """The detectors that no other beats, from left to right."""
        signs = [1 if AXES[key].cost else -1 for key in (self.x, self.y)]
        pairs = zip(self._values(self.x).values(), self._values(self.y).values(), strict=True)
        lower = dict(zip(self._runners, [(signs[0] * a, signs[1] * b) for a, b in pairs], strict=True))
        found = [name for name, own in lower.items()
                 if not any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in lower.values())]
        return sorted(found, key=lambda name: self._values(self.x)[name])

    @shows_errors
    def _tell(self, change: Any = None) -> None:
        runner = self._runners.get(self.chosen)
        if runner is None:
            raise ValueError(f"{self.chosen!r} does not run; there are {', '.join(self._runners)}.")
        self.before = runner["before"] or ""
        self.table = [self._line(runner, key) for key in AXES]
        self.message = self._sentence(runner)

    def _line(self, runner: Mapping[str, Any], key: str) -> dict[str, str | bool]:
        axis, before = AXES[key], self._runners.get(runner["before"])
        words, sure = self.change(runner, key) if before else ("–", False)
        return {"key": key, "label": axis.label, "value": axis.text(runner["numbers"][key]), "change": words,
                "before": axis.text(before["numbers"][key]) if before else "–", "sure": sure}

    def change(self, runner: Mapping[str, Any], key: str) -> tuple[str, bool]:
        """What a runner's idea bought of one number, in words, and whether that is more than the choice of scenes.

        Costs as a factor, accuracies as a difference with its doubt.
        """
        own, before = (one["numbers"][key] for one in (runner, self._runners[runner["before"]]))
        if AXES[key].cost:
            return f"× {own / before:.2f}", True
        doubt, words = runner["doubts"].get(key, math.nan), f"{own - before:+.3f}".replace("-", "−")
        return (f"{words} ± {doubt:.3f}", abs(own - before) > doubt) if math.isfinite(doubt) else (words, False)

    def _sentence(self, runner: Mapping[str, Any]) -> str:
        keys = dict.fromkeys((self.y, self.x))
        told = ", ".join(f"{AXES[key].label} {AXES[key].text(runner['numbers'][key])}" for key in keys)
        first = f"{runner['title']} ({runner['year']}): {runner['idea']}. {told}."
        if runner["before"] is None:
            return f"{first} It ran first."
        changes = {key: self.change(runner, key) for key in keys}
        bought = ", ".join(f"{AXES[key].label} {words}" for key, (words, _) in changes.items())
        doubt = [AXES[key].label for key, (_, sure) in changes.items() if not sure]
        words = f" The change of {' and '.join(doubt)} may be the choice of scenes." if doubt else ""
        return f"{first} Against {self._runners[runner['before']]['title']}: {bought}.{words}"

    def static(self) -> Figure:
        """All detectors between the two axes as a still figure; arrows lead from each to those that came after."""
        figure, grid = new_figure(width=9, height=5.6)
        ax, (xs, ys) = grid[0, 0], (self._values(key) for key in (self.x, self.y))
        units = AXES[self.x].unit, AXES[self.y].unit
        places = {name: (xs[name] / units[0], ys[name] / units[1]) for name in self._runners}
        for name, runner in self._runners.items():
            if runner["before"]:
                ax.annotate("", places[name], places[runner["before"]], zorder=1,
                            arrowprops={"arrowstyle": "->", "color": "#999999", "shrinkA": 7, "shrinkB": 7})
        front = zip(*[places[name] for name in self.best], strict=True)
        ax.plot(*front, "--", color=BLUE, label="nobody is better for less")
        for point in self.points:
            name, unbeaten = point["name"], point["name"] in self.best
            ax.plot(*places[name], "o" if unbeaten else "s", color=BLUE if unbeaten else SKY, markersize=11,
                    markeredgecolor="black")
            ax.annotate(point["title"], places[name], **_beside(point["side"]), fontsize=11,
                        path_effects=[withStroke(linewidth=3, foreground="white")])
        for key, scale in ((self.x, ax.set_xscale), (self.y, ax.set_yscale)):
            if AXES[key].cost:
                scale("log")
        self._write_ticks(ax)
        finish_axes(ax, AXES[self.x].label, AXES[self.y].label, f"{AXES[self.y].label} against {AXES[self.x].label}")
        return figure

    def _write_ticks(self, ax: Any) -> None:
        for key, ticks, put, limit in ((self.x, self.ticks["x"], ax.set_xticks, ax.set_xlim),
                                       (self.y, self.ticks["y"], ax.set_yticks, ax.set_ylim)):
            put([tick["value"] / AXES[key].unit for tick in ticks], [tick["text"] for tick in ticks])
            limit(*(end / AXES[key].unit for end in Scale(list(self._values(key).values()), AXES[key]).ends()))
        ax.minorticks_off()


class Scale:
    """From the values of an axis to shares of its length, 0 to 1: by ratios for costs, by differences otherwise."""

    def __init__(self, values: Sequence[float], axis: Axis) -> None:
        self.axis, self._by = axis, math.log if axis.cost else float
        low, high = self._by(min(values)), self._by(max(values))
        room = max(0.1 * (high - low), 0.2 if axis.cost else 0.02)
        self.low, self.high = low - room, high + room

    def share(self, value: float) -> float:
        """Where a value lies."""
        return (self._by(value) - self.low) / (self.high - self.low)

    def ends(self) -> tuple[float, float]:
        """The values at both ends."""
        back = math.exp if self.axis.cost else float
        return back(self.low), back(self.high)

    def ticks(self) -> list[dict[str, Any]]:
        """Three to nine round values, where they lie and how they are written."""
        low, high = (end / self.axis.unit for end in self.ends())
        values = _round_ratios(low, high) if self.axis.cost and high > 4 * low else _round_steps(low, high)
        return [{"value": value * self.axis.unit, "at": self.share(value * self.axis.unit), "text": f"{value:g}"}
                for value in values]


def _round_steps(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    return [float(f"{i * step:.10g}") for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _round_ratios(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(f"{m}e{p}") for p in powers for m in ((1, 2, 5) if high < 1000 * low else (1,))]
    return [mark for mark in marks if low <= mark <= high]


def label_sides(places: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """On which side of its point each name stands, so that names hide no points and one another as little as may be.

    places: by name the point as shares (across, up) of the plot. Returns right, left, above or below for each.
    """
    points = {name: (left * PLOT[0], (1 - up) * PLOT[1]) for name, (left, up) in places.items()}
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in points.values()]
    sides: dict[str, str] = {}
    for name, point in points.items():
        boxes = _label_boxes(name, *point)
        costs = {side: sum(_shared(box, other) for other in taken) + _outside(box) for side, box in boxes.items()}
        sides[name] = min(costs, key=lambda side: costs[side])
        taken.append(boxes[sides[name]])
    return sides


Box = tuple[float, float, float, float]


def _label_boxes(name: str, x: float, y: float) -> dict[str, Box]:
    wide = LETTER * len(name)
    return {"right": (x + 8, y - LINE / 2, x + 8 + wide, y + LINE / 2),
            "left": (x - 8 - wide, y - LINE / 2, x - 8, y + LINE / 2),
            "above": (x - wide / 2, y - 8 - LINE, x + wide / 2, y - 8),
            "below": (x - wide / 2, y + 8, x + wide / 2, y + 8 + LINE)}


def _shared(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box) -> float:
    inside = _shared(box, (0.0, 0.0, *PLOT))
    return 10 * ((box[2] - box[0]) * (box[3] - box[1]) - inside)


def _beside(side: str) -> dict[str, Any]:
    """Matplotlib's words for a text on that side of its point."""
    shift = {"right": (11, 0), "left": (-11, 0), "above": (0, 10), "below": (0, -10)}[side]
    return {"xytext": shift, "textcoords": "offset points",
            "ha": {"right": "left", "left": "right"}.get(side, "center"),
            "va": {"above": "bottom", "below": "top"}.get(side, "center")}
