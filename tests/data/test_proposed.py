"""Data sets with proposals: what a sample holds, that the search runs once, and the file that keeps it."""

import pytest
import torch

from lessons.data.proposed import WithProposals
from lessons.data.scenes import Scenes
from lessons.proposals import selective_search


class Counting:
    """A search that counts its calls and finds two boxes."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        return torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, float(self.calls) + 20]])


def test_samples_hold_the_first_proposals_and_no_maps():
    data = WithProposals(Scenes("val", 5, size=96), length=2, count=30)
    assert len(data) == 2
    assert (data.name, data.split, data.classes[1]) == ("scenes", "val", "bird")
    image, target = data[1]
    plain, full = Scenes("val", 5, size=96)[1]
    assert torch.equal(image, plain)
    assert torch.equal(target["proposals"], selective_search(plain)[:30])
    assert set(target) == {"boxes", "labels", "area", "iscrowd", "image_id", "proposals"}
    assert torch.equal(target["boxes"], full["boxes"])
    with pytest.raises(IndexError):
        data[2]


def test_the_search_runs_once_per_image():
    search = Counting()
    data = WithProposals(Scenes("val", 3, size=96), propose=search)
    first = data[0][1]["proposals"]
    assert torch.equal(data[0][1]["proposals"], first)
    assert search.calls == 1
    data.prepare(progress=False)
    assert search.calls == 3


def test_proposals_come_back_from_their_file(tmp_path):
    file, search = tmp_path / "boxes.safetensors", Counting()
    data = WithProposals(Scenes("val", 3, size=96), propose=search).prepare(file, progress=False)
    again = WithProposals(Scenes("val", 3, size=96), propose=search).prepare(file, progress=False)
    assert search.calls == 3
    for index in range(3):
        assert torch.equal(again[index][1]["proposals"], data[index][1]["proposals"])


@pytest.mark.parametrize("change", [{"length": 2}, {"count": 1}, {"split": "train"}])
def test_a_file_of_something_else_is_made_anew(tmp_path, change):
    file, search = tmp_path / "boxes.safetensors", Counting()
    WithProposals(Scenes("val", 3, size=96), propose=search).prepare(file, progress=False)
    split = change.pop("split", "val")
    data = WithProposals(Scenes(split, 3, size=96), propose=search, **change).prepare(file, progress=False)
    assert search.calls == 3 + len(data)
    assert len(data[0][1]["proposals"]) == min(2, data.count)


@pytest.mark.parametrize("content", [b"", b"no safetensors file"])
def test_a_damaged_file_is_made_anew(tmp_path, content):
    file = tmp_path / "boxes.safetensors"
    file.write_bytes(content)
    search = Counting()
    WithProposals(Scenes("val", 2, size=96), propose=search).prepare(file, progress=False)
    assert search.calls == 2
    WithProposals(Scenes("val", 2, size=96), propose=search).prepare(file, progress=False)
    assert search.calls == 2


def test_more_than_there_is():
    with pytest.raises(ValueError, match="length 9 of scenes val, which holds 3"):
        WithProposals(Scenes("val", 3), length=9)
