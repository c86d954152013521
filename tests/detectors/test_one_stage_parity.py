"""RetinaNet and FCOS with ResNet-50: torchvision's weights in, torchvision's results out."""

import pytest
import torch
from parity import assert_same_inside_and_out, assert_same_step, with_old_names

from benchmarks.alive import photographs, reference, targets_for
from lessons import zoo
from lessons.detectors.fcos import centreness_of

NAMES = ("retinanet_resnet50_fpn", "fcos_resnet50_fpn")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    """torchvision's model and ours with its weights, in double precision, for small pictures and all scores."""
    theirs = reference(request.param, num_classes=11).double()
    mine = zoo.load(request.param, theirs.state_dict()).double()
    assert (mine.score_threshold, mine.nms_threshold, mine.max_detections, mine.max_candidates) == \
        (theirs.score_thresh, theirs.nms_thresh, theirs.detections_per_img, theirs.topk_candidates)
    if request.param.startswith("retina"):
        assert (mine.high, mine.low) == (theirs.proposal_matcher.high_threshold, theirs.proposal_matcher.low_threshold)
        assert mine.sizes == theirs.anchor_generator.sizes
    else:
        assert mine.radius == theirs.center_sampling_radius
        assert tuple((s,) for s in mine.strides) == theirs.anchor_generator.sizes
    theirs.transform.min_size, mine.prepare.min_sizes = (128,), (128,)
    theirs.score_thresh = mine.score_threshold = 0.0
    return request.param, mine, theirs.eval()


def test_every_detection(pair):
    _, mine, theirs = pair
    found = assert_same_inside_and_out(mine, theirs, photographs())
    assert min(len(d["boxes"]) for d in found) > 50
    assert len(torch.cat([d["labels"] for d in found]).unique()) > 3
    assert torch.cat([d["scores"] for d in found]).std() > 0.005


@pytest.mark.parametrize("counts", [None, [0, 0]])
def test_one_step_of_training(pair, counts):
    images = photographs([(150, 203), (211, 140), (97, 160)][: 3 if counts is None else 2], seed=1)
    assert_same_step(pair[1:], images, targets_for(images, num_classes=11, counts=counts))


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize(("name", "epsilon"), [("retinanet_resnet50_fpn", 0.0), ("fcos_resnet50_fpn", 1e-5)])
def test_old_names(name, epsilon, tracked):
    theirs = reference(name, num_classes=11)
    state = theirs.state_dict()
    if name.startswith("fcos"):  # the youngest of the five: only its pyramid has an older name
        old = {key: tensor for key, tensor in with_old_names(state, tracked).items() if not key.startswith("head.")}
        old |= {key: tensor for key, tensor in state.items() if key.startswith("head.")}
    else:
        old = with_old_names(state, tracked)
    assert len(old.keys() - state.keys()) >= 12
    theirs.load_state_dict(old, strict=tracked)
    model, ordinary = zoo.load(name, old), zoo.load(name, state)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, ordinary.state_dict()[key]), key
    assert {module.eps for key, module in model.named_modules() if "bn" in key} == {1e-5 if tracked else epsilon}


def test_centreness_by_hand():
    distances = torch.tensor([[1.0, 1, 1, 1], [1, 1, 3, 1], [1, 2, 4, 8]])
    torch.testing.assert_close(centreness_of(distances), torch.tensor([1.0, (1 / 3) ** 0.5, (1 / 16) ** 0.5]))


def test_the_first_scores_are_the_prior():
    with torch.no_grad():
        logits, _ = zoo.load("retinanet_resnet50_fpn").head([torch.zeros(1, 256, 4, 4)])
    torch.testing.assert_close(logits[0].sigmoid(), torch.full((1, 144, 91), 0.01))
