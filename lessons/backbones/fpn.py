"""Feature pyramid network (Lin et al., CVPR 2017): every level of a backbone gets the meaning of the levels above it.

A backbone's fine maps know where things are, its coarse ones what they are. From the coarsest on, each map is brought
to the same number of channels by a 1 x 1 convolution (the lateral link), the level above is enlarged to its size and
added (the top-down path), and a 3 x 3 convolution smooths the sum (section 3, figure 3):

    inner_l = lateral_l(C_l) + enlarge(inner_{l+1})          P_l = smooth_l(inner_l)
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lessons.backbones.resnet import ResNet

Levels = list[Tensor]


class LastLevelMaxPool(nn.Module):
    """One more, coarser level for large anchors: every second cell of the last (FPN, section 4.1, footnote)."""

    def forward(self, results: Levels, inputs: Levels, names: list[str]) -> tuple[Levels, list[str]]:
        return [*results, F.max_pool2d(results[-1], 1, stride=2)], [*names, "pool"]


class LastLevelP6P7(nn.Module):
    """Two more levels by convolutions of stride 2, P6 from C5 or P5, P7 from P6 (RetinaNet, section 4, footnote 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        self.use_P5 = in_channels == out_channels
        _begin(self.p6)
        _begin(self.p7)

    def forward(self, results: Levels, inputs: Levels, names: list[str]) -> tuple[Levels, list[str]]:
        p6 = self.p6(results[-1] if self.use_P5 else inputs[-1])
        return [*results, p6, self.p7(F.relu(p6))], [*names, "p6", "p7"]


class FeaturePyramidNetwork(nn.Module):
    """torchvision.ops' module: maps of falling size, by name, -> maps of the same sizes with `out_channels` each.

    x: a mapping of names to (B, C_l, H_l, W_l), finest first, with C_l as in `in_channels_list`. extra_blocks adds
    levels. norm_layer, for a number of channels, follows each convolution, which then has no bias.
    Raises ValueError for another number of maps.
    """

    def __init__(self, in_channels_list: Sequence[int], out_channels: int, extra_blocks: nn.Module | None = None,
                 norm_layer: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(_convolution(c, out_channels, 1, norm_layer) for c in in_channels_list)
        self.layer_blocks = nn.ModuleList(_convolution(out_channels, out_channels, 3, norm_layer)
                                          for _ in in_channels_list)
        self.extra_blocks = extra_blocks

    def forward(self, x: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        names, inputs = list(x), list(x.values())
        if len(inputs) != len(self.inner_blocks):
            raise ValueError(f"{len(inputs)} maps ({', '.join(names)}) for a pyramid of {len(self.inner_blocks)}.")
        above: Tensor | None = None
        results: Levels = []
        for level in reversed(range(len(inputs))):
            inner = self.inner_blocks[level](inputs[level])
            if above is not None:
                inner = inner + F.interpolate(above, size=inner.shape[-2:], mode="nearest")
            results.insert(0, self.layer_blocks[level](inner))
            above = inner
        if self.extra_blocks is not None:
            results, names = self.extra_blocks(results, inputs, names)
        return OrderedDict(zip(names, results, strict=True))


class ResNetFPN(nn.Module):
    """A ResNet and a pyramid on its last stages: pictures (B, 3, H, W) -> a list of maps, finest first.

    first: the finest stage that the pyramid sees, 2 (stride 4, Faster R-CNN) to 5. `strides` lists the outputs'
    strides, `out_channels` is the channels of each.
    """

    def __init__(self, body: ResNet, out_channels: int = 256, first: int = 2, extra_blocks: nn.Module | None = None
                 ) -> None:
        super().__init__()
        self.body, self.first, self.out_channels = body, first, out_channels
        self.fpn = FeaturePyramidNetwork(body.channels[first - 2:], out_channels, extra_blocks)
        more = 0 if extra_blocks is None else 2 if isinstance(extra_blocks, LastLevelP6P7) else 1
        self.strides = [2**stage for stage in range(first, 6 + more)]

    def forward(self, images: Tensor) -> Levels:
        stages = self.body(images)[self.first - 2:]
        return list(self.fpn({str(i): stage for i, stage in enumerate(stages)}).values())


def _convolution(channels: int, wanted: int, kernel: int, norm: type[nn.Module] | None) -> nn.Sequential:
    """A convolution that keeps the size, and a normalisation if there is one."""
    convolution = nn.Conv2d(channels, wanted, kernel, padding=kernel // 2, bias=norm is None)
    _begin(convolution)
    return nn.Sequential(convolution) if norm is None else nn.Sequential(convolution, norm(wanted))


def _begin(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
