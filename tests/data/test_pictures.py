"""The integer arithmetic that draws the embedded pictures, against plain floating point and against exact cases."""

import numpy as np
import pytest

from lessons.data import pictures


def test_division_by_255_is_exact():
    values = np.arange(255 * 255 + 1, dtype=np.uint16)
    assert (pictures._divide_by_255(values) == (values.astype(np.int64) * 2 + 255) // 510).all()


def test_paste_is_the_over_operator():
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    alpha = rng.integers(0, 256, (9, 7, 1)).astype(np.uint8)
    colour = rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    patch = np.concatenate([pictures._divide_by_255(colour.astype(np.uint16) * alpha), alpha], -1)
    expected = (colour * (alpha / 255.0) + canvas * (1 - alpha / 255.0))
    pictures.paste(canvas, patch)
    assert np.abs(canvas - expected).max() <= 1.01


def smooth_cutout(height: int, width: int) -> list[np.ndarray]:
    """A padded, packed one-level pyramid of a smooth coloured picture without transparency."""
    y, x = np.mgrid[:height, :width]
    rgba = np.stack([x * 200 // width, y * 200 // height, (x + y) % 50 + 100, np.full_like(x, 255)], -1)
    padded = np.zeros((height + 3, width + 3, 4), np.uint8)
    padded[1:-2, 1:-2] = rgba
    return [padded.view(np.uint32)[..., 0]]


@pytest.mark.parametrize(("degrees", "flip", "turn"), [
    (0, False, lambda p: p), (0, True, lambda p: p[:, ::-1]), (90, False, lambda p: np.rot90(p)),
    (180, False, lambda p: np.rot90(p, 2)), (90, True, lambda p: np.rot90(p[:, ::-1])),
])
def test_warp_by_right_angles_moves_pixels_and_changes_none(degrees, flip, turn):
    levels = smooth_cutout(12, 20)
    source = levels[0].view(np.uint8).reshape(15, 23, 4)[1:-2, 1:-2]
    made = pictures.warp(levels, pictures.ONE, degrees, flip)
    expected = turn(source)
    top, left = (made.shape[0] - expected.shape[0]) // 2, (made.shape[1] - expected.shape[1]) // 2
    inner = made[top:top + expected.shape[0], left:left + expected.shape[1]]
    assert (inner == expected).all()
    assert made[..., 3].astype(int).sum() == 255 * 12 * 20, "and clear around"


@pytest.mark.parametrize("scale", [pictures.ONE // 5, pictures.ONE // 2, pictures.ONE, pictures.ONE * 3])
@pytest.mark.parametrize("degrees", [-20, 0, 7, 45])
def test_warp_scales_the_area_and_keeps_the_centre(scale, degrees):
    file = pictures.photos()[0].file
    levels, area_root = pictures.cutout(file)
    made = pictures.warp(levels, scale, degrees, False)
    assert made.shape[0] % 2 == made.shape[1] % 2 == 0
    weight = made[..., 3].astype(np.int64)
    whole = levels[0].view(np.uint8).reshape(*levels[0].shape, 4)[..., 3].astype(np.int64)
    assert weight.sum() == pytest.approx(whole.sum() * (scale / pictures.ONE) ** 2, rel=0.04)
    assert not weight[0].any()
    assert not weight[:, 0].any()
    assert (made[..., :3] <= made[..., 3:]).all(), "premultiplied"


@pytest.mark.parametrize("size", [16, 96, 160, 320, 1000])
def test_resize_square_keeps_a_ramp_a_ramp(size):
    ramp = np.repeat((np.arange(240, dtype=np.uint8))[None, :, None], 200, 0).repeat(3, 2)
    made = pictures.resize_square(pictures.pyramid(ramp, "edge"), 20, 10, 160, size)
    assert made.shape == (size, size, 3)
    assert (made == made[:1]).all()
    expected = 20 + (np.arange(size) + 0.5) * 160 / size - 0.5
    assert np.abs(made[0, :, 0] - expected).max() <= 1.5


def test_feather_only_takes_away_and_only_at_the_edge():
    levels, _ = pictures.cutout(pictures.photos()[2].file)
    sharp = pictures.warp(levels, pictures.ONE, 0, False)
    soft = pictures.feather(sharp, 2)
    assert (soft <= sharp).all()
    solid = sharp[..., 3] == 255
    deep = solid.copy()
    for axis in (0, 1):
        deep = np.min([np.roll(deep, step, axis) for step in range(-2, 3)], 0)
    assert (soft[deep] == sharp[deep]).all()
    assert (soft[..., 3].astype(int) < sharp[..., 3]).any()


def test_recolour_keeps_colours_under_alpha():
    patch = np.array([[[100, 50, 0, 120], [255, 255, 255, 255], [0, 0, 0, 0]]], np.uint8)
    assert pictures.recolour(patch, (512, 256, 128)).tolist() == [[[120, 50, 0, 120], [255, 255, 127, 255], [0] * 4]]
    assert patch[0, 0].tolist() == [100, 50, 0, 120], "the source is left alone"


def test_cutouts_are_premultiplied_with_a_clear_margin():
    for photo in pictures.photos()[::9]:
        if photo.role == "background":
            continue
        levels, area_root = pictures.cutout(photo.file)
        assert 1 <= area_root <= 192
        for level in levels:
            rgba = level.view(np.uint8).reshape(*level.shape, 4)
            assert (rgba[..., :3] <= rgba[..., 3:]).all()
            for margin in (level[:1], level[:, :1], level[-2:], level[:, -2:]):
                assert not margin.any()
