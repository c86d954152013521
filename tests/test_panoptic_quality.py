"""Panoptic quality against its definition, written as loops over masks, and on pictures made by hand."""

import pytest
import torch

from lessons.panoptic_quality import PanopticQuality


def picture(rows, segments):
    return {"panoptic": torch.tensor(rows), "segments": torch.tensor(segments, dtype=torch.long).reshape(len(segments), -1)}


def by_definition(prediction, target):
    """Kirillov et al., equation 1, and their treatment of void and crowds, pair by pair with masks: PQ by class."""
    ids, truth = prediction["panoptic"], target["panoptic"]
    result = {}
    rows, true_rows = prediction["segments"].tolist(), target["segments"].tolist()
    for label in {r[1] for r in rows} | {r[1] for r in true_rows if not r[2]}:
        total, matched_found, matched_true = 0.0, set(), set()
        for one, its_label, *_ in rows:
            for other, true_label, crowd in true_rows:
                if its_label == true_label == label and not crowd:
                    a, b = ids == one, truth == other
                    iou = float((a & b).sum() / ((a & (truth != 0)) | b).sum())
                    if iou > 0.5:
                        total += iou
                        matched_found.add(one)
                        matched_true.add(other)
        missed = sum(r[1] == label and not r[2] and r[0] not in matched_true for r in true_rows)
        wrong = 0
        for one, its_label, *_ in rows:
            if its_label == label and one not in matched_found:
                a = ids == one
                excused = truth == 0
                for other, true_label, crowd in true_rows:
                    if crowd and true_label == label:
                        excused = excused | (truth == other)
                wrong += float((a & excused).sum()) <= 0.5 * float(a.sum())
        whole = len(matched_found) + 0.5 * wrong + 0.5 * missed
        if whole:
            result[label] = total / whole
    return result


def random_picture(seed, classes=3):
    """Overlapping boxes painted over one another, and a prediction that moves them and changes some classes."""
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    boxes = torch.randint(0, 30, (7, 4), generator=generator)
    labels = torch.randint(1, classes + 1, (7,), generator=generator)
    for moved in (0, 3):
        ids = torch.zeros(40, 50, dtype=torch.long)
        shift = torch.randint(0, moved + 1, (7, 2), generator=generator)
        for i, (x, y, w, h) in enumerate(boxes.tolist()):
            dx, dy = shift[i].tolist()
            ids[y + dy : y + dy + h // 2 + 4, x + dx : x + dx + w // 2 + 4] = 1000 * i + 7
        label = torch.where(torch.rand(7, generator=generator) < 0.2 * bool(moved), labels % classes + 1, labels)
        crowd = torch.rand(7, generator=generator) < 0.3
        drawn = ids.unique().tolist()
        table = [[1000 * i + 7, int(label[i]), int(crowd[i]) if not moved else 0] for i in range(7) if 1000 * i + 7 in drawn]
        pictures.append(picture(ids.tolist(), table))
    return pictures[1], pictures[0]


@pytest.mark.parametrize("seed", range(25))
def test_equal_to_the_definition(seed):
    prediction, target = random_picture(seed)
    quality = PanopticQuality()
    quality.update([prediction], [target])
    ours = {label: q["PQ"] for label, q in quality.per_class().items()}
    assert ours == pytest.approx(by_definition(prediction, target))
    for q in quality.per_class().values():
        assert q["PQ"] == pytest.approx(q["SQ"] * q["RQ"])


def test_by_hand():
    target = picture([[1, 1, 1, 1, 2, 2, 3, 0]], [[1, 1, 0], [2, 2, 0], [3, 2, 0]])
    quality = PanopticQuality()
    quality.update([picture([[5, 5, 5, 6, 6, 6, 0, 0]], [[5, 1], [6, 2]])], [target])
    # class 1: IoU 3/4. class 2: IoU 2/3, and one segment missed: 2/3 / 1.5
    assert quality.per_class()[1]["PQ"] == pytest.approx(3 / 4)
    assert quality.per_class()[2]["PQ"] == pytest.approx(2 / 3 / 1.5)
    assert quality.compute()["PQ"] == pytest.approx((3 / 4 + 2 / 3 / 1.5) / 2)
    assert quality.compute([2])["RQ"] == pytest.approx(1 / 1.5)
    assert quality.compute([9]) == {"PQ": -1.0, "SQ": -1.0, "RQ": -1.0}


def test_void_and_crowds_excuse():
    target = picture([[1, 1, 0, 0, 9, 9, 9]], [[1, 1, 0], [9, 2, 1]])
    quality = PanopticQuality()
    quality.update([picture([[1, 1, 1, 0, 4, 4, 4]], [[1, 1], [4, 2]])], [target])
    assert quality.per_class() == {1: {"PQ": 1.0, "SQ": 1.0, "RQ": 1.0}}  # its void pixel does not count; 4 is crowd


def test_the_truth_is_perfect_and_pictures_add_up():
    pairs = [random_picture(seed) for seed in range(6)]
    perfect = PanopticQuality()
    perfect.update([target for _, target in pairs], [{**t, "segments": t["segments"] * torch.tensor([1, 1, 0])} for _, t in pairs])
    assert perfect.compute() == {"PQ": 1.0, "SQ": 1.0, "RQ": 1.0}
    whole, parts = PanopticQuality(), PanopticQuality()
    whole.update(*zip(*pairs, strict=True))
    for one, other in pairs:
        parts.update([one], [other])
    assert whole.compute() == parts.compute()
    assert PanopticQuality().compute()["PQ"] == -1


def test_bad_input_is_named():
    good = picture([[1, 1]], [[1, 1, 0]])
    for bad, message in [(picture([[1, 2]], [[1, 1, 0]]), r"segments \[1, 2\] in the picture, \[1\] in the table"),
                         (picture([[1, 1]], [[1, 1], [1, 2]]), "table of 2 rows"),
                         (picture([[1, 1, 1]], [[1, 1, 0]]), r"\(1, 3\) pixels for a target of \(1, 2\)")]:
        with pytest.raises(ValueError, match=message):
            PanopticQuality().update([bad], [good])
    with pytest.raises(ValueError, match="1 pictures for targets of 0"):
        PanopticQuality().update([good], [])
