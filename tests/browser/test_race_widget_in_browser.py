"""The widget of notebook 12 in JupyterLab: axes are chosen, detectors are walked through."""

import pytest
from test_widgets_in_browser import wait_for, wait_for_change

pytestmark = pytest.mark.browser

CELLS = ["""
from utils.widgets import RaceExplorer
from utils.widgets.race import AXES


def runner(name, accuracy, cost, before=None):
    numbers = {key: cost * axis.unit if axis.cost else accuracy for key, axis in AXES.items()}
    return {"name": name, "title": name.title(), "year": 2015, "before": before, "idea": "an idea", "numbers": numbers, "doubts": {"AP": 0.02}}


race = RaceExplorer([runner("first", 0.4, 20.0), runner("second", 0.3, 4.0, "first"), runner("third", 0.5, 1.0, "second")])
race
"""]


def test_detectors_are_walked_through_and_axes_chosen(widgets):
    widget = widgets.widget("race")
    say = widget.locator(".dl-say")
    before = say.inner_text()
    assert before.startswith("Third (2015)")
    assert widget.locator('[data-arrow="second-third"]').count() == 1
    widget.locator("[data-runners]").focus()
    widgets.page.keyboard.press("ArrowLeft")
    wait_for(widgets, say.inner_text, lambda words: words.startswith("Second (2015)"))
    change = widget.locator('[data-value="AP-change"]')
    wait_for(widgets, change.inner_text, lambda words: words == "−0.100 ± 0.020")
    widgets.page.keyboard.press("Home")
    wait_for(widgets, say.inner_text, lambda words: words.endswith("It ran first."))
    wait_for(widgets, widget.locator("[data-arrow]").count, lambda count: count == 0)
    widget.locator('[data-runner="third"]').hover()
    wait_for(widgets, say.inner_text, lambda words: words.startswith("Third (2015)"))
    place = widget.locator('[data-runner="first"]').bounding_box()
    widget.get_by_label("across").select_option("AP50")
    assert wait_for_change(widgets, lambda: widget.locator('[data-runner="first"]').bounding_box(), place) != place
    assert widget.locator('[data-label="x"]').text_content() == "AP50"
    told = say.inner_text()
    widget.get_by_label("detector", exact=True).select_option("second")
    wait_for_change(widgets, say.inner_text, told)
    widgets.screenshot("widget_race")
