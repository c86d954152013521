"""ResNet-50, frozen batch normalisation and feature pyramids against torchvision's, key by key and number by number."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import feature_pyramid_network as reference

from lessons.backbones import fpn as ours
from lessons.backbones.resnet import BasicBlock, FrozenBatchNorm2d, ResNet, resnet50


def randomise(module, seed=0):
    """Weights and statistics that make every layer matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            tensor.copy_(noise + 0.5 if name.endswith("running_var") else (noise - 0.5) * (2 / tensor[0].numel() ** 0.5 if tensor.ndim > 1 else 1))
    return module


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_resnet50_is_torchvisions(frozen):
    norm = (FrozenBatchNorm2d, torchvision.ops.FrozenBatchNorm2d) if frozen else (nn.BatchNorm2d, nn.BatchNorm2d)
    theirs = randomise(torchvision.models.resnet50(norm_layer=norm[1])).double().eval()
    mine = resnet50(norm[0]).double().eval()
    tensors = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("fc.")}
    mine.load_state_dict(tensors, strict=True)
    images = torch.rand(2, 3, 75, 118, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    with torch.no_grad():
        for stage, found in enumerate(mine(images), start=1):
            expected = getattr(theirs, f"layer{stage}")(expected)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_resnet_starts_as_torchvisions_does():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18()
    torch.manual_seed(0)
    mine = ResNet(BasicBlock, (2, 2, 2, 2))
    mine.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}, strict=True)
    for name in ("conv1.weight", "layer4.1.conv2.weight"):
        a = mine.state_dict()[name]
        assert a.std() == pytest.approx((2 / (a.shape[0] * a.shape[2] ** 2)) ** 0.5, rel=0.05)


def test_a_small_one_has_the_sizes_that_it_says():
    model = ResNet(BasicBlock, (1, 1, 1, 1), widths=(8, 12, 16, 20))
    found = model(torch.rand(1, 3, 96, 160))
    assert [tuple(f.shape[1:]) for f in found] == [(8, 24, 40), (12, 12, 20), (16, 6, 10), (20, 3, 5)]
    assert [f.shape[1] for f in found] == model.channels


def test_frozen_batch_norm():
    theirs, mine = torchvision.ops.FrozenBatchNorm2d(6, eps=1e-3), FrozenBatchNorm2d(6, eps=1e-3)
    randomise(theirs)
    mine.load_state_dict({**theirs.state_dict(), "num_batches_tracked": torch.tensor(3)}, strict=True)
    x = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.testing.assert_close(mine(x), theirs(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(mine(x).sum(), x), torch.autograd.grad(theirs(x).sum(), x))
    assert not list(mine.parameters())
    assert mine.train()(x).equal(mine.eval()(x))
    assert repr(mine) == "FrozenBatchNorm2d(6, eps=0.001)"
    batch_norm = randomise(nn.BatchNorm2d(6, eps=1e-3)).eval()
    mine.load_state_dict(batch_norm.state_dict())
    torch.testing.assert_close(mine(x), batch_norm(x), rtol=0, atol=1e-5)


EXTRA = {"none": (lambda m: None), "pool": (lambda m: m.LastLevelMaxPool()), "p6p7 of P5": (lambda m: m.LastLevelP6P7(10, 10)),
         "p6p7 of C5": (lambda m: m.LastLevelP6P7(7, 10))}


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d])
@pytest.mark.parametrize("extra", EXTRA)
def test_pyramid(extra, norm):
    theirs = reference.FeaturePyramidNetwork([3, 5, 7], 10, EXTRA[extra](reference), norm).double()
    mine = ours.FeaturePyramidNetwork([3, 5, 7], 10, EXTRA[extra](ours), norm).double()
    mine.load_state_dict(randomise(theirs).state_dict(), strict=True)
    generator = torch.Generator().manual_seed(0)
    maps = OrderedDict((name, torch.randn(2, c, *size, generator=generator, dtype=torch.float64, requires_grad=True))
                       for name, c, size in (("a", 3, (21, 34)), ("b", 5, (11, 17)), ("c", 7, (6, 9))))
    found, expected = mine(maps), theirs(maps)
    assert list(found) == list(expected)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-12)
    sums = [sum((value**2).sum() for value in result.values()) for result in (found, expected)]
    gradients = [torch.autograd.grad(total, [*maps.values(), *module.parameters()]) for total, module in zip(sums, (mine, theirs), strict=True)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)


def test_pyramids_begin_alike():
    torch.manual_seed(3)
    theirs = reference.FeaturePyramidNetwork([32, 64], 48, reference.LastLevelP6P7(48, 48))
    torch.manual_seed(3)
    mine = ours.FeaturePyramidNetwork([32, 64], 48, ours.LastLevelP6P7(48, 48))
    for name, tensor in theirs.state_dict().items():
        assert mine.state_dict()[name].shape == tensor.shape
        if name.endswith("weight"):
            assert mine.state_dict()[name].std() == pytest.approx(float(tensor.std()), rel=0.05)
        else:
            assert not mine.state_dict()[name].any()


def test_a_wrong_number_of_maps_is_named():
    with pytest.raises(ValueError, match=r"1 maps \(x\) for a pyramid of 2"):
        ours.FeaturePyramidNetwork([3, 5], 8)({"x": torch.rand(1, 3, 4, 4)})


@pytest.mark.parametrize(("extra", "first", "strides"), [
    (None, 2, [4, 8, 16, 32]), (ours.LastLevelMaxPool(), 2, [4, 8, 16, 32, 64]),
    (ours.LastLevelP6P7(12, 12), 3, [8, 16, 32, 64, 128])])
def test_resnet_with_pyramid(extra, first, strides):
    model = ours.ResNetFPN(ResNet(BasicBlock, (1, 1, 1, 1), (4, 6, 8, 10)), 12, first, extra)
    maps = model(torch.rand(1, 3, 128, 256))
    assert model.strides == strides
    assert [(128 // m.shape[2], 256 // m.shape[3], m.shape[1]) for m in maps] == [(s, s, 12) for s in strides]
