"""Experiments: what is stored, how runs over seeds are kept and continued, and that each is true to its form."""

import importlib
import json
import sys
import types
from pathlib import Path

import pytest
import torch

from experiments import record
from experiments.__main__ import main
from experiments.record import across, conduct, known_experiments, known_measurements, load_result, wins
from lessons.data.scenes import Scenes

STORED = sorted({path.stem for path in record.RESULTS.glob("*.json")} - set(known_measurements()))


@pytest.fixture
def made_up(monkeypatch):
    """An experiment called rcnn_made_up, which counts its runs and can be told to fail."""
    module = types.ModuleType("experiments.rcnn_made_up")
    module.CLAIM = "Larger seeds give larger numbers."
    module.runs, module.fail_at = [], None

    def run(seed, short=False):
        if seed == module.fail_at:
            raise KeyboardInterrupt
        module.runs.append(seed)
        return {"low": {"AP": 0.1 * seed}, "high": {"AP": 0.1 * seed + 0.2}}

    module.run = run
    module.verdict = lambda done: {"high beats low": wins(done, "high", "low")}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(record, "known_experiments", lambda: ["rcnn_made_up"])
    return module


def test_a_result_says_how_it_was_made(made_up, tmp_path):
    result = conduct("rcnn_made_up", [0, 1, 2], folder=tmp_path)
    assert made_up.runs == [0, 1, 2]
    assert result["seeds"] == [0, 1, 2]
    assert result["mean"]["high"]["AP"] == pytest.approx(0.3)
    assert result["sd"]["low"]["AP"] == pytest.approx(0.1)
    assert result["verdict"] == {"high beats low": True}
    assert result == load_result("rcnn_made_up", tmp_path)
    assert {"command", "torch", "data", "device", "seconds", "claim"} <= result.keys()


def test_an_interrupted_experiment_continues(made_up, tmp_path):
    made_up.fail_at = 1
    with pytest.raises(KeyboardInterrupt):
        conduct("rcnn_made_up", [0, 1, 2], folder=tmp_path)
    assert load_result("rcnn_made_up", tmp_path)["seeds"] == [0]
    made_up.fail_at = None
    result = conduct("rcnn_made_up", [0, 1, 2], folder=tmp_path)
    assert made_up.runs == [0, 1, 2], "seed 0 was not run again"
    assert result["seeds"] == [0, 1, 2]


def test_fresh_and_other_data_begin_anew(made_up, tmp_path):
    conduct("rcnn_made_up", [0, 1], folder=tmp_path)
    assert conduct("rcnn_made_up", [5], fresh=True, folder=tmp_path)["seeds"] == [5]
    path = tmp_path / "rcnn_made_up.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": "of old"}))
    assert conduct("rcnn_made_up", [7], folder=tmp_path)["seeds"] == [7]
    assert made_up.runs == [0, 1, 5, 7]


def test_unknown_names(tmp_path):
    with pytest.raises(ValueError, match="no experiment 'nothing'; there are .*rcnn_context"):
        conduct("nothing", folder=tmp_path)
    with pytest.raises(ValueError, match="no result nothing"):
        load_result("nothing", tmp_path)


def test_the_command(made_up, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("experiments.__main__.known_experiments", lambda: ["rcnn_made_up"])
    monkeypatch.setattr("experiments.__main__.conduct",
                        lambda name, seeds, fresh: conduct(name, seeds, fresh, folder=tmp_path))
    main(["all", "--seeds", "3", "4"])
    printed = capsys.readouterr().out
    assert "Larger seeds give larger numbers." in printed
    assert "AP 0.550 ± 0.071" in printed
    assert "yes  high beats low" in printed
    with pytest.raises(SystemExit):
        main(["nothing"])


def test_all_goes_on_without_photographs_that_are_not_there(made_up, monkeypatch, tmp_path, capsys):
    def missing():
        raise FileNotFoundError("nuclei is not on this disk.")

    made_up.data = missing
    for module in ("experiments.__main__", "experiments.record"):
        monkeypatch.setattr(f"{module}.known_experiments", lambda: ["rcnn_made_up"])
    monkeypatch.setattr("experiments.__main__.conduct",
                        lambda name, seeds, fresh: conduct(name, seeds, fresh, folder=tmp_path))
    main(["all"])
    assert "rcnn_made_up is left out: nuclei is not on this disk." in capsys.readouterr().out
    assert made_up.runs == []
    with pytest.raises(FileNotFoundError, match="nuclei is not on this disk"):
        main(["rcnn_made_up"])


def test_all_does_not_hide_other_missing_files(made_up, monkeypatch):
    def broken(seed, short=False):
        raise FileNotFoundError("no checkpoint")

    made_up.run = broken
    monkeypatch.setattr("experiments.__main__.known_experiments", lambda: ["rcnn_made_up"])
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        main(["all"])


def test_results_of_other_photographs_are_not_mixed(made_up, tmp_path):
    made_up.data = lambda: Scenes("train", 20)
    conduct("rcnn_made_up", [0], folder=tmp_path)
    assert conduct("rcnn_made_up", [1], folder=tmp_path)["seeds"] == [0, 1]
    made_up.data = lambda: Scenes("val", 20)
    assert conduct("rcnn_made_up", [2], folder=tmp_path)["seeds"] == [2]


def test_masks_of_real_nuclei_run_short(monkeypatch):
    shared = Path(__file__).resolve().parents[1] / ".." / "shared" / "datasets"
    if not (shared / "dsb2018_nuclei").is_dir():
        pytest.skip("no nuclei beside the repository")
    from experiments import mask_roi_nuclei

    monkeypatch.setenv("LESSONS_DATA", str(shared))
    monkeypatch.setattr(mask_roi_nuclei, "SIDE", 96)
    monkeypatch.setattr(mask_roi_nuclei, "BOTH", ("align 32", "pool 32"))
    maps, scene = mask_roi_nuclei.squares("val", 3)
    assert [one.shape[2:] for one in maps] == [(24, 24), (12, 12), (6, 6), (3, 3)]
    assert len(scene.boxes) == len(maps[0]) > 5
    for boxes, masks in zip(scene.boxes, scene.masks, strict=True):
        assert masks.shape == (len(boxes), 96, 96)
        assert ((boxes >= 0) & (boxes <= 96)).all()
        assert (masks.flatten(1).sum(1) >= mask_roi_nuclei.SMALLEST).all()
    numbers = mask_roi_nuclei.run(3, short=True)
    assert set(numbers) == {"squares", "align 32", "pool 32", "mean shape"}
    assert all(0 < numbers[one]["IoU"] <= 1 for one in ("align 32", "pool 32", "mean shape"))


def test_mean_shapes_by_hand():
    from experiments.mask_training import MeanShapes, Scene

    left, full = torch.zeros(8, 8, dtype=torch.bool), torch.ones(8, 8, dtype=torch.bool)
    left[:, :4] = True
    box = torch.tensor([[0.0, 0, 8, 8]]).repeat(2, 1)
    data = Scene(torch.zeros(2, 1, 2, 2), [box, box[:1]], [torch.stack([left, full]), left[None]],
                 [torch.tensor([1, 1]), torch.tensor([2])], side=8)
    drawn = MeanShapes(data, num_classes=4, side=4)(torch.zeros(3, 1, 14, 14)).sigmoid()
    assert drawn.shape == (3, 4, 4, 4)
    ends = drawn[0, :, :, [0, 3]]  # the columns away from the half mask's edge, where RoIAlign mixes both sides
    torch.testing.assert_close(ends[1], torch.tensor([1, 0.5]).repeat(4, 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(ends[2], torch.tensor([1.0, 0]).repeat(4, 1), atol=1e-4, rtol=0)
    assert (drawn[:, 3] < 1e-4).all(), "a class never seen has no shape"
    assert (drawn[0] == drawn[2]).all(), "whatever the regions show"


def test_the_share_that_rounding_costs():
    from experiments.mask_roi import share_lost

    done = [{"align 8": {"AP": 0.6}, "pool 8": {"AP": 0.5}, "mean shape": {"AP": 0.4}},
            {"align 8": {"AP": 0.7}, "pool 8": {"AP": 0.6}, "mean shape": {"AP": 0.5}}]
    assert share_lost(done, 8, "AP") == pytest.approx(0.5)


def test_statistics_by_hand():
    done = [{"a": {"AP": 0.1}, "b": {"AP": 0.3}}, {"a": {"AP": 0.4}, "b": {"AP": 0.35}},
            {"a": {"AP": 0.1}, "b": {"AP": 0.2}}]
    assert across(done, max) == {"a": {"AP": 0.4}, "b": {"AP": 0.35}}
    assert wins(done, "b", "a"), "better on the mean and in two of three"
    assert not wins(done, "a", "b")
    assert not wins([{"a": {"AP": 1.0}, "b": {"AP": 0}}, {"a": {"AP": 0}, "b": {"AP": 0.1}},
                     {"a": {"AP": 0}, "b": {"AP": 0.1}}], "a", "b"), "better on the mean, but in one of three only"


def test_every_experiment_has_its_form():
    names = known_experiments()
    assert known_measurements() == ["race"]
    assert "race" not in names
    assert set(names) >= {"rcnn_box_regression", "rcnn_context", "rcnn_features", "rcnn_proposals",
                          "rcnn_svm_threshold"}
    for name in names:
        module = importlib.import_module(f"experiments.{name}")
        assert module.__doc__
        assert module.CLAIM.endswith(".")
        assert callable(module.run)
        assert callable(module.verdict)


@pytest.mark.parametrize("name", STORED)
def test_stored_results_agree_with_their_own_seeds(name):
    """Mean, deviation and verdict are what the stored numbers of the seeds give; three seeds or more."""
    result = load_result(name)
    module = importlib.import_module(f"experiments.{name}")
    assert len(result["seeds"]) >= 3
    again = json.loads(json.dumps(result))
    record.summarise(again, module.verdict)
    assert again == result
    assert result["claim"] == module.CLAIM
    assert result["command"].startswith("python -m experiments")


@pytest.mark.parametrize("name", STORED)
def test_stored_results_belong_to_the_shipped_weights_and_data(name, monkeypatch):
    shared = Path(__file__).resolve().parents[1] / ".." / "shared" / "datasets"
    if shared.is_dir():
        monkeypatch.setenv("LESSONS_DATA", str(shared))
    if missing := record.what_is_missing(name):
        pytest.skip(missing)
    result, known = load_result(name), record.origin(importlib.import_module(f"experiments.{name}"))
    assert {key: result[key] for key in known} == known


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fpn_ablation", "faster_rcnn_training"])
def test_experiments_on_proposals_run_short(name):
    numbers = importlib.import_module(f"experiments.{name}").run(0, short=True)
    assert len(numbers) >= 2
    assert all(0 <= value <= 1 for row in numbers.values() for key, value in row.items() if key != "seconds")


def test_what_is_taken_out_of_the_pyramid_is_out():
    from experiments import fpn_ablation as ablation

    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole, unlinked, flat = (build(0).eval() for build in (ablation.pyramid, ablation.without_lateral_links, ablation.without_top_down_path))
    for model in (unlinked, flat):
        model.backbone.body.load_state_dict(whole.backbone.body.state_dict())
    unlinked.backbone.fpn.layer_blocks.load_state_dict(whole.backbone.fpn.layer_blocks.state_dict())
    unlinked.backbone.fpn.inner_blocks[3].load_state_dict(whole.backbone.fpn.inner_blocks[3].state_dict())
    flat.backbone.fpn.load_state_dict(whole.backbone.fpn.state_dict())
    with torch.no_grad():
        coarsest = whole.backbone.fpn.inner_blocks[3](whole.backbone.body(images)[3])
        enlarged = coarsest.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        torch.testing.assert_close(unlinked.backbone(images)[0], whole.backbone.fpn.layer_blocks[0](enlarged))
        links, smooth = whole.backbone.fpn.inner_blocks, whole.backbone.fpn.layer_blocks
        alone = [smooth[i](links[i](one)) for i, one in enumerate(whole.backbone.body(images))]
        torch.testing.assert_close(flat.backbone(images), alone)


def test_each_change_to_the_top_down_path_is_the_one_that_it_says():
    """Sizes of anchors, first weights, and how far a cell sees: by gradients, as counted layer by layer."""
    from experiments import fpn_top_down as top_down
    from experiments.fpn_ablation import SIZES

    def seen(stages, dilation):  # a kernel of k adds k - 1 of the present steps, a stride multiplies the step
        layers = [(7, 2), (3, 2), *[(3, 1 + (stage > 0 and i == 0)) for stage in range(stages) for i in (0, 1)]]
        width, step = 1, 1
        for kernel, stride in layers:
            width, step = width + (kernel - 1) * step, step * stride
        return width + 2 * step * dilation + 2 * step  # smoothing, and the RPN's own convolution

    weights = {}
    for name, path, change in top_down.conditions():
        model = top_down.changed(top_down.BUILD[path], change, 0)
        sizes = {"anchors of 6 cells": (24, 48, 96, 192), "anchors of 8 cells": (32, 64, 128, 256), "8 cells, wider view": (32, 64, 128, 256)}
        assert model.rpn.sizes == tuple((size,) for size in sizes.get(name, SIZES))
        wide = 3 if "wider" in name else 1
        alone = [seen(stages, wide) for stages in (1, 2, 3)]
        views = [top_down.view(model, level) for level in range(3)]
        assert views == alone if path == "no path" else all(v > 220 for v in views), (name, path, views)
        weights[name] = model.backbone.body.conv1.weight
        assert [tuple(one.shape[-2:]) for one in model.backbone(torch.rand(1, 3, 64, 96))] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert not torch.equal(weights["body from nothing"], weights["as before"])
    assert all(torch.equal(w, weights["as before"]) for name, w in weights.items() if name != "body from nothing")


@pytest.mark.slow
def test_the_top_down_path_runs_short(monkeypatch):
    from experiments import fpn_top_down as top_down

    names = ("three classes of six", "whole detector")
    monkeypatch.setattr(top_down, "CHANGES", {name: top_down.CHANGES[name] for name in names})
    numbers = top_down.run(0, short=True)
    assert set(numbers) == {f"{name}, {path}" for name in names for path in ("path", "no path")}
    assert all(0 <= value <= 1 for row in numbers.values() for value in row.values())
    assert {"AP", "AP50", "AR100"} <= set(numbers["whole detector, path"])


def test_what_counts_as_an_object_can_be_narrowed():
    from experiments.proposal_training import KeptScenes

    all_of_them, some = KeptScenes("val", 12, 7), KeptScenes("val", 12, 7, (1, 3, 5))
    for i in range(12):
        (image, target), (same, fewer) = all_of_them[i], some[i]
        assert torch.equal(image, same), "the others are still to be seen"
        keep = [i for i, label in enumerate(target["labels"].tolist()) if label in (1, 3, 5)]
        for key in ("boxes", "labels", "area", "iscrowd"):
            assert torch.equal(fewer[key], target[key][keep])
        assert fewer["image_id"] == target["image_id"]
    assert sum(len(some[i][1]["labels"]) for i in range(12)) < sum(len(all_of_them[i][1]["labels"]) for i in range(12))
    assert set(torch.cat([all_of_them[i][1]["labels"] for i in range(12)]).tolist()) - {1, 3, 5}


@pytest.mark.slow
def test_box_regression_runs_short(monkeypatch, tmp_path):
    monkeypatch.setattr("experiments.rcnn_training.KEPT", tmp_path)
    module = importlib.import_module("experiments.rcnn_box_regression")
    numbers = module.run(0, short=True)
    assert set(numbers) == {"without", "with"}
    assert all(0 <= value <= 1 for row in numbers.values() for value in row.values())
    assert numbers["with"]["AP@0.50"] == pytest.approx(numbers["with"]["AP50"], abs=1e-4)
    assert numbers["with"]["AP"] > 0.2
