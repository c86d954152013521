"""The pyramid explorer: its cells, bins and values are the library's, and its vector never changes its length."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lessons.roi import roi_spatial_pyramid_pool
from utils.widgets import PyramidExplorer

IMAGE = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
FEATURES = torch.rand(5, 8, 12, generator=torch.Generator().manual_seed(1))


def explorer(window=(10, 8, 60, 50), **options):
    return PyramidExplorer(IMAGE, FEATURES, window, **options)


def test_values_are_the_largest_of_each_bin():
    widget = explorer(channel=3)
    wanted = roi_spatial_pyramid_pool(FEATURES[None], [torch.tensor([widget.window])], (4, 2, 1), 1 / 8)[0]
    for level, part in zip(widget.bins, wanted.split([5 * 16, 5 * 4, 5]), strict=True):
        n = level["n"]
        torch.testing.assert_close(torch.tensor(level["values"]), part.view(5, n * n)[3])
        for value, (left, top, right, bottom) in zip(level["values"], level["bins"], strict=True):
            assert value == pytest.approx(FEATURES[3, top:bottom, left:right].max().item())
    assert widget.cells == [2, 2, 8, 7]  # 10 / 8 = 1.25 and 60 / 8 = 7.5: columns 2 to 7; 8 / 8 = 1, 50 / 8 = 6.25: rows 2 to 6
    assert widget.strongest == pytest.approx(FEATURES[3].max().item())


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 90), st.floats(0, 60), st.floats(0, 90), st.floats(0, 60), st.integers(0, 4))
def test_the_length_never_changes_and_bins_lie_in_the_map(x, y, w, h, channel):
    widget = explorer()
    widget.channel = channel
    widget.window = [x, y, min(96.0, x + w), min(64.0, y + h)]
    assert widget.error == ""
    assert "= 105 numbers" in widget.equation
    assert [len(level["bins"]) for level in widget.bins] == [16, 4, 1]
    for level in widget.bins:
        for left, top, right, bottom in level["bins"]:
            assert 0 <= left <= right <= 12
            assert 0 <= top <= bottom <= 8
    json.dumps(widget.get_state(["bins", "cells", "strongest", "message"]), allow_nan=False)


def test_words_for_small_windows():
    widget = explorer((30, 30, 34, 33))
    assert "1 × 1 cells" in widget.message
    assert "several bins look at the same cell" in widget.message
    widget.window = [8, 0, 88, 60]
    assert "several bins" not in widget.message


def test_another_channel_another_picture():
    widget = explorer()
    before = widget.veil, [level["values"] for level in widget.bins]
    widget.channel = 4
    assert widget.veil != before[0]
    assert [level["values"] for level in widget.bins] != before[1]
    assert widget.channels == 5


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"features of shape \(1, 5, 8, 12\)"):
        PyramidExplorer(IMAGE, FEATURES[None], (0, 0, 9, 9))
    with pytest.raises(ValueError, match="want four finite numbers"):
        explorer((9, 0, 5, 5))
    with pytest.raises(ValueError, match=r"levels \[0\]"):
        explorer(levels=(0,))
    widget = explorer()
    widget.channel = 99
    assert "IndexError" in widget.error


def test_the_still_figure():
    assert isinstance(explorer().static(), Figure)
    assert isinstance(explorer(levels=(1,)).static(), Figure)
