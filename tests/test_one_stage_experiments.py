"""The experiments on one-stage detectors change what they say they change, and nothing else."""

import importlib

import pytest
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from experiments import fcos_box_loss, fcos_centreness, retinanet_depth, retinanet_prior
from experiments.retinanet_loss import LOSSES
from lessons.boxes import box_iou
from lessons.coding import decode_ltrb
from lessons.data.scenes import Scenes
from lessons.detectors.fcos import centreness_of
from lessons.recipes import fcos, retinanet

SCENE = Scenes("val", length=10)[8]


def outputs_of(model):
    batch, _ = model.prepare([SCENE[0]])
    with torch.no_grad():
        features = model.backbone(batch.pixels)
        return tuple(torch.cat(levels, dim=1) for levels in model.head(features)), model.anchors(features, batch)


def test_cross_entropy_is_cross_entropy_and_alpha_weighs_it():
    model = retinanet.build().eval()
    (logits, deltas), anchors = outputs_of(model)
    logits = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    matches = model.assign(anchors, SCENE[1]["boxes"])
    wanted = torch.zeros_like(logits[0])
    for place, match in enumerate(matches.tolist()):
        if match >= 0:
            wanted[place, SCENE[1]["labels"][match]] = 1
    terms = F.binary_cross_entropy_with_logits(logits[0], wanted, reduction="none")[matches != -2]
    is_class = wanted[matches != -2] == 1
    objects = int((matches >= 0).sum())
    for name, weights in (("CE", (1, 1)), ("CE, alpha 0.75", (0.75, 0.25))):
        model.alpha, model.gamma = LOSSES[name]
        found = model.losses((logits, deltas), anchors, [SCENE[1]])["classification"]
        expected = (weights[0] * terms[is_class].sum() + weights[1] * terms[~is_class].sum()) / objects
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_the_prior_everything_begins_at_one_half():
    model = retinanet.build()
    torch.nn.init.constant_(model.head.cls_logits.bias, 0.0)
    half = retinanet_prior.first_step(model, [SCENE[0]], [SCENE[1]])
    rare = retinanet_prior.first_step(retinanet.build(), [SCENE[0]], [SCENE[1]])
    assert half["loss"] > 10 * rare["loss"]
    assert all(p.grad is None for p in model.parameters())


def test_towers_of_other_depths_and_nothing_else():
    models = [retinanet_depth.of_depth(depth, seed=0) for depth in (1, 4)]
    convolutions = [sum(isinstance(m, torch.nn.Conv2d) for m in model.head.class_tower) for model in models]
    assert convolutions == [1, 4]
    for one, other in zip(*(model.backbone.state_dict().values() for model in models), strict=True):
        assert torch.equal(one, other)


def test_box_losses_by_hand():
    squares, truth = torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([[-4.0, -4, 12, 20]])  # 1, 1, 1, 2 strides away
    distances = torch.tensor([[1.0, 2, 1, 0]])
    assert fcos_box_loss.l2(distances, squares, truth).item() == pytest.approx(0.5 * (1 + 4))
    assert fcos_box_loss.l1(distances, squares, truth).item() == pytest.approx(1 + 2)
    for loss in (fcos_box_loss.l1, fcos_box_loss.l2):
        assert loss(torch.tensor([[1.0, 1, 1, 2]]), squares, truth).item() == 0


def test_orders_of_boxes():
    model = fcos.build().eval()
    logits, distances, central = torch.randn(5, 7), torch.rand(5, 4) + 0.1, torch.randn(5, 1)
    distances[0] = 0.0  # a box of no size has no middle
    scored = {name: order((logits, distances, central)) for name, order in fcos_centreness.orders(model).items()}
    torch.testing.assert_close(scored["class alone"], logits.sigmoid())
    torch.testing.assert_close(scored["with centre-ness"] ** 2, logits.sigmoid() * central.sigmoid())
    torch.testing.assert_close(scored["centre-ness of the predicted box"][1:] ** 2,
                               logits[1:].sigmoid() * centreness_of(distances[1:])[:, None])
    assert (scored["centre-ness of the predicted box"][0] == 0).all()
    torch.testing.assert_close(scored["centre-ness alone"], central.sigmoid().repeat(1, 7))


def test_scores_and_overlaps_one_point_at_a_time():
    model = fcos.build(seed=2).eval()
    torch.nn.init.constant_(model.head.bbox_reg.bias, 1.5)
    model.head.cls_logits.bias.data[SCENE[1]["labels"][0]] = 2.0  # sure of the object's class, everywhere
    found = fcos_centreness.scores_and_overlaps(model, *SCENE, least=0.0)
    (logits, distances, central), anchors = outputs_of(model)
    expected, answers = [], model.assign(anchors, SCENE[1]["boxes"])
    for x, side, c, square, answer in zip(logits[0], distances[0], central[0], torch.cat(anchors), answers, strict=True):
        label = int(x.argmax())
        own = torch.where(SCENE[1]["labels"] == label)[0]
        overlap = box_iou(SCENE[1]["boxes"][own], decode_ltrb(side[None], square[None]))[:, 0]
        if len(own) and overlap.max() > 0:
            expected.append([(x[label].sigmoid() * c[0].sigmoid()).sqrt(), overlap.max(), own[overlap.argmax()], answer >= 0])
    torch.testing.assert_close(found, torch.tensor(expected))
    numbers, trained = fcos_centreness.agreement_of(model, [SCENE], least=0.0), found[:, 3] == 1
    assert numbers["rank correlation"] == pytest.approx(spearmanr(*found[:, :2].T.numpy()).statistic, abs=1e-4)
    assert numbers["at others"] == pytest.approx(spearmanr(*found[~trained, :2].T.numpy()).statistic, abs=1e-4)
    assert numbers["best box"] == pytest.approx(found[found[:, 0].argmax(), 1].item(), abs=1e-4)  # of the only object


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_prior", "fcos_box_loss"])
def test_experiments_run_short(name):
    module = importlib.import_module(f"experiments.{name}")
    numbers = module.run(0, short=True)
    assert len(numbers) >= 3
    assert all(0 <= row["AP50"] <= 1 for row in numbers.values())
    assert all(isinstance(holds, bool) for holds in module.verdict([numbers]).values())
