"""DETR with ResNet-50: transformers' weights in, transformers' results out; and the names under which weights come."""

import re

import pytest
import torch
from parity import assert_same_detections, assert_same_step

from benchmarks.alive import embedded_pictures, photographs, targets_for
from benchmarks.parity import batch_of, set_differences
from lessons import zoo
from lessons.checkpoints import CheckpointError
from lessons.published import renamed

pytest.importorskip("transformers", minversion="5")
pytestmark = pytest.mark.slow
FEW = [(150, 203), (211, 140), (97, 160)]


@pytest.fixture(scope="module")
def pair():
    """Ours and transformers' with the same weights, for pictures with a short side of 128 pixels and 11 classes."""
    from benchmarks.transformers_detr import detr_pair

    return detr_pair(128, num_classes=11, attention="eager")


@pytest.fixture(params=["double", "single"])
def precision(request, pair):
    """The pair in one precision, that dtype, and what may differ.

    In single precision both attend by torch's fused kernel: these weights magnify what two ways of rounding differ by.
    """
    dtype, tolerance = (torch.float64, 1e-9) if request.param == "double" else (torch.float32, 1e-4)
    pair[1].config._attn_implementation = "eager" if request.param == "double" else "sdpa"
    yield [model.to(dtype) for model in pair], dtype, tolerance
    pair[1].config._attn_implementation = "eager"


def test_every_layer_of_every_picture(precision):
    """Six pictures of different sizes, padded, none square."""
    (mine, theirs), dtype, tolerance = precision
    close, is_double = {"rtol": 0, "atol": tolerance}, dtype == torch.float64
    batch, _ = mine.prepare(photographs(dtype=dtype))
    with torch.no_grad():
        found, wanted, said = mine.predict(batch, is_double), theirs.predict(batch, is_double), theirs.own_output(batch)
    assert found.padding.flatten(1).any(dim=1).all()
    torch.testing.assert_close(found.logits, wanted.logits, **close)
    torch.testing.assert_close(found.boxes, wanted.boxes, **close)
    torch.testing.assert_close(found.logits[-1], said.logits, **close)  # by transformers' own forward method
    torch.testing.assert_close(found.boxes[-1], said.pred_boxes, **close)
    for ours, others in ((found.encoder_attention, wanted.encoder_attention),
                         (found.decoder_attention, wanted.decoder_attention)):
        assert len(ours) == len(others) == 6 * is_double
        for one, other in zip(ours, others, strict=True):
            torch.testing.assert_close(one, other, **close)


def test_attention_in_single_precision():
    """With looks less sharp than the other tests', which magnify rounding, and not yet alike everywhere."""
    from benchmarks.transformers_detr import detr_pair

    mine, theirs = detr_pair(128, num_classes=11, attention="eager", sharpness=2.0)
    batch, _ = mine.prepare(photographs(dtype=torch.float32))
    with torch.no_grad():
        found, wanted = mine.predict(batch, True), theirs.predict(batch, True)
    for ours, others in ((found.encoder_attention, wanted.encoder_attention),
                         (found.decoder_attention, wanted.decoder_attention)):
        assert len(ours) == len(others) == 6
        for one, other in zip(ours, others, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
            assert one.amax(-1).median() > 3 * one.mean()  # more than a mean of all cells


def test_every_detection(pair):
    mine, theirs = (model.double() for model in pair)
    images = photographs()
    with torch.no_grad():
        found, wanted = mine(images), theirs(images)
    assert_same_detections(found, wanted, pixels=1e-6, score=1e-9)
    # it says something: classes, scores and boxes differ
    assert sum(len(one["labels"].unique()) > 1 for one in found) >= 4
    assert len(torch.cat([one["labels"] for one in found]).unique()) > 3
    assert torch.cat([one["scores"] for one in found]).std() > 0.1
    assert min(one["boxes"].std(dim=0).min() for one in found) > 1


def test_one_step_of_training(precision):
    models, dtype, tolerance = precision
    images = photographs(FEW, dtype, seed=1)
    assert_same_step(models, images, targets_for(images, num_classes=11), (), tolerance)


def test_the_benchmark_compares_what_can_differ(pair):
    """A row of the table `benchmarks parity`: nothing differs in double precision, until one weight does."""
    mine, theirs = (model.double() for model in pair)
    images, _ = batch_of(embedded_pictures(2, 170), "detr_resnet50", torch.float64)
    found = set_differences(mine, theirs, images)
    assert [found.pop(f"found {i}") for i in range(2)] == [100, 100]
    assert found.keys() == {"layers", "boxes", "scores"}
    assert max(found.values()) < 1e-9
    weight = mine.transformer.encoder.layers[0].self_attn.in_proj_weight
    with torch.no_grad():
        before = weight.clone()
        weight[:256] *= 1 + 1e-6
        assert set_differences(mine, theirs, images)["layers"] > 1e-8
        weight.copy_(before)


def test_a_step_without_objects(pair):
    images = photographs(FEW[:2], seed=1)
    assert_same_step([model.double() for model in pair], images, targets_for(images, counts=[0, 0]))


def authors(state):
    """Our state dict with the names of facebookresearch/detr's."""
    return {re.sub(r"^bbox_embed\.(\d)", lambda m: f"bbox_embed.layers.{int(m[1]) // 2}", key).replace(
        "backbone.body.", "backbone.0.body."): tensor for key, tensor in state.items()}


def test_the_authors_names(pair):
    state = pair[0].state_dict()
    theirs = authors(state)
    assert len(theirs) == 458
    assert {"transformer.encoder.layers.5.self_attn.in_proj_bias", "transformer.decoder.layers.0.multihead_attn.in_proj_"
            "weight", "transformer.decoder.norm.weight", "class_embed.weight", "bbox_embed.layers.2.bias", "query_embed."
            "weight", "input_proj.weight", "backbone.0.body.layer1.0.downsample.1.running_var"} <= theirs.keys()
    loaded = zoo.load("detr_resnet50", {"model": theirs})
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[key].float()), key
    assert {module.eps for module in loaded.backbone.modules() if hasattr(module, "running_var")} == {1e-5}
    assert (loaded.prepare.min_sizes[-1], loaded.prepare.max_size, loaded.prepare.divisor) == (800, 1333, 1)
    del theirs["input_proj.bias"]
    with pytest.raises(CheckpointError, match="missing: input_proj.bias"):
        zoo.load("detr_resnet50", theirs)


def test_transformers_older_names(pair):
    """Those of the files on the Hugging Face Hub: timm's body, and projections and layers as before version 5."""
    state = {key: tensor for key, tensor in pair[1].state_dict().items() if ".backbone." not in key}
    old = {re.sub(r"mlp\.(fc\d)", r"\1", key).replace("o_proj", "out_proj"): tensor for key, tensor in state.items()}
    assert len(old.keys() - state.keys()) == 6 * 4 + 6 * 4 + 6 * 2 + 12 * 2
    body = {key.replace("backbone.body.", "model.backbone.conv_encoder.model."): tensor
            for key, tensor in pair[0].state_dict().items() if "backbone" in key}
    found, wanted = renamed({**body, **old}), renamed(pair[1].state_dict())
    assert found.keys() == wanted.keys() == pair[0].state_dict().keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_half_of_an_attention_is_refused(pair):
    state = dict(pair[1].state_dict())
    del state["model.encoder.layers.0.self_attn.k_proj.weight"]
    with pytest.raises(CheckpointError, match=r"missing: transformer.encoder.layers.0.self_attn.in_proj_weight; "
                       r"unexpected: .*layers.0.self_attn.v_proj.weight"):
        zoo.load("detr_resnet50", state)
