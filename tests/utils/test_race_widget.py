"""The race explorer: its numbers are the runners', nobody unbeaten is left out, and names stand where they can be read."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from utils.widgets import RaceExplorer
from utils.widgets.race import AXES, PLOT, Axis, Scale, label_sides


def runner(name, accuracy, cost, before=None, doubts=None):
    numbers = {key: cost if axis.cost else accuracy for key, axis in AXES.items()}
    return {"name": name, "title": name.title(), "year": 2014, "before": before, "idea": f"the idea of {name}",
            "numbers": numbers, "doubts": doubts or {}}


RUNNERS = [runner("first", 0.4, 20.0), runner("second", 0.3, 4.0, "first", {"AP": 0.05}),
           runner("third", 0.5, 1.0, "second", {"AP": 0.25})]


def test_the_message_and_the_table_tell_what_was_bought():
    race = RaceExplorer(RUNNERS, chosen="second")
    assert race.before == "first"
    assert race.message == ("Second (2014): the idea of second. AP 0.300, time, Faster R-CNN = 1 4.00. Against First: "
                            "AP −0.100 ± 0.050, time, Faster R-CNN = 1 × 0.20.")
    lines = {line["key"]: line for line in race.table}
    assert list(lines) == list(AXES)
    assert lines["AP"] == {"key": "AP", "label": "AP", "value": "0.300", "before": "0.400", "change": "−0.100 ± 0.050", "sure": True}
    assert lines["AP50"]["change"] == "−0.100", "no doubt is known"
    assert lines["ratio"]["change"] == "× 0.20"
    race.chosen = "third"
    assert race.message.endswith("The change of AP may be the choice of scenes.")
    race.chosen = "first"
    assert race.message.endswith("It ran first.")
    assert {line["change"] for line in race.table} == {"–"}
    json.dumps(race.get_state(["points", "ticks", "best", "table", "message"]), allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([1.0, 2.0, 3.0])), min_size=1, max_size=8))
def test_the_unbeaten_are_those_that_nobody_beats(pairs):
    race = RaceExplorer([runner(f"r{i}", *pair) for i, pair in enumerate(pairs)])
    best = [i for i, (gain, cost) in enumerate(pairs)
            if not any((g >= gain and c < cost) or (g > gain and c <= cost) for g, c in pairs)]
    assert sorted(race.best) == sorted(f"r{i}" for i in best)
    costs = [race._runners[name]["numbers"]["ratio"] for name in race.best]
    assert costs == sorted(costs)


def test_costs_are_drawn_by_ratios_and_gains_by_differences():
    race = RaceExplorer([*RUNNERS, runner("fourth", 0.45, 5.0)])
    left = {point["name"]: point["left"] for point in race.points}
    up = {point["name"]: point["up"] for point in race.points}
    assert left["first"] - left["second"] == pytest.approx(left["fourth"] - left["third"]), "five times as much"
    assert up["third"] - up["first"] == pytest.approx(up["first"] - up["second"])
    race.x, race.y = "AP", "AP50"
    assert [point["left"] for point in race.points] == [point["up"] for point in race.points]
    assert race.best == ["third"]
    race.x, race.y = "ratio", "parameters"
    assert race.best == ["third"], "two costs"


@settings(max_examples=60, deadline=None)
@given(st.floats(0.001, 1000), st.floats(1.0, 1e4), st.booleans())
def test_ticks_are_few_and_lie_on_the_axis(low, ratio, cost):
    scale = Scale([low, low * ratio], Axis("made up", cost))
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 10
    assert all(-1e-9 <= tick["at"] <= 1 + 1e-9 for tick in ticks)
    assert all(tick["at"] == pytest.approx(scale.share(tick["value"])) for tick in ticks)
    assert scale.ends()[0] < low <= low * ratio < scale.ends()[1]
    assert scale.share(low) <= scale.share(low * ratio)


def test_names_stay_inside_and_do_not_hide_each_other():
    sides = label_sides({"at the right end": (0.99, 0.5), "at the left end": (0.01, 0.5)})
    assert sides == {"at the right end": "left", "at the left end": "right"}
    close = label_sides({"one name": (0.5, 0.5), "another": (0.5 + 12 / PLOT[0], 0.5)})
    assert close["one name"] != close["another"]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="nobody runs"):
        RaceExplorer([])
    with pytest.raises(ValueError, match="second comes after nobody"):
        RaceExplorer([runner("second", 0.1, 1.0, "nobody")])
    for wrong in ({"AP": math.nan}, {"ratio": 0.0}):
        bad = runner("bad", 0.1, 1.0)
        bad["numbers"] |= wrong
        with pytest.raises(ValueError, match=f"bad has {next(iter(wrong))}"):
            RaceExplorer([bad])
    del bad["numbers"]["AP_small"]
    bad["numbers"]["ratio"] = 1.0
    with pytest.raises(ValueError, match="AP_small nan"):
        RaceExplorer([bad])
    race = RaceExplorer(RUNNERS)
    race.chosen = "zeppelin"
    assert "'zeppelin' does not run" in race.error
    race.chosen = "first"
    assert race.error == ""


@pytest.mark.parametrize(("x", "y"), [("ratio", "AP"), ("AP", "unknown AP"), ("multiply_adds", "parameters")])
def test_the_still_figure(x, y):
    figure = RaceExplorer(RUNNERS, x, y).static()
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    assert isinstance(RaceExplorer(RUNNERS[:1]).static(), Figure)
