"""The experiments on DETR change what they say they change, count what they say they count, and nothing else."""

import importlib

import pytest
import torch

from experiments import (
    detr_attention,
    detr_losses,
    detr_matching_stability,
    detr_nms,
    detr_parts,
    detr_training,
)
from lessons import zoo
from lessons.data.scenes import Scenes
from lessons.detectors.detr import SetPrediction, in_parts
from lessons.losses import detr_matching_cost
from lessons.recipes import detr

SCENES = [Scenes("val", length=10)[i] for i in (1, 8, 4)]
TRAINING = ("detr_parts", "detr_losses", "detr_matching_stability")


def untrained():
    return detr.build(seed=3).eval()


def outputs(model):
    batch, _ = model.prepare([image for image, _ in SCENES])
    with torch.no_grad():
        return model.predict(batch)


def test_answers_and_assignments_one_picture_at_a_time():
    model = untrained()
    torch.nn.init.normal_(model.query_embed.weight, std=3, generator=torch.Generator().manual_seed(0))
    expected = []
    for image, target in SCENES:
        prediction = model.predict(model.prepare([image])[0])
        cost = detr_matching_cost(prediction.logits[-1, 0], prediction.boxes[-1, 0], target["labels"],
                                  in_parts(target["boxes"], (160, 160)))
        count = len(target["labels"])
        free, answer = set(range(25)), [-1] * count
        best = min(_placings(cost.tolist(), free, 0), key=lambda placing: placing[0])
        for number, query in enumerate(best[1]):
            answer[number] = query
        expected += answer
    assert detr_training.assigned(model, SCENES).tolist() == expected
    assert len(list(detr_training.answers(model, SCENES * 3))) == 2  # nine pictures: eight, and one


def _placings(cost, free, number):
    """Every one-to-one placing of the objects from `number` on, with its cost; of a few queries each, the cheapest."""
    if number == len(cost[0]):
        return [(0.0, ())]
    found = []
    for query in sorted(free, key=lambda q: cost[q][number])[: len(cost[0])]:  # no other can be in the best placing
        found += [(cost[query][number] + total, (query, *rest))
                  for total, rest in _placings(cost, free - {query}, number + 1)]
    return found


def test_boxes_per_object_by_hand():
    target = {"boxes": torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]]),
              "labels": torch.tensor([1, 2, 1])}
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [50, 50, 60, 61], [80, 80, 84, 84]])
    detection = {"boxes": boxes, "labels": torch.tensor([1, 1, 2, 1, 1]),
                 "scores": torch.tensor([0.9, 0.6, 0.9, 0.9, 0.9])}
    assert detr_nms.boxes_per_object([detection], [target]) == pytest.approx(3 / 2)  # two, one, and one not found
    assert detr_nms.boxes_per_object([detection], [target], score=0.7) == 1
    assert detr_nms.boxes_per_object([detection], [target], score=0.95) == 0
    assert len(detr_nms.thinned(detection)["boxes"]) == 4


def test_doubles_and_whom_the_matching_gives_the_object():
    """Queries 0 and 1 lie upon the first object, 0 surer and 1 better placed; query 2 alone upon the second; 3 nowhere."""
    image, target = torch.zeros(3, 100, 100), {"boxes": torch.tensor([[10.0, 10, 50, 50], [60, 60, 90, 90]]), "labels": torch.tensor([2, 1])}
    boxes = torch.tensor([[14.0, 10, 50, 50], [11, 10, 50, 50], [60, 60, 90, 90], [0, 0, 9, 9]])
    chances = torch.tensor([[0, 0, 0.8, 0.2], [0, 0, 0.5, 0.5], [0, 0.9, 0, 0.1], [0, 0, 0.9, 0.1]])
    prediction = SetPrediction(chances.log()[None, None], in_parts(boxes, (100, 100))[None, None], None, [], [])

    empty = image, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    twice = SetPrediction(*(rows.expand(-1, 2, -1, -1) for rows in prediction[:2]), *prediction[2:])

    def count(weight, score=0.25):
        return detr_nms.matched_doubles([(twice, None, [(image, target), empty])], (weight, 5.0, 2.0), score)

    assert count(0.1) == (1, 0)
    assert count(5.0) == (1, 1)
    assert count(5.0, score=0.6) == (0, 0)


def test_every_box_thinned_is_what_the_lesson_finds():
    images = [image for image, _ in SCENES]
    with torch.no_grad():
        shipped = zoo.load("faster_rcnn", "lesson")(images)
    boxes = detr_nms.every_box(images)
    assert sum(map(len, (one["scores"] for one in boxes))) > 3 * sum(map(len, (one["scores"] for one in shipped)))
    for one, other in zip(map(detr_nms.thinned, boxes), shipped, strict=True):
        for key in ("boxes", "scores", "labels"):
            torch.testing.assert_close(one[key][: len(other[key])], other[key], rtol=1e-4, atol=1e-3)


def test_layers_one_after_the_other():
    model = untrained()
    layers = detr_nms.by_layer(model, SCENES)
    assert [len(layer) for layer in layers] == [3, 3, 3]
    with torch.no_grad():
        whole = model([image for image, _ in SCENES])
    for one, other in zip(layers[-1], whole, strict=True):
        torch.testing.assert_close(one["boxes"], other["boxes"])
    assert not torch.equal(layers[0][0]["scores"], layers[1][0]["scores"])


@pytest.mark.parametrize(("name", "layers"), [("1 encoder layer", 1), ("no encoder", 0), ("whole", 3)])
def test_encoders_of_other_depths_and_nothing_else(name, layers):
    model, whole = untrained(), untrained()
    detr_parts.CHANGES[name](model)
    left, weights = model.state_dict(), whole.state_dict()
    assert len(model.transformer.encoder.layers) == layers
    gone = {key for key in weights if key.startswith("transformer.encoder.layers.")
            and int(key.split(".")[3]) >= layers}
    assert left.keys() == weights.keys() - gone
    assert all(torch.equal(left[key], weights[key]) for key in left)
    assert torch.equal(outputs(model).boxes, outputs(whole).boxes) == (layers == 3)


def test_without_positions_the_order_of_cells_means_nothing():
    model, whole = untrained(), untrained()
    detr_parts.no_positions(model)
    features = torch.randn(1, 128, 4, 5, generator=torch.Generator().manual_seed(0))
    mixed = features.flatten(2)[:, :, torch.randperm(20, generator=torch.Generator().manual_seed(1))].view_as(features)
    padding, queries = torch.zeros(1, 4, 5, dtype=torch.bool), model.query_embed.weight
    with torch.no_grad():
        torch.testing.assert_close(model.transformer(features, padding, queries)[0],
                                   model.transformer(mixed, padding, queries)[0], rtol=0, atol=1e-4)
        told = whole.transformer(features, padding, queries)[0] - whole.transformer(mixed, padding, queries)[0]
    assert told.abs().max() > 1e-3


def test_only_the_box_layers_begin_anew(monkeypatch):
    monkeypatch.setattr(detr_losses, "finished", untrained)
    changed = detr_losses.with_new_boxes(seed=0).state_dict()
    for key, tensor in untrained().state_dict().items():
        assert torch.equal(tensor, changed[key]) != key.startswith("bbox_embed")
    again = detr_losses.with_new_boxes(seed=0).state_dict()
    assert torch.equal(again["bbox_embed.0.weight"], changed["bbox_embed.0.weight"])


@pytest.mark.parametrize(("name", "absent"), [("L1", "loss_giou"), ("GIoU", "loss_bbox")])
def test_a_loss_that_is_off_costs_nothing(name, absent):
    model = untrained()
    model.loss_weights = detr_losses.LOSSES[name]
    losses = model.train()([image for image, _ in SCENES], [target for _, target in SCENES])
    assert all((loss == 0) == key.startswith(absent) for key, loss in losses.items())


def test_densities_by_hand():
    box = torch.tensor([16.0, 16, 64, 64])
    parts = detr_attention.parts_of(box, 80, 80)
    assert parts["inside"].sum() == 48 * 48
    assert parts["middle"].sum() == 24 * 24
    assert parts["outline"].sum() == 56 * 56 - 40 * 40
    assert parts["outside"].sum() == 80 * 80 - 48 * 48
    flat = torch.ones(80, 80)
    spot = torch.zeros(80, 80)
    spot[32:48, 32:48] = 25.0  # all in one cell of the middle
    row = detr_attention.densities(torch.stack([flat, spot]), torch.stack([box, box]))
    assert row["middle"] == pytest.approx((1 + 25 * 256 / 576) / 2, abs=1e-3)
    assert row["outline"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no object of that size"):
        detr_attention.densities(flat[:0, None], box[None][:0])


def test_who_is_found_and_where_it_looked(monkeypatch):
    model = untrained()
    monkeypatch.setattr(detr_attention, "found_objects", lambda detection, target, least: (
        torch.tensor([7]), torch.tensor([0])))
    maps, boxes = detr_attention.looked_at(model, SCENES)
    assert maps.shape == (3, 3, 160, 160)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), torch.ones(3, 3))
    batch, _ = model.prepare([SCENES[1][0]])
    with torch.no_grad():
        weights = model.predict(batch, need_weights=True).decoder_attention[2][0, :, 7].mean(0).view(10, 10)
    torch.testing.assert_close(maps[2, 1, ::16, ::16], weights * 100, rtol=1e-3, atol=1e-3)
    assert torch.equal(boxes[1], SCENES[1][1]["boxes"][0])


def test_found_objects_are_right_sure_and_large():
    target = {"boxes": torch.tensor([[0.0, 0, 50, 50], [60, 60, 80, 120], [90, 0, 150, 60]]),
              "labels": torch.tensor([1, 2, 3])}
    detection = {"boxes": target["boxes"][[2, 1, 0, 0]], "labels": torch.tensor([3, 2, 1, 1]),
                 "scores": torch.tensor([0.4, 0.9, 0.9, 0.9])}
    query, objects = detr_attention.found_objects(detection, target, 48)
    assert (query.tolist(), objects.tolist()) == ([2], [0])  # the second is too narrow, the third not sure enough


def test_stability_counts_changes():
    model = untrained()
    watched = detr_matching_stability.Matchings(model, SCENES, 2)
    watched.queries = [torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 5]), torch.tensor([1, 0, 2, 5])]
    assert watched.changed() == [0.25, 0.5]
    watched.queries = []
    model.train()
    watched.on_start({}, 4)
    for step in range(4):
        watched.on_step(step, {}, 0.1)
    assert len(watched.queries) == 3
    assert model.training
    assert watched.changed() == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TRAINING, "detr_nms", "detr_sizes"])
def test_experiments_run_short(name, monkeypatch):
    module = importlib.import_module(f"experiments.{name}")
    monkeypatch.setattr(module, "finished", untrained)
    numbers = module.run(0, short=True)
    assert len(numbers) >= 2
    assert len({frozenset(row) for row in numbers.values()}) == 1
    assert all(isinstance(holds, bool) for holds in module.verdict([numbers, numbers]).values())
