"""Figures: drawn, described, and the same bytes for the same picture."""

import pytest
import torch
from IPython.display import HTML, Image
from matplotlib.figure import Figure

from utils import figures

IMAGE = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
FOUND = {"boxes": torch.tensor([[0.0, 0, 20, 20], [30, 10, 60, 45]]), "labels": torch.tensor([1, 2]),
         "scores": torch.tensor([0.9, 0.2])}
CLASSES = ("background", "bird", "fish")


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    return shown


def test_show_gives_one_described_picture(displayed):
    figures.show(figures.detections_figure([IMAGE], [FOUND], CLASSES), alt="Two <boxes>.")
    picture, words = displayed
    assert isinstance(picture, Image)
    assert picture.data.startswith(b"\x89PNG")
    assert picture.alt == "Two <boxes>."
    assert isinstance(words, HTML)
    assert "Two &lt;boxes&gt;." in words.data


def test_a_picture_without_description_is_refused(displayed):
    figure, _ = figures.images_figure([IMAGE])
    with pytest.raises(ValueError, match="needs an alternative text"):
        figures.show(figure, alt="  ")
    assert displayed == []


def test_the_same_picture_gives_the_same_bytes():
    one, other = (figures.png_bytes(figures.detections_figure([IMAGE], [FOUND], CLASSES)) for _ in range(2))
    assert one == other
    assert b"matplotlib" not in one.lower()


def test_only_detections_above_the_threshold_are_drawn():
    for threshold, count in ((0.0, 2), (0.5, 1), (0.95, 0)):
        figure = figures.detections_figure([IMAGE], [FOUND], CLASSES, threshold)
        assert len(figure.axes[0].patches) == count
        assert len(figure.axes[0].texts) == count


def test_true_boxes_can_be_drawn_below():
    figure = figures.detections_figure([IMAGE], [FOUND], CLASSES, 0.95, targets=[FOUND])
    assert {patch.get_linestyle() for patch in figure.axes[0].patches} == {"--"}


def test_boxes_say_class_and_score_and_stand_where_they_should():
    figure, axes = figures.images_figure([IMAGE])
    figures.draw_boxes(axes[0], FOUND["boxes"], FOUND["labels"], FOUND["scores"], CLASSES)
    assert [text.get_text() for text in axes[0].texts] == ["bird 0.90", "fish 0.20"]
    patch = axes[0].patches[1]
    assert (patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()) == (30, 10, 30, 35)
    colours = {patch.get_edgecolor() for patch in axes[0].patches}
    assert len(colours) == 2


def test_every_other_kind_of_figure_is_drawn():
    figure, axes = figures.new_figure(columns=3)
    figures.draw_masks(axes[0, 0], torch.stack([IMAGE[0] > 0.5, torch.zeros(50, 70).bool(), torch.ones(50, 70).bool()]))
    figures.draw_heat_map(axes[0, 1], IMAGE, torch.rand(5, 7), "heat")
    figures.draw_precision_recall(axes[0, 2], torch.tensor([1.0, 0.5, 0.67]), torch.tensor([0.3, 0.3, 0.6]), "bird")
    assert len(figures.png_bytes(figure)) > 1000
    curves = figures.curves_figure([1, 10, 100], {"a": [1, 2, 3], "b": [3, 2, 1]}, log_x=True, spread={"a": [0.1] * 3})
    styles = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in curves.axes[0].lines]
    assert len({style[0] for style in styles}) == len({style[1] for style in styles}) == 2  # colour is never alone
    for bars in (figures.bars_figure({"a": [1, 2, 3], "b": [2, 2, 2]}),
                 figures.bars_figure({"a": [[1, 2], [3, 4]], "b": [[1, 1], [2, 2]]}, groups=("x", "y"))):
        assert isinstance(bars, Figure)
        assert len(figures.png_bytes(bars)) > 1000


def test_more_images_than_columns():
    figure, axes = figures.images_figure([IMAGE] * 5, [str(i) for i in range(5)], columns=3)
    assert len(axes) == 5
    assert [ax.get_title() for ax in axes] == list("01234")


def test_class_colours_repeat_only_after_all_are_used():
    assert len({figures.class_color(label) for label in range(1, 8)}) == 7
    assert figures.class_color(8) == figures.class_color(1)


def test_plates_stay_in_the_picture_and_off_one_another():
    boxes = torch.tensor([[5.0, 2, 60, 70], [120, 40, 158, 90], [122, 44, 159, 100], [100, 130, 159, 159], [0, 0, 160, 160]])
    figure, axes = figures.images_figure([torch.zeros(3, 160, 160)] * 2)
    figures.draw_boxes(axes[0], boxes, torch.tensor([1, 2, 1, 2, 2]), torch.linspace(0.9, 0.5, 5), CLASSES)
    figure.canvas.draw()
    panel = axes[0].get_window_extent()
    plates = [text.get_window_extent() for text in axes[0].texts]
    assert len(plates) == 5
    for i, plate in enumerate(plates):
        assert panel.x0 - 1 <= plate.x0 < plate.x1 <= panel.x1 + 1
        assert panel.y0 - 1 <= plate.y0 < plate.y1 <= panel.y1 + 1
        assert not any(plate.overlaps(other) for other in plates[:i])


@pytest.mark.parametrize(("boxes", "labels", "said"), [
    (torch.zeros(4), torch.tensor([1]), r"must be \(N, 4\), not \(4,\)"),
    (torch.zeros(2, 5), torch.tensor([1, 1]), r"must be \(N, 4\), not \(2, 5\)"),
    (torch.zeros(1, 4), torch.tensor([3]), "label 3 has no name: there are 3 classes"),
])
def test_what_cannot_be_drawn_is_named(boxes, labels, said):
    _, axes = figures.images_figure([IMAGE])
    with pytest.raises(ValueError, match=said):
        figures.draw_boxes(axes[0], boxes, labels, classes=CLASSES)


def test_no_boxes_draw_nothing():
    _, axes = figures.images_figure([IMAGE])
    figures.draw_boxes(axes[0], torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), CLASSES)
    assert not axes[0].patches
    assert not axes[0].texts


def test_masks_and_keypoints_are_drawn_where_detections_carry_them():
    masks = torch.zeros(2, 1, 50, 70)
    masks[0, 0, 2:18, 2:18], masks[1, 0, 12:40, 32:58] = 0.9, 0.4
    points = torch.tensor([[[3.0, 4, 1], [10, 12, 0]], [[33, 20, 2], [50, 40, 2]]])
    plain = figures.detections_figure([IMAGE], [FOUND], CLASSES, 0.1).axes[0]
    drawn = figures.detections_figure([IMAGE], [{**FOUND, "masks": masks, "keypoints": points}], CLASSES, 0.1).axes[0]
    assert len(drawn.images) == len(plain.images) + 2
    assert [tuple(line.get_xydata()[0]) for line in drawn.lines] == [(3, 4), (33, 20), (50, 40)]  # not the invisible one
    assert drawn.lines[1].get_marker() != drawn.lines[2].get_marker()
    assert drawn.images[-1].get_array()[..., 3].max() == 0  # below 0.5: an empty mask
