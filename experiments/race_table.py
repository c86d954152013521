"""Reading the race's record: who ran, whose heir each is, and how sure a difference between two is."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

SURE = 2.0  # standard errors, beyond which a difference is more than the choice of scenes


class Entrant(NamedTuple):
    """A detector of the race: its paper's name and year, whose heir it is, and the idea that it adds to that one."""

    title: str
    year: int
    before: str | None
    idea: str


ENTRANTS = {
    "rcnn": Entrant("R-CNN", 2014, None, "a CNN looks at every proposal"),
    "sppnet": Entrant("SPPnet", 2014, "rcnn", "one map of features for all proposals, pooled into a pyramid of bins"),
    "fast_rcnn": Entrant("Fast R-CNN", 2015, "sppnet", "one network, one loss, trained through to the first layers"),
    "faster_rcnn": Entrant("Faster R-CNN", 2015, "fast_rcnn", "the network proposes its own regions"),
    "fpn": Entrant("FPN", 2017, "faster_rcnn", "a map for every size"),
    "mask_rcnn": Entrant("Mask R-CNN", 2017, "fpn", "a mask for each object"),
    "keypoint_rcnn": Entrant("Keypoint R-CNN", 2017, "fpn", "points on each object"),
    "retinanet": Entrant("RetinaNet", 2017, "fpn", "one stage, and a loss that is not drowned by easy background"),
    "fcos": Entrant("FCOS", 2019, "retinanet", "points instead of anchors"),
    "centernet": Entrant("CenterNet", 2019, "fcos", "a box is two corners and a centre"),
    "detr": Entrant("DETR", 2020, "fpn", "a set at once, without anchors and without NMS"),
}


def number(row: dict[str, Any], key: str) -> float:
    """A number of a detector's row: "AP50", "unknown AP50" for the other split, or a cost as "seconds"."""
    if key in row:
        return row[key]
    return row["val_unknown"][key.removeprefix("unknown ")] if key.startswith("unknown ") else row["val"][key]


def left_out(row: dict[str, Any], key: str) -> list[float]:
    """An accuracy with each group of scenes left out; empty where it was not measured so."""
    split = "val_unknown" if key.startswith("unknown ") else "val"
    return row[split]["left_out"].get(key.removeprefix("unknown "), [])


def jackknife_error(values: Sequence[float]) -> float:
    """The standard error of a number from its values with each of G groups left out (Efron and Stein, 1981).

    sqrt((G - 1) / G * sum (value - mean)^2): values that share most of their scenes lie close together, hence the
    factor. It tells what other scenes of the same objects would change, not what another training would.
    """
    groups = len(values)
    if groups < 2:
        return math.nan
    mean = math.fsum(values) / groups
    return math.sqrt((groups - 1) / groups * math.fsum((value - mean) ** 2 for value in values))


def difference(record: dict[str, Any], name: str, other: str, key: str = "AP") -> tuple[float, float]:
    """How much more of an accuracy one detector has than another, and the standard error of that (NaN: not known).

    Both saw the same scenes, so the error is that of the differences, which is smaller than the errors would suggest.
    """
    row, rival = (record["detectors"][one] for one in (name, other))
    pairs = zip(left_out(row, key), left_out(rival, key), strict=True)
    return number(row, key) - number(rival, key), jackknife_error([a - b for a, b in pairs])


def is_sure(change: tuple[float, float]) -> bool:
    """Whether a difference is larger than twice its standard error."""
    return abs(change[0]) > SURE * change[1]


def ran_before(record: dict[str, Any], name: str) -> str | None:
    """The detector whose heir this one is; where that did not run, that one's predecessor."""
    before = ENTRANTS[name].before
    while before is not None and before not in record["detectors"]:
        before = ENTRANTS[before].before
    return before


def runners(record: dict[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    """The detectors as `utils.widgets.RaceExplorer` wants them: numbers by key, and doubts of the changes.

    "doubts" holds twice the standard error of the difference to the predecessor, where it is known.
    """
    found = []
    for name, row in record["detectors"].items():
        before = ran_before(record, name)
        doubts = {} if before is None else {key: SURE * difference(record, name, before, key)[1] for key in keys
                                            if key not in row and left_out(row, key)}
        found.append({"name": name, **ENTRANTS[name]._asdict(), "before": before,
                      "numbers": {key: number(row, key) for key in keys}, "doubts": doubts})
    return found
