"""DETR: what goes in and comes out, what must not matter, and that it learns."""

import pytest
import torch

from lessons.boxes import box_convert
from lessons.detectors.detr import DETR, Transformer, in_parts, padded_cells
from lessons.images import ImageBatch, ImagePreparation
from lessons.losses import detr_set_loss
from lessons.recipes import detr
from lessons.zoo import load_strictly

SIZES = [(64, 64), (48, 80), (80, 40)]
CLASSES, QUERIES = 4, 7


class Mean(torch.nn.Module):
    """A body of one layer: the mean of each 8 x 8 pixels, in 16 mixtures of its colours."""

    out_channels = 16

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(3, self.out_channels, 1)

    def forward(self, images):
        return [self.body(torch.nn.functional.avg_pool2d(images, 8))]


@pytest.fixture
def model():
    """A DETR of two layers that sees pictures as large as they are, in evaluation mode and double precision."""
    torch.manual_seed(0)
    transformer = Transformer(32, 4, 2, 3, dim_feedforward=64, dropout=0.0)
    return DETR(Mean(), transformer, CLASSES, Same((64,), 999), QUERIES).double().eval()


class Same(ImagePreparation):
    """Leaves pictures as large as they are."""

    def __call__(self, images, targets=None, training=False):
        pixels = torch.zeros(len(images), 3, *(max(side) for side in zip(*(i.shape[1:] for i in images), strict=True)))
        for row, image in zip(pixels := pixels.to(images[0].dtype), images, strict=True):
            row[:, :image.shape[1], :image.shape[2]] = image
        sizes = [tuple(image.shape[1:]) for image in images]
        return ImageBatch(pixels, sizes, sizes), list(targets or [])


def pictures(seed=0, sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator, dtype=torch.float64) for size in sizes]


def objects(counts=(2, 0, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = [torch.rand(n, 2, generator=generator, dtype=torch.float64) * 20 for n in counts]
    return [{"boxes": torch.cat([c, c + 5 + torch.rand(len(c), 2, generator=generator) * 15], dim=1),
             "labels": torch.randint(1, CLASSES, (len(c),), generator=generator)} for c in corner]


def test_detections_of_pictures_of_any_size(model):
    found = model(pictures())
    assert len(found) == 3
    for one, (height, width) in zip(found, SIZES, strict=True):
        assert {key: tuple(value.shape) for key, value in one.items()} == \
            {"boxes": (QUERIES, 4), "labels": (QUERIES,), "scores": (QUERIES,)}
        assert ((one["labels"] >= 0) & (one["labels"] < CLASSES)).all()
        centre = (one["boxes"][:, :2] + one["boxes"][:, 2:]) / 2
        assert ((centre > 0) & (centre < torch.tensor([width, height]))).all()


def test_detections_say_what_the_last_layer_predicts(model):
    batch, _ = model.prepare(pictures())
    prediction = model.predict(batch)
    probability = prediction.logits[-1].softmax(-1)
    for i, one in enumerate(model(pictures())):
        for query in range(QUERIES):
            label = int(probability[i, query, :CLASSES].argmax())
            assert one["labels"][query] == label
            assert one["scores"][query] == probability[i, query, label]
            cx, cy, w, h = (prediction.boxes[-1, i, query] * torch.tensor(SIZES[i][::-1] * 2)).tolist()
            torch.testing.assert_close(one["boxes"][query].tolist(), [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    earlier = model.detect(prediction, batch, layer=0)
    assert not torch.equal(earlier[0]["boxes"], model.detect(prediction, batch)[0]["boxes"])


def test_a_picture_alone_is_seen_as_in_a_batch(model):
    for one, together in zip(pictures(), model(pictures()), strict=True):
        alone, = model([one])
        for key in alone:
            torch.testing.assert_close(alone[key], together[key], rtol=1e-9, atol=1e-9)


def test_what_is_in_the_padding_does_not_matter(model):
    batch, _ = model.prepare(pictures())
    before = model.predict(batch, need_weights=True)
    for row, (height, width) in zip(batch.pixels, batch.sizes, strict=True):
        row[:, height:], row[:, :, width:] = 100, -100
    after = model.predict(batch)
    torch.testing.assert_close(after.logits, before.logits)
    torch.testing.assert_close(after.boxes, before.boxes)


def test_attention_sums_to_one_and_ignores_padding(model):
    prediction = model.predict(model.prepare(pictures())[0], need_weights=True)
    hidden = prediction.padding.flatten(1)
    assert hidden.sum(1).tolist() == [36, 40, 50]  # of 10 x 10 cells
    assert (len(prediction.encoder_attention), len(prediction.decoder_attention)) == (2, 3)
    for rows, weights in ((100, prediction.encoder_attention), (QUERIES, prediction.decoder_attention)):
        for layer in weights:
            assert layer.shape == (3, 4, rows, 100)
            torch.testing.assert_close(layer.sum(-1), torch.ones(3, 4, rows, dtype=torch.float64))
            assert (layer.masked_select(hidden[:, None, None]) == 0).all()


def test_asking_for_attention_changes_nothing_else(model):
    batch, _ = model.prepare(pictures())
    with_weights, without = model.predict(batch, need_weights=True), model.predict(batch)
    torch.testing.assert_close(with_weights.logits, without.logits)
    torch.testing.assert_close(with_weights.boxes, without.boxes)
    assert without.encoder_attention == without.decoder_attention == []


def test_queries_are_a_set(model):
    """In another order they give the same in that order, and attend to the same places."""
    batch, _ = model.prepare(pictures())
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(1))
    before = model.predict(batch, need_weights=True)
    model.query_embed.weight.data = model.query_embed.weight[order]
    after = model.predict(batch, need_weights=True)
    torch.testing.assert_close(after.logits, before.logits[:, :, order])
    torch.testing.assert_close(after.boxes, before.boxes[:, :, order])
    for ours, other in zip(after.decoder_attention, before.decoder_attention, strict=True):
        torch.testing.assert_close(ours, other[:, :, order])


def test_without_its_places_the_picture_is_a_set_of_cells(model, monkeypatch):
    """Cells in another order change the prediction, and without the sine encoding they do not."""
    batch, _ = model.prepare(pictures(sizes=[(64, 64)]))
    turned = batch._replace(pixels=batch.pixels.rot90(1, (2, 3)))
    assert not torch.allclose(model.predict(turned).boxes, model.predict(batch).boxes, atol=1e-6)
    monkeypatch.setattr("lessons.detectors.detr.sine_position_encoding",
                        lambda mask, channels, dtype: torch.zeros(len(mask), channels, *mask.shape[1:], dtype=dtype))
    torch.testing.assert_close(model.predict(turned).boxes, model.predict(batch).boxes)


def test_losses_of_every_layer(model):
    images, targets = pictures(), objects()
    losses = model.train()(images, targets)
    names = ["loss_ce", "loss_bbox", "loss_giou"]
    assert list(losses) == names + [f"{name}_{i}" for i in (0, 1) for name in names]
    prediction = model.predict(model.prepare(images)[0])
    truth = [{"labels": t["labels"], "boxes": box_convert(t["boxes"], "xyxy", "cxcywh") / torch.tensor([w, h, w, h])}
             for t, (h, w) in zip(targets, SIZES, strict=True)]
    for layer, end in ((-1, ""), (0, "_0"), (1, "_1")):
        expected = detr_set_loss(prediction.logits[layer], prediction.boxes[layer], truth)
        for name, factor in zip(names, (1, 5, 2), strict=True):
            torch.testing.assert_close(losses[name + end], factor * expected[name])


def test_the_weights_of_the_losses_are_those_of_the_matching(model):
    model.loss_weights = (0.0, 0.0, 3.0)
    losses = model.train()(pictures(), objects())
    assert losses["loss_ce"] == losses["loss_bbox_0"] == 0 < losses["loss_giou"]
    other = model.predict(model.prepare(pictures())[0])
    truth = [{**t, "boxes": in_parts(t["boxes"], size)} for t, size in zip(objects(), SIZES, strict=True)]
    least = detr_set_loss(other.logits[-1], other.boxes[-1], truth, weights=(0.0, 0.0, 1.0))["loss_giou"]
    assert least <= detr_set_loss(other.logits[-1], other.boxes[-1], truth)["loss_giou"]
    torch.testing.assert_close(losses["loss_giou"], 3 * least)


def test_pictures_without_objects_teach_the_class_alone(model):
    losses = model.train()(pictures(), objects((0, 0, 0)))
    assert losses["loss_bbox"] == losses["loss_giou_1"] == 0 < losses["loss_ce"]
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_learns(model):
    sum(model.train()(pictures(), objects()).values()).backward()
    # the queries' content is 0 at first: in the first self-attention there is nothing to be had but biases, yet 0, too
    blind = {f"transformer.decoder.layers.0.{name}"
             for name in ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "norm1.weight")}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name in blind, name


def test_padded_cells_are_those_whose_first_pixel_is_padding():
    batch = ImageBatch(torch.zeros(2, 3, 10, 12), [(10, 12), (5, 7)], [(10, 12), (5, 7)])
    expected = torch.ones(3, 4, dtype=torch.bool)
    expected[:2, :3] = False  # the cells' first pixels: rows 0, 3, 6 and columns 0, 3, 6, 9
    assert padded_cells(batch, (3, 4)).tolist() == [[[False] * 4] * 3, expected.tolist()]


def test_training_needs_targets():
    with pytest.raises(ValueError, match="training needs targets"):
        detr.build().train()(pictures(sizes=[(64, 64)]))


def test_the_lesson_detector_freezes_the_start_of_its_body():
    model = detr.build()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(("backbone.body.conv1",
                                                                                       "backbone.body.layer1"))}
    load_strictly(model, detr.build(seed=1).state_dict(), "another")


def test_it_learns_one_picture_by_heart():
    """Three squares of three colours: every object one confident query with its box, every other query nothing."""
    torch.manual_seed(0)
    image = torch.zeros(3, 64, 64)
    boxes = torch.tensor([[4.0, 6, 24, 30], [34, 4, 60, 20], [20, 36, 56, 60]])
    for channel, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
        image[channel, y1:y2, x1:x2] = 1
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2, 3])}]
    model = DETR(Mean(), Transformer(32, 4, 1, 2, 64, 0.0), CLASSES, Same((64,), 999), QUERIES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        losses = model([image], targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    found, = model.eval()([image])
    sure = found["scores"] > 0.8
    assert sorted(found["labels"][sure].tolist()) == [1, 2, 3]
    order = found["labels"][sure].argsort()
    torch.testing.assert_close(found["boxes"][sure][order], boxes, rtol=0, atol=3)
    assert (found["scores"][~sure] < 0.3).all()
