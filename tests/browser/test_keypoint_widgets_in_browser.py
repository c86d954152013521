"""The widgets of notebook 10 in JupyterLab: a cell chosen by click and by key, pairs with and without their centres."""

import pytest
from test_widgets_in_browser import slide, wait_for_change

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
    wait_for_change(widgets, lines.count, 0)
    assert "Along the row to the right" in say.inner_text()
    widget.get_by_role("button", name="Next").click()
    wait_for_change(widgets, lines.count, 1)
    before = say.inner_text()
    widget.locator("[data-aim]").focus()
    widgets.page.keyboard.press("ArrowUp")
    wait_for_change(widgets, say.inner_text, before)
    before, ground = say.inner_text(), widget.locator("[data-ground]").bounding_box()
    widgets.page.mouse.click(ground["x"] + ground["width"] * 0.11, ground["y"] + ground["height"] * 0.11)
    wait_for_change(widgets, say.inner_text, before)
    assert int(widget.locator("[data-aim] .dl-frame").get_attribute("x")) == 16
    widget.get_by_label("kind").select_option("cascade, top-left")
    wait_for_change(widgets, widget.locator("[data-look]").count, 2)
    assert widget.locator("[data-look]").count() == 4
    widgets.screenshot("widget_pooling")


def test_centres_thin_out_the_pairs(widgets):
    widget = widgets.widget("triplets")
    pairs, say = widget.locator("[data-pair]"), widget.locator("p.dl-say")
    many, before = pairs.count(), say.inner_text()
    assert many > 10
    assert widget.locator("[data-region]").count() == 1
    widget.locator('[data-toggle="central"]').check()
    wait_for_change(widgets, pairs.count, many)
    assert pairs.count() < many
    assert "A centre in the middle keeps" in say.inner_text()
    before = say.inner_text()
    widget.locator('[data-row="3"]').click()
    wait_for_change(widgets, say.inner_text, before)
    before = say.inner_text()
    widgets.page.keyboard.press("ArrowDown")
    slide(widgets, widget, "distance", "Home")
    wait_for_change(widgets, say.inner_text, before)
    widgets.screenshot("widget_triplets")
