"""The widgets of notebooks 08 and 09 in JupyterLab: a loss that is focused, a pixel that is chosen."""

import pytest
from test_widgets_in_browser import slide, wait_for, wait_for_change

pytestmark = pytest.mark.browser

CELLS = ["""
from lessons.data.scenes import CLASSES, compose_scene
from lessons.recipes import fcos, retinanet
from utils.widgets import FocalLossExplorer, LocationExplorer
photograph, target = compose_scene("val", 0)
detectors = {"one": retinanet.build().eval(), "other": retinanet.build(seed=1).eval()}
focal = FocalLossExplorer.from_detectors(detectors, photograph, target)
focal
""", """
names = [CLASSES[label] for label in target["labels"].tolist()]
places = LocationExplorer(photograph, target["boxes"], names, (8, 16, 32), fcos.build().reach, pixel=(48, 76))
places
"""]


def test_focus_takes_the_loss_from_easy_background(widgets):
    widget = widgets.widget("focal")
    share = widget.locator('[data-value="loss-0"]')
    veil = widget.locator("[data-veil]")
    before, picture = share.inner_text(), veil.get_attribute("href")
    slide(widgets, widget, "gamma", "Home")
    plain = wait_for(widgets, share.inner_text, lambda words: percent(words) > 10 * percent(before))
    wait_for_change(widgets, lambda: veil.get_attribute("href"), picture)
    curve = widget.locator('[data-curve="objects"]').get_attribute("d")
    slide(widgets, widget, "alpha", "ArrowRight", 10)
    wait_for(widgets, share.inner_text, lambda words: percent(words) < percent(plain))
    wait_for_change(widgets, lambda: widget.locator('[data-curve="objects"]').get_attribute("d"), curve)
    weighed = share.inner_text()
    widget.locator('[data-toggle="balanced"]').press("Space")
    wait_for_change(widgets, share.inner_text, weighed)
    picture = veil.get_attribute("href")
    widget.get_by_label("scores").select_option("other")
    wait_for_change(widgets, lambda: veil.get_attribute("href"), picture)
    widgets.screenshot("widget_focal")


def test_a_pixel_is_chosen_by_mouse_and_by_keyboard(widgets):
    widget = widgets.widget("locations")
    sides = widget.locator('[data-value="sides"]')
    before = sides.inner_text()
    assert before.startswith("l ")
    place = widget.locator("[data-ground]").bounding_box()
    widgets.page.mouse.click(place["x"] + place["width"] * 0.99, place["y"] + place["height"] * 0.01)
    wait_for(widgets, sides.inner_text, lambda words: words == "background: nothing to regress")
    wait_for(widgets, widget.locator("[data-sides]").count, lambda count: count == 0)
    aim = widget.locator("[data-aim] .dl-frame")
    x = float(aim.get_attribute("cx"))
    widgets.page.keyboard.press("ArrowLeft")  # the click has put the focus on the ring
    assert float(aim.get_attribute("cx")) == pytest.approx(x - 1)
    y = float(aim.get_attribute("cy"))
    widgets.page.keyboard.press("Shift+ArrowDown")
    assert float(aim.get_attribute("cy")) == pytest.approx(y + 8)
    ambiguous = widget.locator('[data-point="ambiguous"]')
    count = ambiguous.count()
    widget.locator('[data-toggle="pyramid"]').press("Space")
    widget.locator('[data-toggle="centre"]').press("Space")
    assert wait_for_change(widgets, ambiguous.count, count) > 0
    widget.get_by_text("0 to ∞ px").first.wait_for()
    widget.locator('[data-toggle="pyramid"]').press("Space")
    points = widget.locator("[data-point]")
    widget.locator('[data-level="P3"]').first.wait_for()
    count = points.count()
    widget.get_by_role("combobox").select_option("P5")
    wait_for(widgets, points.count, lambda count: count == 25)
    widgets.screenshot("widget_locations")


def percent(words):
    return float(words.replace("<", "").replace("%", ""))
