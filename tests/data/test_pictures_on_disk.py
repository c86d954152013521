"""Pictures of every kind become RGB in [0, 1]."""


import numpy as np
import pytest
import torch
from miniatures import picture
from PIL import Image

from lessons.data.files import read_image


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("RGBA", "a.png"), ("P", "a.png"), ("CMYK", "a.jpg"), ("1", "a.png")])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode, name):
    picture(tmp_path / name, mode=mode)
    with Image.open(tmp_path / name) as stored:
        expected = np.array(stored.convert("RGB"))
    pixels = read_image(tmp_path / name)
    assert pixels.dtype == torch.float32
    difference = (pixels * 255 - torch.from_numpy(expected).permute(2, 0, 1)).abs()
    assert difference.max() <= (2.5 if name == "a.jpg" else 1e-3)  # decoders of JPEG may round differently


def test_sixteen_bits_and_animations(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65535, (30, 40)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    pixels = read_image(tmp_path / "deep.png")
    assert pixels.shape == (3, 30, 40)
    if pixels.unique().numel() > 256:  # before 0.20 torchvision decodes 16 bits wrongly, into 8
        torch.testing.assert_close(pixels[1], torch.from_numpy(deep.astype(np.float32) / 65535))
    frames = [Image.new("P", (40, 30), colour) for colour in (10, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "moving.gif").shape == (3, 30, 40)


def test_a_broken_picture_is_named(tmp_path):
    picture(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        read_image(tmp_path / "a.jpg")
