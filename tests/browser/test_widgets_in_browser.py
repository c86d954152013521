"""Every widget in JupyterLab: what mouse and keyboard do must arrive in Python, and its numbers in the page."""

import nbformat
import pytest

pytestmark = pytest.mark.browser

CELLS = ["""
import torch
from lessons.data.scenes import CLASSES, compose_scene
from lessons.proposals import selective_search, selective_search_hierarchy
from utils.widgets import *
photograph, target = compose_scene("val", 13, size=320)
scene, _ = compose_scene("val", 13)
boxes = selective_search(scene)[:40]
playground = BoxPlayground(photograph, [60, 60, 170, 200], [200, 110, 290, 230])
""", "playground", """
player = NmsPlayer(scene, boxes, torch.linspace(1.5, -1, 40), iou_threshold=0.3)
player
""", """
explorer = PrecisionRecallExplorer(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, True, False]), 3)
explorer
""", """
merging = HierarchyExplorer.from_hierarchy(scene, selective_search_hierarchy(scene))
merging
""", """
scores = torch.linspace(1.5, -0.5, len(target["boxes"]))
found = {"boxes": target["boxes"] / 2, "labels": target["labels"], "scores": scores}
slider = DetectionThreshold(scene, found, CLASSES, threshold=0.0)
slider
"""]


@pytest.fixture(scope="module")
def widgets(lab):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(notebook, lab.folder / "widgets.ipynb")
    lab.open("widgets.ipynb")
    lab.run_all()
    yield lab
    assert not lab.errors, lab.errors
    assert not lab.outside, lab.outside


def number(widget, name):
    return float(widget.locator(f'[data-value="{name}"]').first.inner_text())


def wait_for_change(lab, read, before):
    for _ in range(100):
        if read() != before:
            return read()
        lab.page.wait_for_timeout(50)
    raise AssertionError(f"still {before}")


def test_boxes_follow_the_mouse(widgets):
    widget = widgets.widget("boxes")
    before = number(widget, "giou")
    body = widget.locator('[data-box="b"] .dl-frame').bounding_box()
    x, y = body["x"] + body["width"] / 2, body["y"] + body["height"] / 2
    widgets.page.mouse.move(x, y)
    widgets.page.mouse.down()
    widgets.page.mouse.move(x - 90, y - 20, steps=6)
    widgets.page.mouse.up()
    assert wait_for_change(widgets, lambda: number(widget, "giou"), before) > before
    widgets.screenshot("widget_boxes")


def test_a_handle_resizes_one_corner_only(widgets):
    widget = widgets.widget("boxes")
    frame = widget.locator('[data-box="a"] .dl-frame')
    before = {side: float(frame.get_attribute(side)) for side in ("x", "y", "width", "height")}
    grip = widget.locator('[data-box="a"] [data-handle="nw"]').bounding_box()
    widgets.page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    widgets.page.mouse.down()
    widgets.page.mouse.move(grip["x"] - 20, grip["y"] - 20, steps=4)
    widgets.page.mouse.up()
    after = {side: float(frame.get_attribute(side)) for side in before}
    assert after["x"] < before["x"]
    assert after["width"] > before["width"]
    assert after["x"] + after["width"] == pytest.approx(before["x"] + before["width"], abs=0.2)


def test_boxes_follow_the_keyboard(widgets):
    widget = widgets.widget("boxes")
    box = widget.locator('[data-box="b"]')
    frame = box.locator(".dl-frame")
    box.focus()
    x, width = float(frame.get_attribute("x")), float(frame.get_attribute("width"))
    widgets.page.keyboard.press("ArrowRight")
    assert float(frame.get_attribute("x")) == pytest.approx(x + 1)
    widgets.page.keyboard.press("Shift+ArrowLeft")
    assert float(frame.get_attribute("x")) == pytest.approx(x - 9)
    widgets.page.keyboard.press("Control+ArrowRight")
    assert float(frame.get_attribute("width")) == pytest.approx(width + 1)


def test_descent_reaches_the_target_where_there_is_a_gradient(widgets):
    widget = widgets.widget("boxes")
    widget.get_by_role("button", name="disjoint").click()
    wait_for_change(widgets, lambda: number(widget, "iou"), number(widget, "iou"))
    assert number(widget, "iou") == 0
    assert widget.locator("[data-arrow]").count() > 0  # GIoU pulls
    before = number(widget, "giou")
    for _ in range(5):
        widget.get_by_role("button", name="Step").click()
    assert wait_for_change(widgets, lambda: number(widget, "giou"), before) > before
    widget.get_by_role("button", name="disjoint").click()
    widget.get_by_role("combobox").select_option("IoU")
    widgets.page.wait_for_timeout(500)
    assert widget.locator("[data-arrow]").count() == 0  # IoU does not
    assert "nothing tells B where to go" in widget.inner_text()


def slide(lab, widget, trait, keys, times=1):
    slider = widget.locator(f'[data-slider="{trait}"]')
    slider.focus()
    for _ in range(times):
        lab.page.keyboard.press(keys)


def test_nms_steps_and_threshold(widgets):
    widget = widgets.widget("nms")
    kept = widget.locator("li.dl-kept")
    before = kept.count()
    widget.get_by_role("button", name="Next").click()
    assert kept.count() == before + 1
    slider = widget.locator('[data-slider="step"]')
    longest = slider.get_attribute("max")
    slide(widgets, widget, "iou_threshold", "ArrowRight", 8)
    assert int(wait_for_change(widgets, lambda: slider.get_attribute("max"), longest)) > int(longest)
    widgets.screenshot("widget_nms")


def test_precision_and_recall_move_with_the_threshold_and_with_a_flip(widgets):
    widget = widgets.widget("pr")
    point, recall = widget.locator('[data-point="now"]'), number(widget, "recall")
    place = point.get_attribute("cx")
    slide(widgets, widget, "threshold", "ArrowRight", 25)
    assert number(widget, "recall") < recall
    assert point.get_attribute("cx") != place
    before = number(widget, "ap")
    widget.locator('[data-rank="1"]').focus()
    widgets.page.keyboard.press("Enter")
    assert wait_for_change(widgets, lambda: number(widget, "ap"), before) > before
    widget.locator('[data-rank="3"]').click()
    widgets.page.wait_for_timeout(500)
    assert "each can be found once" in widget.locator(".dl-error").inner_text()  # a fourth right one of three objects
    widgets.screenshot("widget_pr")


def test_segments_merge(widgets):
    widget = widgets.widget("hierarchy")
    picture = widget.locator("image")
    before = picture.get_attribute("href")
    slide(widgets, widget, "step", "ArrowRight", 10)
    assert picture.get_attribute("href") != before
    assert "regions after" in widget.inner_text()
    widgets.screenshot("widget_hierarchy")


def test_fewer_detections_above_a_higher_threshold(widgets):
    widget = widgets.widget("threshold")
    shown = widget.locator("svg rect.dl-frame")
    before = shown.count()
    slide(widgets, widget, "threshold", "End")
    assert shown.count() < before
    widgets.screenshot("widget_threshold")


def test_a_failing_cell_is_noticed(lab):
    """Without this, a notebook that breaks in the browser could pass."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in ("1 / 0", "print(2)")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(notebook, lab.folder / "failing.ipynb")
    lab.open("failing.ipynb")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        lab.run_all(seconds=60)
