"""A set that reads each picture once gives what the set itself gives."""

import torch

from lessons.data.remembered import Remembered
from lessons.data.sample import DetectionDataset
from lessons.data.transforms import RandomMirror, Resize

CHANGE = Resize((40, 60))


class Counted(DetectionDataset):
    """Three random pictures; remembers how often each was read."""

    name, split, classes = "counted", "train", ("background", "thing")

    def __init__(self):
        self.read = [0, 0, 0]

    def __len__(self):
        return 3

    def load(self, index):
        self.read[index] += 1
        generator = torch.Generator().manual_seed(index)
        masks = torch.zeros(1, 20, 30, dtype=torch.bool)
        masks[0, 2:8, 3:9] = True
        return torch.rand(3, 20, 30, generator=generator), {
            "boxes": torch.tensor([[3.0, 2, 9, 8]]), "labels": torch.ones(1, dtype=torch.int64), "masks": masks,
            "area": torch.tensor([36.0]), "iscrowd": torch.zeros(1, dtype=torch.int64), "image_id": index}


def test_samples_are_those_of_the_set_and_read_once():
    data, plain = Remembered(Counted(), CHANGE), Counted()
    plain.transform = CHANGE
    for _ in range(3):
        for (image, target), (wanted, truth) in zip((data[i] for i in range(3)), (plain[i] for i in range(3)), strict=True):
            assert torch.equal(image, wanted)
            assert target.keys() == truth.keys()
            assert torch.equal(target["boxes"], truth["boxes"])
            assert torch.equal(target["masks"], truth["masks"])
    assert data.dataset.read == [1, 1, 1]
    assert (len(data), data.name, data.split, data.classes) == (3, "counted", "train", ("background", "thing"))


def test_what_nobody_needs_is_left_out_and_what_has_no_room_is_read_again():
    data = Remembered(Counted(), CHANGE, without=("masks",))
    assert "masks" not in data[0][1]
    room = 3 * 40 * 60 * 4 + 4 * 4 + 8 + 4 + 8  # one picture with box, label, area and crowd flag
    small = Remembered(Counted(), CHANGE, ("masks",), limit=2 * room + 1)
    for i in (0, 1, 2, 0, 1, 2):
        assert torch.equal(small[i][0], data[i][0])
    assert small.dataset.read == [1, 1, 2]
    assert small.free == 1


def test_what_is_random_or_changed_by_a_reader_is_not_remembered():
    data = Remembered(Counted(), CHANGE)
    first = data[0][0].clone()
    data[0][1]["boxes"] = "changed"
    del data[0][1]["labels"]
    assert {"boxes", "labels"} <= data[0][1].keys()
    assert data[0][1]["boxes"].shape == (1, 4)
    data.transform = RandomMirror(probability=1.0)
    assert torch.equal(data[0][0], first.flip(2))
    assert torch.equal(data[0][0], first.flip(2))
    data.transform = None
    assert torch.equal(data[0][0], first)


def test_its_coco_dictionary_is_of_the_prepared_pictures():
    coco = Remembered(Counted(), CHANGE).coco()
    assert [(row["height"], row["width"]) for row in coco["images"]] == [(40, 60)] * 3
    assert coco["annotations"][0]["bbox"] == [6.0, 4.0, 12.0, 12.0]
