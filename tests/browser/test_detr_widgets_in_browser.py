"""The widgets of notebook 11 in JupyterLab: weights, cells, layers, heads and queries chosen by mouse and by key."""

import pytest
from test_widgets_in_browser import slide, wait_for, wait_for_change

pytestmark = pytest.mark.browser

CELLS = ["""
import torch
from lessons.backbones.resnet import LastStage, small_resnet
from lessons.data.scenes import CLASSES, compose_scene
from lessons.detectors.detr import DETR, Transformer
from lessons.images import ImagePreparation
from utils.widgets import AttentionExplorer, MatchingExplorer, QueryExplorer
torch.manual_seed(0)
transformer = Transformer(32, 4, 2, 3, dim_feedforward=32, dropout=0.0)
model = DETR(LastStage(small_resnet((1, 2, 2, 1))), transformer, 7, ImagePreparation((96,), 192), 25).eval()
photograph, target = compose_scene("val", 13, size=96)
matching = MatchingExplorer.from_detector(model, photograph, target, CLASSES)
matching
""", """
attention = AttentionExplorer(model, photograph, CLASSES, threshold=0.0)
attention
""", """
queries = QueryExplorer(torch.rand(12, 25, 4), torch.rand(12, 25))
queries
"""]


def test_weights_change_the_matching(widgets):
    widget = widgets.widget("matching")
    say, equation = widget.locator("p.dl-say"), widget.locator('[data-value="equation"]')
    assert widget.locator("[data-query-row]").count() == 25
    objects = widget.locator("[data-object]").count()
    assert widget.locator('[data-ring="match"]').count() == widget.locator("[data-query]").count() == objects > 1
    before = say.inner_text()
    slide(widgets, widget, "l1_weight", "Home")
    wait_for_change(widgets, say.inner_text, before)
    ground = widget.locator("[data-cell]").nth(2 * objects + 1).bounding_box()
    widgets.page.mouse.click(ground["x"] + ground["width"] / 2, ground["y"] + ground["height"] / 2)
    before = wait_for(widgets, equation.inner_text, lambda words: words.startswith("q2 ("))
    widgets.page.keyboard.press("ArrowDown")
    wait_for_change(widgets, equation.inner_text, before)
    wait_for(widgets, lambda: widget.locator("[data-chosen]").get_attribute("data-chosen"), lambda query: query == "3")
    cell = widget.locator('[data-cell="0-0"]')
    before = cell.get_attribute("fill")
    widget.get_by_label("show").select_option("GIoU")
    wait_for_change(widgets, lambda: cell.get_attribute("fill"), before)
    widget.get_by_label("match").select_option("greedy")
    widgets.screenshot("widget_matching")


def test_attention_follows_place_object_layer_and_head(widgets):
    widget = widgets.widget("attention")
    say = widget.locator("p.dl-say")
    picture = widget.locator(".dl-picture [data-veil]")
    ground = widget.locator("[data-ground]").bounding_box()
    widgets.page.mouse.click(ground["x"] + 5, ground["y"] + 5)
    wait_for(widgets, say.inner_text, lambda words: "column 0, row 0" in words)
    widgets.page.keyboard.press("ArrowRight")
    wait_for(widgets, say.inner_text, lambda words: "column 1, row 0" in words)
    slide(widgets, widget, "layer", "Home")
    wait_for(widgets, say.inner_text, lambda words: "layer 1" in words)
    shown = picture.get_attribute("href")
    widget.locator('[data-tile="mean"]').focus()
    widgets.page.keyboard.press("ArrowRight")
    wait_for(widgets, say.inner_text, lambda words: "head 1" in words)
    wait_for_change(widgets, lambda: picture.get_attribute("href"), shown)
    widget.locator('[data-row="0"]').click()
    before = wait_for(widgets, say.inner_text, lambda words: words.startswith("Decoder"))
    slider = widget.locator('[data-slider="layer"]')
    wait_for(widgets, lambda: slider.get_attribute("max"), lambda last: last == "3")
    widgets.page.keyboard.press("ArrowDown")
    wait_for_change(widgets, say.inner_text, before)
    now = widget.locator('[data-now="true"]')
    wait_for(widgets, lambda: now.get_attribute("data-object"), lambda one: one == "1")
    widgets.screenshot("widget_attention")


def test_a_query_is_chosen_among_all(widgets):
    widget = widgets.widget("queries")
    say = widget.locator("p.dl-say")
    widget.locator('[data-tile="6"]').click()
    wait_for(widgets, say.inner_text, lambda words: words.startswith("Query 6"))
    widgets.page.keyboard.press("ArrowDown")
    before = wait_for(widgets, say.inner_text, lambda words: words.startswith("Query 11"))
    widget.locator('[data-toggle="outlines"]').check()
    outlines = widget.locator("[data-outline]")
    wait_for(widgets, outlines.count, lambda count: count == 12)
    slide(widgets, widget, "lowest", "PageUp")
    before = wait_for_change(widgets, say.inner_text, before)
    wait_for(widgets, outlines.count, lambda count: count < 12)
    widget.get_by_label("colour by").select_option("figure 7")
    wait_for_change(widgets, say.inner_text, before)
    widgets.screenshot("widget_queries")
