"""The widgets of notebook 07 in JupyterLab: a region dragged by fractions of a cell, a mask cut at a threshold."""

import pytest
from test_widgets_in_browser import slide, wait_for, wait_for_change

pytestmark = pytest.mark.browser

CELLS = ["""
import torch
from lessons.data.scenes import CLASSES, compose_scene
from lessons.masks import project_masks
from utils.widgets import MaskPaste, RoiPoolingExplorer
regions = RoiPoolingExplorer(torch.arange(64.0).view(8, 8), [25.6, 36.8, 91.2, 102.4])
regions
""", """
photograph, target = compose_scene("val", 13, size=320)
found = {"boxes": target["boxes"], "labels": target["labels"]}
squares = project_masks(target["masks"], target["boxes"], torch.arange(len(target["boxes"])), 28)
paste = MaskPaste(photograph, squares, found, CLASSES, target["masks"])
paste
"""]


def test_a_region_moves_by_fractions_of_a_cell(widgets):
    widget = widgets.widget("roi")
    say = widget.locator("p.dl-say")
    body, before = widget.locator('[data-box="r"] .dl-frame'), say.inner_text()
    assert "RoIPool looks at 5 × 5 whole cells" in before
    assert widget.locator("[data-sample]").count() == 16
    assert widget.locator("[data-bin]").count() == 4
    widget.locator('[data-box="r"]').focus()
    widgets.page.keyboard.press("ArrowLeft")
    assert float(body.get_attribute("x")) == pytest.approx(24.6)
    wait_for_change(widgets, say.inner_text, before)
    results = widget.locator('[data-result="RoIAlign"]')
    old, place = results.get_attribute("aria-label"), body.bounding_box()
    widgets.page.mouse.move(place["x"] + 60, place["y"] + 60)
    widgets.page.mouse.down()
    widgets.page.mouse.move(place["x"] + 30, place["y"] + 60, steps=4)
    widgets.page.mouse.up()
    wait_for_change(widgets, lambda: results.get_attribute("aria-label"), old)
    assert float(body.get_attribute("x")) < 24.6
    slide(widgets, widget, "bins", "ArrowRight")
    wait_for(widgets, widget.locator("[data-bin]").count, lambda count: count == 9)
    widgets.screenshot("widget_roi")


def test_a_higher_threshold_leaves_less_of_a_mask(widgets):
    widget = widgets.widget("mask_paste")
    say, veil = widget.locator("p.dl-say"), widget.locator("[data-veil]")
    before, shown = say.inner_text(), veil.get_attribute("href")
    slide(widgets, widget, "threshold", "Shift+ArrowRight", 4)
    widget.get_by_text("reach 0.90").wait_for()
    after = say.inner_text()
    assert pixels(after) < pixels(before)
    wait_for_change(widgets, lambda: veil.get_attribute("href"), shown)
    widget.get_by_role("combobox").select_option("1")
    wait_for_change(widgets, say.inner_text, after)
    widgets.screenshot("widget_mask_paste")


def pixels(sentence):
    return int(sentence.split("; ")[1].split(" pixels")[0])
