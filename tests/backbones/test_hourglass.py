"""The hourglass: sizes at every level, what reaches what, CornerNet's number of weights, and wrong arguments."""

import pytest
import torch
from torch import nn

from lessons.backbones.hourglass import Hourglass, HourglassModule


def small(stacks=1, widths=(6, 8, 10), depths=(1, 2, 1)):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Hourglass(widths, depths, stacks).eval()


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (33, 8), (4, 4), (1, 1)])
@pytest.mark.parametrize("stacks", [1, 2, 3])
def test_every_stack_gives_a_map_of_stride_4(stacks, size):
    model = small(stacks)
    maps = model(torch.rand(2, 3, *size))
    assert [tuple(m.shape) for m in maps] == [(2, 6, -(-size[0] // 4), -(-size[1] // 4))] * stacks
    assert model.strides == [4] * stacks
    assert model.out_channels == 6


def test_the_module_keeps_sizes_odd_or_even_and_halves_them_inside():
    module, seen = HourglassModule((4, 6, 8, 10), (1, 1, 1, 2)).eval(), []
    for part in module.modules():
        if isinstance(part, HourglassModule):
            part.down.register_forward_hook(lambda _, inputs, output: seen.append((*inputs[0].shape[1:], *output.shape[1:])))
    x = torch.rand(1, 4, 13, 22)
    assert module(x).shape == x.shape
    assert seen == [(4, 13, 22, 6, 7, 11), (6, 7, 11, 8, 4, 6), (8, 4, 6, 10, 2, 3)]


def test_what_is_seen_far_away_comes_from_below_alone():
    """The detour of the finest level sees its neighbourhood; the way down and up sees the whole map."""
    module = HourglassModule((2, 2, 2, 2, 2), (1, 1, 1, 1, 1)).double().eval()
    for part in module.modules():
        if isinstance(part, nn.Conv2d):  # positive weights, so that no ReLU hides a path
            nn.init.uniform_(part.weight, 0.1, 1.0)

    def reach():
        x = torch.rand(1, 2, 48, 48, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(module(x)[0, :, 24, 24].sum(), x)
        rows = gradient[0].abs().sum(dim=(0, 2)).nonzero()[:, 0]
        return rows.min().item(), rows.max().item()

    assert reach() == (0, 47)
    module.up.register_forward_hook(lambda _, inputs, output: output * 0)
    assert reach() == (22, 26)  # two 3 x 3 convolutions


def test_a_later_stack_sees_what_an_earlier_one_found():
    model = small(stacks=2)
    for part in model.merges[0].seen.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.zeros_(part.weight)
    x = torch.rand(1, 3, 64, 64)
    before = model(x)
    with torch.no_grad():
        model.outputs[0][1].bias += 1
    after = model(x)
    assert not torch.equal(before[1], after[1])  # the maps of the first stack come last
    assert not torch.equal(before[0], after[0])


def test_gradients_reach_every_weight():
    model = small(stacks=2).train()
    sum(m.square().sum() for m in model(torch.rand(2, 3, 64, 64))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_cornernets_own_has_the_published_number_of_weights():
    """Counted by hand from Law & Deng's section 3.5: convolutions k x k x in x out, and two numbers per channel."""
    def conv(before, after, kernel=3):
        return kernel**2 * before * after + 2 * after

    def block(before, after, stride=1):
        return conv(before, after) + conv(after, after) + (conv(before, after, 1) if stride > 1 or before != after else 0)

    def module(widths, depths):
        (outer, inner), depth = widths[:2], depths[0]
        skip = depth * block(outer, outer)
        down = block(outer, inner, 2) + (depth - 1) * block(inner, inner)
        middle = module(widths[1:], depths[1:]) if len(widths) > 2 else depths[1] * block(inner, inner)
        return skip + down + middle + (depth - 1) * block(inner, inner) + block(inner, outer)

    widths, depths = (256, 256, 384, 384, 384, 512), (2, 2, 2, 2, 2, 4)
    wanted = conv(3, 128, 7) + block(128, 256, 2) + 2 * (module(widths, depths) + conv(256, 256))
    wanted += 2 * conv(256, 256, 1) + block(256, 256)
    with torch.device("meta"):
        model = Hourglass()
    assert sum(p.numel() for p in model.parameters()) == wanted


@pytest.mark.parametrize(("widths", "depths"), [((4,), (1,)), ((4, 6), (1,)), ((4, 6), (1, 0)), ((), ())])
def test_wrong_widths_and_depths_are_shown(widths, depths):
    with pytest.raises(ValueError, match="want as many of each"):
        HourglassModule(widths, depths)
