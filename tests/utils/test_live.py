"""The live loss curve: one picture per training, with words for those who do not see it, and harmless when it fails."""

import io

import numpy as np
import pytest
from PIL import Image

from utils import live
from utils.figures import PALETTE

HISTORY = {"step": [0.0, 1.0, 2.0, 3.0], "lr": [0.1] * 4, "loss": [4.0, 3.0, 2.0, 1.0], "a": [3.0, 2.0, 1.0, 0.5],
           "b": [1.0, 1.0, 1.0, 0.5]}


@pytest.fixture
def shown(monkeypatch):
    """What would be displayed in a notebook: a list of (png, words, display that is replaced or None)."""
    pictures = []

    def show(picture, words, output=None):
        pictures.append((picture, words, output))
        return output or f"display {len(pictures)}"

    monkeypatch.setattr(live, "in_notebook", lambda: True)
    monkeypatch.setattr(live, "show_png", show)
    return pictures


def follow(curve: live.LiveCurve, steps: int = 4) -> None:
    curve.on_start({}, steps)
    for i in range(steps):
        curve.on_step(i, {name: HISTORY[name][i] for name in ("loss", "a", "b")}, 0.1)
    curve.on_end(HISTORY)


def test_all_pictures_take_the_place_of_the_first(shown):
    follow(live.LiveCurve(seconds=0.0))
    assert [output for *_, output in shown] == [None] + ["display 1"] * 5
    assert shown[0][1] == "Loss curve over 0 of 4 training steps."
    assert shown[-1][1].startswith("Loss curve over 4 of 4 training steps, smoothed: loss from ")


def test_between_start_and_end_it_draws_only_now_and_then(shown):
    follow(live.LiveCurve(seconds=1000.0))
    assert len(shown) == 2


def test_a_second_training_gets_its_own_picture(shown):
    curve = live.LiveCurve(seconds=1000.0)
    follow(curve)
    follow(curve)
    assert [output for *_, output in shown] == [None, "display 1", None, "display 3"]


def test_a_resumed_training_shows_what_went_before(shown):
    curve = live.LiveCurve(seconds=1000.0)
    curve.on_start(HISTORY, 8)
    assert shown[0][1].startswith("Loss curve over 4 of 8")
    curve.on_step(4, {"loss": 1.0, "a": 0.5, "b": 0.5}, 0.1)
    assert len(curve.history["loss"]) == 5
    assert len(HISTORY["loss"]) == 4, "the trainer's history was changed"


def test_without_a_notebook_it_does_nothing(monkeypatch):
    def show(*arguments):
        raise AssertionError("displayed without a notebook")

    monkeypatch.setattr(live, "show_png", show)
    assert not live.in_notebook()
    follow(live.LiveCurve(seconds=0.0))


def test_a_picture_that_fails_warns_once_and_the_training_goes_on(monkeypatch):
    monkeypatch.setattr(live, "in_notebook", lambda: True)
    monkeypatch.setattr(live, "show_png", lambda *arguments: 1 / 0)
    with pytest.warns(UserWarning, match="division by zero.*training goes on") as caught:
        follow(live.LiveCurve(seconds=0.0))
    assert len(caught) == 1


def test_the_picture_shows_the_curves_and_equal_runs_give_equal_bytes():
    picture = live.curve_png(HISTORY, 4)
    assert picture == live.curve_png(HISTORY, 4)
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3)
    for colour in PALETTE[:3]:  # the sum and both parts
        wanted = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels.astype(int) - wanted).max(axis=1) < 8).sum() > 100
    empty = np.asarray(Image.open(io.BytesIO(live.curve_png({}, 4))).convert("RGB"))
    assert empty.std() > 0


def test_a_single_loss_gets_a_single_line():
    history = {"step": [0.0, 1.0], "lr": [0.1, 0.1], "loss": [2.0, 1.0], "classifier": [2.0, 1.0]}
    assert live._shown(history) == ["loss"]
    assert live._shown(HISTORY) == ["loss", "a", "b"]
    assert live._shown({}) == []


def test_smoothing_keeps_a_straight_line_and_the_length():
    assert live.smooth([]) == []
    assert live.smooth([5.0]) == [5.0]
    assert live.smooth([3.0] * 100) == pytest.approx([3.0] * 100)
    assert live.smooth([float(i) for i in range(100)])[10:90] == pytest.approx(range(10, 90))


def test_what_is_displayed_has_its_words_twice_and_is_replaced_by_its_id(monkeypatch):
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: calls.append((data, options)))
    name = live.show_png(b"picture", "falls from 3 to <1")
    assert live.show_png(b"next", "falls", name) == name
    (picture, options), (words, _), (_, again), _ = calls
    assert picture["image/png"] == b"picture"
    assert options["metadata"] == {"image/png": {"alt": "falls from 3 to <1"}}
    assert "falls from 3 to &lt;1" in words["text/html"]
    assert [options["update"], again["update"]] == [False, True]
    assert options["display_id"] == again["display_id"] == name
    assert len({options["display_id"] for _, options in calls}) == 2
