"""PASCAL VOC's layout: its coordinates, and everything that can be wrong with its files."""


import pytest
from miniatures import voc_object, voc_set

from lessons.data.voc import VocDevkit


def test_voc_counts_pixels_from_one_and_includes_the_last(tmp_path):
    folder = voc_set(tmp_path, {"a": [voc_object("dog", (1, 1, 40, 30)), voc_object("cat", (5, 6, 14, 9), difficult=1)]})
    dataset = VocDevkit(folder, "train")
    image, target = dataset[0]
    assert image.shape == (3, 30, 40)
    assert 0 <= image.min() <= image.max() <= 1
    assert target["boxes"].tolist() == [[0, 0, 40, 30], [4, 5, 14, 9]]
    assert [dataset.classes[label] for label in target["labels"]] == ["dog", "cat"]
    assert target["iscrowd"].tolist() == [0, 1]
    assert target["area"].tolist() == [1200, 40]


def test_voc_image_without_objects_and_boxes_outside(tmp_path):
    dataset = VocDevkit(voc_set(tmp_path, {"b": [voc_object("dog", (-3, 20, 90, 99))]}), "train")
    assert dataset[0][1]["boxes"].shape == (0, 4)
    assert dataset[1][1]["boxes"].tolist() == [[0, 19, 40, 30]]


def test_voc_box_without_area_is_dropped_with_a_warning_that_names_the_image(tmp_path):
    rows = [voc_object("dog", (7, 7, 7, 7)), voc_object("cat", (2, 2, 9, 9)), voc_object("dog", (9, 2, 4, 8)),
            voc_object("dog", (7, 2, 7, 8)), voc_object("dog", (2, 7, 8, 7))]
    dataset = VocDevkit(voc_set(tmp_path, {"b": rows}), "train")
    with pytest.warns(UserWarning, match="b: dropped 4 box"):
        target = dataset[1][1]
    assert [dataset.classes[label] for label in target["labels"]] == ["cat"]


def test_what_can_be_wrong_with_voc(tmp_path):
    folder = voc_set(tmp_path, {"a": [voc_object("unicorn", (1, 1, 5, 5))]})
    dataset = VocDevkit(folder, "train")
    with pytest.raises(ValueError, match=r"a\.xml: class 'unicorn' is none of aeroplane"):
        dataset[0]
    (folder / "Annotations/a.xml").write_text("<annotation><object>")
    with pytest.raises(ValueError, match=r"a\.xml is not valid XML"):
        dataset[0]
    (folder / "Annotations/a.xml").write_text("<annotation><object><name>dog</name></object></annotation>")
    with pytest.raises(ValueError, match="no complete bndbox"):
        dataset[0]
    (folder / "Annotations/a.xml").write_text(f"<annotation>{voc_object('dog', (1, 1, 5, 5), 'perhaps')}</annotation>")
    with pytest.raises(ValueError, match="difficult 'perhaps'"):
        dataset[0]
    (folder / "Annotations/a.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.xml is missing"):
        dataset[0]
    (folder / "JPEGImages/b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.jpg is missing"):
        dataset[1]
    with pytest.raises(ValueError, match="no split 'test'; .* lists train"):
        VocDevkit(folder, "test")
    with pytest.raises(IndexError, match="sample 2"):
        dataset[2]


def test_voc_boxes_that_are_wholly_outside_are_dropped(tmp_path):
    rows = [voc_object("dog", (50, 5, 60, 9)), voc_object("dog", (1, 1, 9, "nan")), voc_object("cat", (2, 2, 9, "inf"))]
    dataset = VocDevkit(voc_set(tmp_path, {"a": rows}), "train")
    with pytest.warns(UserWarning, match="a: dropped 2 box"):
        target = dataset[0][1]
    assert target["boxes"].tolist() == [[1, 1, 9, 30]]


def test_voc_tells_sizes_and_boxes_without_decoding_the_picture(tmp_path):
    folder = voc_set(tmp_path, {"a": [voc_object("dog", (1, 1, 5, 5))]})
    picture = folder / "JPEGImages/a.jpg"
    picture.write_bytes(picture.read_bytes()[:-200])  # its pixels cannot be decoded, its header can be read
    dataset = VocDevkit(folder, "train")
    target, size = dataset.annotation(0)
    assert (target["boxes"].tolist(), size) == ([[0, 0, 5, 5]], (30, 40))
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        dataset[0]


def test_what_is_no_voc_file(tmp_path):
    folder = voc_set(tmp_path / "voc", {})
    (folder / "ImageSets/Main/train.txt").write_bytes(b"a\n\xff\xfe b\n")
    dataset = VocDevkit(folder, "train")
    (folder / "Annotations/a.xml").write_text("<html></html>")
    with pytest.raises(ValueError, match=r"a\.xml holds <html>, not the <annotation>"):
        dataset[0]
    (folder / "Annotations/a.xml").write_text('<?xml version="1.0" encoding="klingon"?><annotation/>')
    with pytest.raises(ValueError, match=r"a\.xml is not valid XML"):
        dataset[0]
    with pytest.raises(FileNotFoundError, match="is not in VOC's layout"):
        VocDevkit(tmp_path, "train")
