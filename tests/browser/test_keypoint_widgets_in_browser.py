"""The widgets of notebook 10 in JupyterLab: a cell chosen by click and by key, pairs with and without their centres."""

import pytest
from test_widgets_in_browser import slide, wait_for, wait_for_change

pytestmark = pytest.mark.browser

CELLS = ["""
import torch
from lessons.corners import KeypointMaps
from lessons.data.scenes import CLASSES, compose_scene
from utils.widgets import PoolingExplorer, TripletExplorer
photograph, target = compose_scene("val", 13, size=160)
pooling = PoolingExplorer(photograph, photograph.mean(0)[2::4, 2::4])
pooling
""", """
generator = torch.Generator().manual_seed(0)
maps = {kind: KeypointMaps(torch.rand(1, 6, 40, 40, generator=generator), torch.zeros(1, 2, 40, 40),
                           torch.rand(1, 1, 40, 40, generator=generator)) for kind in ("top_left", "bottom_right", "centre")}
triplets = TripletExplorer(photograph, maps, target, CLASSES)
triplets
"""]


def test_looks_follow_the_chosen_cell(widgets):
    widget = widgets.widget("pooling")
    say, lines = widget.locator("p.dl-say"), widget.locator("[data-line]")
    assert lines.count() == 0
    widget.get_by_role("button", name="Next").click()
    wait_for(widgets, lines.count, lambda count: count == 1)
    wait_for(widgets, say.inner_text, lambda words: "Along the row to the right" in words)
    before = say.inner_text()
    widget.get_by_role("button", name="Next").click()
    wait_for(widgets, lines.count, lambda count: count == 2)
    before = wait_for_change(widgets, say.inner_text, before)
    widget.locator("[data-aim]").focus()
    widgets.page.keyboard.press("ArrowUp")
    before = wait_for_change(widgets, say.inner_text, before)
    ground = widget.locator("[data-ground]").bounding_box()
    widgets.page.mouse.click(ground["x"] + ground["width"] * 0.11, ground["y"] + ground["height"] * 0.11)
    wait_for_change(widgets, say.inner_text, before)
    assert int(widget.locator("[data-aim] .dl-frame").get_attribute("x")) == 16
    widget.get_by_label("kind").select_option("cascade, top-left")
    wait_for(widgets, widget.locator("[data-look]").count, lambda count: count == 4)
    widgets.screenshot("widget_pooling")


def test_centres_thin_out_the_pairs(widgets):
    widget = widgets.widget("triplets")
    pairs, say = widget.locator("[data-pair]"), widget.locator("p.dl-say")
    many = pairs.count()
    assert many > 10
    assert widget.locator("[data-region]").count() == 1
    widget.locator('[data-toggle="central"]').check()
    wait_for(widgets, pairs.count, lambda count: count < many)
    before = wait_for(widgets, say.inner_text, lambda words: "A centre in the middle keeps" in words)
    widget.locator('[data-row="3"]').click()
    before = wait_for_change(widgets, say.inner_text, before)
    widgets.page.keyboard.press("ArrowDown")
    before = wait_for_change(widgets, say.inner_text, before)
    slide(widgets, widget, "distance", "Home")
    wait_for_change(widgets, say.inner_text, before)
    widgets.screenshot("widget_triplets")
