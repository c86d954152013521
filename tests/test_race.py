"""The race: rows are kept as long as they hold, numbers are the library's, errors of differences come from the scenes."""

import json
import math
import statistics

import pytest
import torch
from torch import nn

from experiments import race, race_table
from experiments.__main__ import main
from experiments.record import checkpoint_hash, load_result
from lessons import zoo
from lessons.checkpoints import save_checkpoint
from lessons.data.scenes import Scenes
from lessons.error_breakdown import error_breakdown
from lessons.metrics import CocoMetrics
from utils.widgets.race import AXES, RaceExplorer


class Stub(nn.Module):
    """Finds the true boxes of a split's scenes, shaken: a detector that costs nothing."""

    def __init__(self, shake):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.shake = shake

    def forward(self, images):
        return [self.look(image) for image in images]

    def look(self, image):
        self.conv(image)
        generator = torch.Generator().manual_seed(int(image.sum() * 1000))
        boxes = torch.tensor([[20.0, 30, 70, 80], [60, 60, 120, 110], [90, 20, 150, 70]])
        boxes = boxes + self.shake * torch.randn(3, 4, generator=generator)
        return {"boxes": boxes, "labels": torch.tensor([1, 2, 3]), "scores": torch.rand(3, generator=generator)}


class Proposing(Stub):
    """The same with proposals from outside."""

    def __init__(self, shake):
        super().__init__(shake)
        self.propose = lambda image: torch.zeros(1, 4)

    def look(self, image):
        self.propose(image)
        return super().look(image)


@pytest.fixture
def course(monkeypatch, tmp_path):
    """Three stubs in the place of the shipped detectors; counts which are loaded."""
    kinds, loaded = {"rcnn": Proposing(1.0), "faster_rcnn": Stub(3.0), "fpn": Stub(2.0)}, []
    monkeypatch.setattr(zoo, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(zoo, "load", lambda name, weights: (loaded.append(name), kinds[name].eval())[1])

    def ship(name, version=0.0):
        card = {"steps": 10, "seconds": 5, "plan": {"batch_size": 4}, "begins_with": "fpn" if name == "mask_rcnn" else "small_resnet"}
        save_checkpoint(tmp_path / "checkpoints" / f"{name}.safetensors", {"w": torch.tensor([version])}, card)

    for name in kinds:
        ship(name)
    return loaded, ship


def run_small(tmp_path, **options):
    return race.conduct(folder=tmp_path, scenes=4, **options)


def test_only_what_has_changed_is_measured_again(course, tmp_path, monkeypatch):
    loaded, ship = course
    record = run_small(tmp_path)
    assert list(record["detectors"]) == ["rcnn", "faster_rcnn", "fpn"], "in the order of the papers"
    assert record == load_result("race", tmp_path)
    loaded.clear()
    assert run_small(tmp_path) == record
    assert loaded == []
    ship("fpn", 1.0)
    (tmp_path / "checkpoints" / "rcnn.safetensors").unlink()
    again = run_small(tmp_path)
    assert loaded == ["fpn", "faster_rcnn"], "the second to compare the time"
    assert list(again["detectors"]) == ["faster_rcnn", "fpn"]
    assert again["detectors"]["faster_rcnn"] == record["detectors"]["faster_rcnn"]
    loaded.clear()
    run_small(tmp_path, fresh=True)
    assert "faster_rcnn" in loaded
    loaded.clear()
    race.conduct(folder=tmp_path, scenes=3)
    assert "faster_rcnn" in loaded, "other scenes"


def test_numbers_are_the_librarys(course, tmp_path):
    row = run_small(tmp_path)["detectors"]["fpn"]
    data, metrics, found = Scenes("val_unknown", 4), CocoMetrics(), Stub(2.0)
    samples = [data[i] for i in range(4)]
    detections = found([image for image, _ in samples])
    metrics.update(detections, [target for _, target in samples])
    for key, value in metrics.compute().items():
        assert row["val_unknown"][key] == pytest.approx(value, abs=1e-5)
    for group, value in enumerate(row["val_unknown"]["left_out"]["AP50"]):
        rest, without = [i for i in range(4) if i != group], CocoMetrics()
        without.update([detections[i] for i in rest], [samples[i][1] for i in rest])
        assert value == pytest.approx(without.compute()["AP50"], abs=1e-5)
    assert (row["parameters"], row["multiply_adds"]) == (8, 160 * 160 * 6)
    assert row["parts"] == {"conv": 160 * 160 * 6}
    assert row["training"] == {"pictures": 40, "seconds": 5}


def test_times_are_a_ratio_and_proposals_are_told_apart(course, tmp_path):
    rows = run_small(tmp_path)["detectors"]
    assert rows["faster_rcnn"]["ratio"] == 1
    assert 0 < rows["rcnn"]["proposal_seconds"] < rows["rcnn"]["seconds"]
    assert rows["fpn"]["proposal_seconds"] == 0


def test_a_search_is_made_once_for_each_picture(monkeypatch):
    monkeypatch.setattr(race, "_proposals", {})
    calls = []
    models = [Proposing(1.0), Proposing(2.0)]
    for model in models:
        model.propose = race.Clocked(lambda image: calls.append(1) or image.new_zeros(1, 4))
        race.remember_proposals(model)
    for model in models:
        model([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    assert len(calls) == 2


def test_trainings_of_what_came_before_are_counted(course):
    _, ship = course
    ship("mask_rcnn")
    assert race.training("mask_rcnn") == {"pictures": 80, "seconds": 10}


def random_detections(seed, images=5):
    generator = torch.Generator().manual_seed(seed)
    detections, targets = [], []
    for i in range(images):
        n, g = (int(torch.randint(0, 6, (), generator=generator)) for _ in range(2))
        make = lambda m: torch.rand(m, 4, generator=generator) * 50 + torch.tensor([0.0, 0, 50, 50])  # noqa: E731
        detections.append({"boxes": make(n), "labels": torch.randint(1, 3, (n,), generator=generator),
                           "scores": (torch.rand(n, generator=generator) * 4).round() / 4})
        targets.append({"boxes": make(g), "labels": torch.randint(1, 3, (g,), generator=generator),
                        "iscrowd": torch.zeros(g, dtype=torch.int64), "area": torch.ones(g), "image_id": i})
    return detections, targets


@pytest.mark.parametrize("seed", range(6))
def test_as_many_boxes_are_shown_as_there_are_objects(seed):
    detections, targets = random_detections(seed)
    best, threshold = race.as_many_as_objects(detections, targets)
    objects, there = sum(len(t["labels"]) for t in targets), sum(len(d["scores"]) for d in detections)
    shown = torch.cat([one["scores"] for one in best])
    assert len(shown) == min(objects, there), "ties are cut, too"
    ranked = torch.cat([one["scores"] for one in detections]).sort(descending=True).values
    torch.testing.assert_close(shown.sort(descending=True).values, ranked[:len(shown)])
    if len(shown):
        assert threshold == pytest.approx(shown.min().item(), abs=1e-4)
    counts = error_breakdown(best, targets)
    assert sum(counts.values()) - counts["missed"] == len(shown)


def test_no_detections_no_threshold():
    empty = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}]
    best, threshold = race.as_many_as_objects(empty, random_detections(0, 1)[1])
    assert (len(best[0]["scores"]), threshold) == (0, 0.0)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = [0.3, 0.9, 0.4, 0.2, 0.7]
    left_out = [statistics.fmean(values[:i] + values[i + 1:]) for i in range(5)]
    assert race_table.jackknife_error(left_out) == pytest.approx(statistics.stdev(values) / math.sqrt(5))
    assert math.isnan(race_table.jackknife_error([0.5]))


def made_up_record():
    def row(gain, cost, left):
        numbers = dict.fromkeys(("AP", "AP50", "AP75", "AP_small", "AP_medium"), gain) | {"left_out": {"AP": left}}
        return {"val": numbers, "val_unknown": {**numbers, "AP": gain / 4}, "ratio": cost, "multiply_adds": 1e6 * cost, "parameters": 1000}

    return {"detectors": {"rcnn": row(0.4, 20.0, [0.3, 0.5]), "faster_rcnn": row(0.5, 1.0, [0.4, 0.6]), "mask_rcnn": row(0.51, 3.0, [0.52, 0.49])}}


def test_differences_are_paired():
    record = made_up_record()
    gain, error = race_table.difference(record, "faster_rcnn", "rcnn")
    assert (gain, error) == (pytest.approx(0.1), pytest.approx(0)), "both are worse on the same scenes"
    assert race_table.is_sure((gain, error))
    assert not race_table.is_sure(race_table.difference(record, "mask_rcnn", "faster_rcnn"))
    assert race_table.difference(record, "faster_rcnn", "rcnn", "unknown AP")[0] == pytest.approx(0.025)
    assert math.isnan(race_table.difference(record, "faster_rcnn", "rcnn", "AP50")[1]) or race_table.left_out(record["detectors"]["rcnn"], "AP50")


def test_the_record_becomes_runners_of_the_widget():
    record = made_up_record()
    found = {one["name"]: one for one in race_table.runners(record, list(AXES))}
    assert found["faster_rcnn"]["before"] == "rcnn", "what lies between did not run"
    assert found["mask_rcnn"]["before"] == "faster_rcnn"
    assert found["rcnn"]["before"] is None
    assert found["faster_rcnn"]["numbers"]["unknown AP"] == 0.125
    assert found["mask_rcnn"]["doubts"]["AP"] == pytest.approx(2 * race_table.difference(record, "mask_rcnn", "faster_rcnn")[1])
    assert RaceExplorer(list(found.values())).error == ""


def test_every_detector_is_entered_in_the_order_of_the_papers():
    assert tuple(race_table.ENTRANTS) == zoo.DETECTORS
    years = [entrant.year for entrant in race_table.ENTRANTS.values()]
    assert years == sorted(years)
    for name, entrant in race_table.ENTRANTS.items():
        assert entrant.before is None or zoo.DETECTORS.index(entrant.before) < zoo.DETECTORS.index(name)


def test_the_command(course, tmp_path, monkeypatch):
    monkeypatch.setattr(race, "RESULTS", tmp_path)
    monkeypatch.setattr(race.conduct, "__defaults__", (False, tmp_path, 2))
    main(["race"])
    assert json.loads((tmp_path / "race.json").read_text())["scenes"] == 2


def test_the_stored_record_is_of_the_shipped_detectors():
    record = load_result("race")
    assert record["command"] == "python -m experiments race"
    assert list(record["detectors"]) == zoo.shipped_detectors()
    for name, row in record["detectors"].items():
        card = json.loads((zoo.CHECKPOINTS / f"{name}.json").read_text())
        assert row["checkpoint"] == checkpoint_hash(zoo.CHECKPOINTS / f"{name}.safetensors")
        for split in race.SPLITS:  # the card's weights had not been rounded to half precision
            assert row[split]["AP"] == pytest.approx(card["metrics"][split]["AP"], abs=0.005)
            assert row[split]["AP50"] == pytest.approx(card["metrics"][split]["AP50"], abs=0.01)
    fresh = race._begin(True, race.RESULTS, race.SCENES)
    assert (record["data"], record["scenes"]) == (fresh["data"], fresh["scenes"])
