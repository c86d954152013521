"""Lesson 01 as a student meets it: JupyterLab, Run All, drag a box, move a slider, read the number."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
NOTEBOOK = "01_boxes_iou_nms_ap.ipynb"


@pytest.fixture(scope="module")
def lesson(lab):
    assert (Path(lab.folder) / NOTEBOOK).exists()
    lab.errors.clear()
    lab.open(NOTEBOOK)
    lab.run_all()
    yield lab
    lab.refuse_complaints()


def test_dragging_a_box_changes_number_and_picture(lesson):
    widget = lesson.widget("boxes")
    number = widget.locator('[data-value="iou"]')
    before, picture = number.inner_text(), widget.screenshot()
    body = widget.locator('[data-box="b"] .dl-frame').bounding_box()
    x, y = body["x"] + body["width"] / 2, body["y"] + body["height"] / 2
    lesson.page.mouse.move(x, y)
    lesson.page.mouse.down()
    lesson.page.mouse.move(x - 40, y - 30, steps=8)
    lesson.page.mouse.up()
    lesson.page.wait_for_function("([node, old]) => node.textContent !== old", arg=[number.element_handle(), before])
    assert widget.screenshot() != picture
    lesson.screenshot("lesson_01_box_dragged")


def test_the_keyboard_moves_a_box(lesson):
    widget = lesson.widget("boxes")
    number = widget.locator('[data-value="giou"]')
    before = number.inner_text()
    widget.locator('[data-box="b"]').focus()
    for _ in range(3):
        lesson.page.keyboard.press("Shift+ArrowRight")
    lesson.page.wait_for_function("([node, old]) => node.textContent !== old", arg=[number.element_handle(), before])


def test_a_slider_changes_number_and_picture(lesson):
    widget = lesson.widget("nms")
    sentence = widget.locator("p.dl-say")
    before, picture = sentence.inner_text(), widget.screenshot()
    widget.locator('[data-slider="step"]').focus()
    lesson.page.keyboard.press("ArrowRight")
    assert sentence.inner_text() != before
    assert widget.screenshot() != picture
    lesson.screenshot("lesson_01_nms_player")


def test_the_threshold_moves_along_the_curve(lesson):
    widget = lesson.widget("pr")
    recall = widget.locator('[data-value="recall"]')
    before = recall.inner_text()
    widget.locator('[data-slider="threshold"]').focus()
    lesson.page.keyboard.press("Home")
    assert float(recall.inner_text()) > float(before)
    lesson.screenshot("lesson_01_precision_recall")


def test_figures_are_described_and_mermaid_is_drawn(lesson):
    assert lesson.page.locator(".jp-RenderedMermaid svg, .jp-RenderedMermaid img, .jp-RenderedMarkdown svg").count()
    pictures = lesson.page.locator(".jp-RenderedImage img").count()
    assert pictures >= 5
    assert lesson.page.locator("details summary", has_text="Text description").count() >= pictures
