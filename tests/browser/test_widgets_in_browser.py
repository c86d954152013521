"""Every widget in JupyterLab: what mouse and keyboard do must arrive in Python, and its numbers in the page.

What concerns the page alone (listeners, ids, touch, colours) is looked at on an empty page with a stand-in for the
kernel's model, where a widget can be shown twice, taken away and put on a dark ground at will.
"""

import base64
import time

import pytest
import torch

from utils.widgets import (
    AnchorExplorer,
    BoxPlayground,
    DetectionThreshold,
    FocalLossExplorer,
    HierarchyExplorer,
    LevelExplorer,
    LocationExplorer,
    MaskPaste,
    NmsPlayer,
    PrecisionRecallExplorer,
    ProposalExplorer,
    PyramidExplorer,
    RoiPoolingExplorer,
)

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
""", """
anchors = AnchorExplorer(photograph, target["boxes"], [CLASSES[label] for label in target["labels"]], sizes=(32, 64))
anchors
""", """
near = target["boxes"] / 2 + torch.tensor([3.0, 2, 5, 4])
heat = torch.rand(20, 20, generator=torch.Generator().manual_seed(0))
proposed = ProposalExplorer(scene, torch.cat([boxes, near]), {"32 px square": heat, "32 px tall": heat.T}, target["boxes"] / 2)
proposed
""", """
pyramid = LevelExplorer(photograph, [60, 60, 170, 200])
pyramid
""", """
from lessons import zoo
from lessons.images import normalise
with torch.no_grad():
    feature = zoo.load("sppnet", "lesson").backbone(normalise(scene)[None])[0][0]
pyramid = PyramidExplorer(scene, feature, target["boxes"][0].div(2).tolist())
pyramid
"""]


def number(widget, name):
    return float(widget.locator(f'[data-value="{name}"]').first.inner_text())


def wait_for(lab, read, wanted):
    """What `read()` gives once it is as wanted; answers come from Python, late, and first those to earlier changes."""
    deadline = time.monotonic() + 120
    while not wanted(found := read()):
        assert time.monotonic() < deadline, f"still {found!r}"
        lab.page.wait_for_timeout(50)
    return found


def wait_for_change(lab, read, before):
    """As `wait_for`, where nothing is known of what comes but that it is new."""
    return wait_for(lab, read, lambda found: found != before)


def test_boxes_follow_the_mouse(widgets):
    widget = widgets.widget("boxes")
    before = number(widget, "giou")
    body = widget.locator('[data-box="b"] .dl-frame').bounding_box()
    x, y = body["x"] + body["width"] / 2, body["y"] + body["height"] / 2
    widgets.page.mouse.move(x, y)
    widgets.page.mouse.down()
    widgets.page.mouse.move(x - 90, y - 20, steps=6)
    widgets.page.mouse.up()
    wait_for(widgets, lambda: number(widget, "giou"), lambda giou: giou > before)
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


def start_disjoint(lab, widget):
    widget.get_by_role("button", name="disjoint").click()
    wait_for(lab, lambda: number(widget, "iou"), lambda iou: iou == 0)
    wait_for(lab, widget.locator("[data-arrow]").count, lambda arrows: arrows > 0)  # GIoU pulls


def test_descent_reaches_the_target_where_there_is_a_gradient(widgets):
    widget = widgets.widget("boxes")
    start_disjoint(widgets, widget)
    before = number(widget, "giou")
    for _ in range(5):
        widget.get_by_role("button", name="Step").click()
    wait_for(widgets, lambda: number(widget, "giou"), lambda giou: giou > before)
    start_disjoint(widgets, widget)
    widget.get_by_role("combobox").select_option("IoU")
    wait_for(widgets, widget.locator("[data-arrow]").count, lambda arrows: arrows == 0)  # IoU does not
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
    wait_for(widgets, lambda: int(slider.get_attribute("max")), lambda last: last > int(longest))
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
    wait_for(widgets, lambda: number(widget, "ap"), lambda ap: ap > before)
    widget.locator('[data-rank="3"]').click()
    error = widget.locator(".dl-error")
    wait_for(widgets, error.inner_text, lambda text: "each can be found once" in text)  # a fourth right one of three objects
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


def test_anchors_follow_thresholds_rule_and_sizes(widgets):
    widget = widgets.widget("anchors")
    before = number(widget, "positive")
    slide(widgets, widget, "high", "ArrowLeft", 4)
    wait_for(widgets, lambda: number(widget, "positive"), lambda positive: positive > before)
    wait_for(widgets, widget.locator("[data-anchor]").count, lambda drawn: drawn == min(number(widget, "positive"), 60))
    cells = widget.locator("svg circle").count()
    widget.get_by_role("combobox").first.select_option("8")
    wait_for(widgets, widget.locator("svg circle").count, lambda finer: finer == 4 * cells)
    negative = number(widget, "negative")
    widget.locator('[data-choice="sizes-128"]').press("Space")
    wait_for(widgets, lambda: number(widget, "negative"), lambda more: more > negative)
    positive = number(widget, "positive")
    slide(widgets, widget, "high", "End")
    wait_for(widgets, lambda: number(widget, "positive"), lambda fewer: fewer < positive)
    widget.locator('[data-toggle="best_rule"]').press("Space")
    wait_for(widgets, lambda: number(widget, "positive"), lambda none: none == 0)
    assert "learnt by no anchor" in widget.inner_text()
    widget.locator('[data-toggle="best_rule"]').press("Space")
    best = wait_for_change(widgets, lambda: number(widget, "positive"), 0)
    slide(widgets, widget, "high", "ArrowLeft", 8)
    wait_for(widgets, lambda: number(widget, "positive"), lambda more: more > best)
    widgets.screenshot("widget_anchors")


def test_more_proposals_cover_more_objects(widgets):
    widget = widgets.widget("proposals")
    covered = widget.locator('[data-truth="covered"]')
    slide(widgets, widget, "kept", "Home")
    assert covered.count() == widget.locator("[data-proposal]").count() == 0
    assert "recall 0.00" in widget.inner_text()
    slide(widgets, widget, "kept", "End")
    assert covered.count() == widget.locator("[data-truth]").count() > 0
    assert "recall 1.00" in widget.inner_text()
    picture = widget.locator("[data-heat]")
    before = picture.get_attribute("href")
    widget.get_by_label("heat map of").select_option("32 px tall")
    assert picture.get_attribute("href") != before
    widgets.screenshot("widget_proposals")


def test_a_smaller_box_goes_to_a_finer_level(widgets):
    widget = widgets.widget("levels")
    chosen = widget.locator("figure.dl-chosen")
    assert chosen.get_attribute("data-level") == "P3"
    box = widget.locator('[data-box="a"]')
    box.focus()
    for _ in range(6):
        widgets.page.keyboard.press("Shift+Control+ArrowLeft")
        widgets.page.keyboard.press("Shift+Control+ArrowUp")
    wait_for(widgets, lambda: chosen.get_attribute("data-level"), lambda level: level == "P2")
    slide(widgets, widget, "canonical_size", "PageDown", 15)
    wait_for(widgets, lambda: chosen.get_attribute("data-level"), lambda level: level == "P3")
    assert "log₂" in widget.locator('[data-value="equation"]').inner_text()
    widgets.screenshot("widget_levels")


def test_a_window_of_any_size_has_a_vector_of_one_length(widgets):
    widget = widgets.widget("pyramid")
    cells, length = widget.locator('[data-cells="window"]'), widget.locator('[data-value="length"]')
    before, width = length.inner_text(), cells.get_attribute("width")
    widget.locator('[data-box="w"]').focus()
    for _ in range(3):
        widgets.page.keyboard.press("Shift+Control+ArrowRight")
    wait_for(widgets, lambda: float(cells.get_attribute("width")), lambda wider: wider > float(width))
    assert length.inner_text() == before
    assert widget.locator('[data-bin="4"]').count() == 16
    widget.get_by_role("combobox").select_option("2")
    assert widget.locator("[data-bin]").count() == 4
    values = widget.locator("figure").first.inner_text()
    slide(widgets, widget, "channel", "ArrowRight", 3)
    wait_for_change(widgets, lambda: widget.locator("figure").first.inner_text(), values)
    widgets.screenshot("widget_pyramid")


def test_play_arrives_and_stops_by_itself(widgets):
    widget = widgets.widget("boxes")
    widget.get_by_role("combobox").select_option("GIoU")
    widget.get_by_role("button", name="Reset").click()
    start_disjoint(widgets, widget)
    widget.get_by_role("button", name="Play").click()
    widgets.page.wait_for_function("""() => [...document.querySelectorAll('[data-widget="boxes"] button')]
        .some(button => button.textContent.includes("Play"))""")
    wait_for(widgets, lambda: number(widget, "giou"), lambda giou: giou > 0.99)
    assert "where it wants to be" in widget.inner_text()


SHOW = """async ({source, css, state}) => {
  const style = document.createElement("style");
  style.textContent = css;
  document.head.append(style);
  const { default: widget } = await import("data:text/javascript;base64," + source);
  const handlers = [], fire = (name) => handlers.filter(([n]) => n === name).forEach(([, act]) => act());
  const model = { get: (trait) => state[trait], set: (trait, value) => { state[trait] = value; fire(`change:${trait}`); },
    on: (name, act) => handlers.push([name, act]), saves: 0, save_changes: () => { model.saves += 1; }, send: () => {},
    off: (name, act) => { const at = handlers.findIndex(([n, a]) => n === name && a === act); if (at >= 0) handlers.splice(at, 1); } };
  const el = document.body.appendChild(document.createElement("div"));
  (window.shown = window.shown || []).push({ el, model, handlers, end: widget.render({ model, el }) });
}"""
# JupyterLab's own values
DARK = {"--jp-ui-font-color1": "rgba(255, 255, 255, 1)", "--jp-ui-font-color2": "rgba(255, 255, 255, 0.7)",
        "--jp-layout-color0": "#111111", "--jp-layout-color2": "#424242", "--jp-border-color0": "#757575"}
LIGHT = {"--jp-ui-font-color1": "rgba(0, 0, 0, 0.87)", "--jp-ui-font-color2": "rgba(0, 0, 0, 0.54)",
         "--jp-layout-color0": "#ffffff", "--jp-layout-color2": "#eeeeee", "--jp-border-color0": "#bdbdbd"}


@pytest.fixture
def stage(lab):
    """An empty page and a function that shows a widget on it."""
    page, errors = lab.page.context.browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))

    def show(widget, theme=None):
        names = [name for name in widget.keys if not name.startswith("_") and name not in ("layout", "tabbable", "tooltip")]
        for name, value in (theme or {}).items():
            page.evaluate("([name, value]) => document.documentElement.style.setProperty(name, value)", [name, value])
        source = f"{widget._esm}\n// {id(widget)}"  # a module of its own, as in JupyterLab
        page.evaluate(SHOW, {"source": base64.b64encode(source.encode()).decode(), "css": widget._css,
                             "state": {name: getattr(widget, name) for name in names}})
        return page

    yield show
    page.close()
    assert not errors, errors


PICTURE = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor([[0.0, 0, 20, 20], [2, 0, 22, 20], [40, 30, 60, 50], [41, 30, 61, 50]])
SCORES = torch.tensor([0.6, 0.9, 0.8, 0.3])
FOUND = {"boxes": BOXES, "labels": torch.tensor([1, 2, 1, 2]), "scores": SCORES}
MAKE = {"boxes": lambda: BoxPlayground(PICTURE, [0, 0, 20, 20], [10, 0, 30, 20]),
        "nms": lambda: NmsPlayer(PICTURE, BOXES, SCORES, labels=["cat", "dog", "cat", "cat"]),
        "pr": lambda: PrecisionRecallExplorer(SCORES, SCORES > 0.5, 3),
        "hierarchy": lambda: HierarchyExplorer(PICTURE, [torch.zeros(60, 80), torch.ones(60, 80)] * 9),
        "threshold": lambda: DetectionThreshold(PICTURE, FOUND, ("background", "bird", "fish")),
        "anchors": lambda: AnchorExplorer(PICTURE, BOXES[1:3], ["bird", "fish"]),
        "proposals": lambda: ProposalExplorer(PICTURE, BOXES, {"32 px square": PICTURE[0]}, BOXES[1:3]),
        "focal": lambda: FocalLossExplorer(PICTURE, BOXES[1:3], {"trained": [PICTURE.permute(1, 2, 0)]},
                                           [(PICTURE > 0.9).float().permute(1, 2, 0)]),
        "locations": lambda: LocationExplorer(PICTURE, BOXES[:3], ["bird", "fish", "bird"]),
        "levels": lambda: LevelExplorer(PICTURE, [0, 0, 20, 20]),
        "roi": lambda: RoiPoolingExplorer(torch.arange(48.0).view(6, 8), [20, 25, 70, 60]),
        "mask_paste": lambda: MaskPaste(PICTURE, PICTURE[:1, :7, :7].repeat(4, 1, 1), FOUND, ("background", "bird", "fish")),
        "pyramid": lambda: PyramidExplorer(PICTURE, PICTURE[:, ::8, ::8], [0, 0, 40, 30])}


@pytest.mark.parametrize("name", MAKE)
def test_a_removed_view_leaves_no_listener_and_no_timer(stage, name):
    page = stage(MAKE[name]())
    if page.get_by_role("button", name="Play").count():
        page.get_by_role("button", name="Play").click()
        page.wait_for_function("shown[0].model.saves > 0")  # it runs
    page.evaluate("shown[0].end()")
    page.evaluate("shown[0].el.remove()")
    saves = page.evaluate("shown[0].model.saves")
    page.wait_for_timeout(1200)
    assert page.evaluate("shown[0].model.saves") == saves
    assert page.evaluate("shown[0].handlers.length") == 0


@pytest.mark.parametrize("name", MAKE)
def test_two_views_share_no_id_and_refer_to_their_own(stage, name):
    widget = MAKE[name]()
    stage(widget)
    page = stage(MAKE[name]())
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len(set(ids))
    assert len(ids) >= 2
    astray = page.evaluate("""() => shown.flatMap(({ el }) => {
        const own = new Set([...el.querySelectorAll('[id]')].map(node => node.id));
        const used = [...el.querySelectorAll('*')].flatMap(node => [...node.attributes]
            .filter(a => ["for", "aria-labelledby", "aria-describedby", "marker-end"].includes(a.name))
            .map(a => a.value.replace(/^url\\(#(.*)\\)$/, "$1")));
        return used.filter(id => !own.has(id));
    })""")
    assert astray == []


@pytest.mark.parametrize("name", MAKE)
def test_only_what_is_dragged_stops_a_finger_from_scrolling(stage, name):
    page = stage(MAKE[name]())
    held = page.evaluate("""() => [...document.querySelectorAll('.dl-widget *')]
        .filter(node => getComputedStyle(node).touchAction === "none")
        .map(node => node.matches('[data-handle], [data-box] .dl-frame') ? "dragged" : node.outerHTML.slice(0, 80))""")
    assert held == ["dragged"] * 9 * {"boxes": 2, "levels": 1, "pyramid": 1, "roi": 1}.get(name, 0)  # a box with eight handles


# contrast of every text with the ground it lies on (Web Content Accessibility Guidelines 2.1, contrast ratio)
CONTRASTS = """() => {
  const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return { c: [r, g, b], a }; };
  const over = (top, ground) => top.c.map((v, i) => v * top.a + ground[i] * (1 - top.a));
  const light = (c) => c.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    if (!node) return [255, 255, 255];
    const { c, a } = parse(getComputedStyle(node).backgroundColor);
    return a === 1 ? c : over({ c, a }, ground(node.parentElement));
  };
  const texts = [...document.querySelectorAll('.dl-widget *')].filter(node => !node.closest('g') && node.getClientRects().length
    && [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim()));
  return texts.map(node => {
    const style = getComputedStyle(node), below = ground(node);
    const ink = parse(node instanceof SVGElement ? style.fill : style.color);
    let opacity = ink.a;
    for (let n = node; n; n = n.parentElement) opacity *= Number(getComputedStyle(n).opacity);
    const [a, b] = [light(over({ c: ink.c, a: opacity }, below)), light(below)];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.textContent];
  });
}"""


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", MAKE)
def test_text_can_be_read_in_both_themes(stage, name, theme):
    widget = MAKE[name]()
    widget.error = "ValueError: so it looks when something is wrong."
    page = stage(widget, theme)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) >= 4
    weak = [(round(ratio, 2), text) for ratio, text in contrasts if ratio < 4.5]
    assert weak == []


def test_the_curve_is_seen_on_a_dark_ground(stage):
    page = stage(MAKE["pr"](), DARK)
    line = "getComputedStyle(document.querySelector('.dl-curve')).stroke"
    assert page.evaluate(line) == "rgb(255, 255, 255)"


def test_boxes_without_area_show_words_instead_of_nan(stage):
    page = stage(BoxPlayground(PICTURE, [10, 10, 10, 10], [10, 10, 10, 10]))
    assert "Boxes A and B have no area" in page.inner_text("body")
    assert "NaN" not in page.content()
    assert page.locator('[data-value="ciou"]').inner_text() == "–"


def test_no_objects_show_words_instead_of_nan(stage):
    page = stage(PrecisionRecallExplorer(SCORES, torch.zeros(4, dtype=torch.bool), 0))
    assert "There are no objects" in page.inner_text("body")
    assert "NaN" not in page.content()
    assert page.locator('[data-value="recall"]').inner_text() == "–"


def test_a_score_equal_to_the_threshold_is_counted(stage):
    page = stage(PrecisionRecallExplorer(torch.tensor([3.5, 0.7, -2.0]), torch.tensor([True, True, False]), 4, threshold=0.7))
    assert page.locator('[data-value="threshold"]').inner_text() == "0.70"
    assert page.locator('[data-value="tp"]').inner_text() == "2"
    slider = page.locator('[data-slider="threshold"]')
    slider.press("Home")  # the slider reaches below the lowest score and above the highest
    assert page.locator('[data-value="fp"]').inner_text() == "1"
    slider.press("End")
    assert page.locator('[data-value="tp"]').inner_text() == "0"
    assert page.locator('[data-value="precision"]').inner_text() == "–"


def test_classes_are_named_and_earlier_boxes_stay_faintly(stage):
    page = stage(NmsPlayer(PICTURE, BOXES, SCORES, labels=["cat", "dog", "cat", "cat"], step=2))
    say = page.locator("p.dl-say")
    assert "of class cat" in say.inner_text()  # 0.8 suppresses 0.3, both cats
    assert say.get_attribute("aria-live") == "polite"
    assert page.locator('[data-state="suppressed"]').get_attribute("data-by") == "1"
    assert page.locator('[data-state="now"]').get_attribute("data-box") == "1"
    assert "dog 0.90" in page.locator("li.dl-kept").first.inner_text()
    page.get_by_role("button", name="Next").click()
    earlier = page.locator('[data-state="earlier"]')
    assert earlier.get_attribute("data-by") == "1"
    assert float(earlier.get_attribute("stroke-opacity")) < 0.7
    assert "suppresses nothing" in say.inner_text()
    assert "by #2" in page.locator('[data-candidate="3"]').inner_text()


def test_regions_without_boxes_and_captions(stage):
    page = stage(MAKE["hierarchy"]())
    page.get_by_role("button", name="Next").click()
    assert page.locator("p.dl-say").inner_text() == "stage 2 of 18."
    assert page.locator("svg rect").count() == 0


def test_a_failing_cell_is_noticed(lab):
    """Without this, a notebook that breaks in the browser could pass."""
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        lab.run_cells("failing", ["1 / 0", "print(2)"])
