"""Hourglass (Newell et al., ECCV 2016): down to a map of a few cells and back up, with a detour at every size.

The way down sees the whole picture, the detours keep where things are; both are added on the way up, at the size that
the module was given. CornerNet and CenterNet stack two modules (Law & Deng, ECCV 2018, section 3.5) and let each
predict, so that the second one corrects the first.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lessons.backbones.resnet import BasicBlock


class HourglassModule(nn.Module):
    """One hourglass: (B, widths[0], H, W) -> the same shape; each level but the innermost halves H and W, rounding up.

    widths: channels of each level, from the outermost to the innermost; depths: its residual blocks on each of the
    ways, as many numbers. Departs from Newell et al. as CornerNet does: blocks with a stride instead of max pooling.
    Raises ValueError for fewer than two widths, and for another number of depths or one below 1.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        if not len(widths) == len(depths) >= 2 or min(depths) < 1:
            raise ValueError(f"widths {tuple(widths)}, depths {tuple(depths)}: want as many of each, two at least, and "
                             "depths >= 1.")
        (outer, inner), depth = widths[:2], depths[0]
        self.skip = residuals([outer] * (depth + 1))
        self.down = residuals([outer] + [inner] * depth, stride=2)
        self.middle = HourglassModule(widths[1:], depths[1:]) if len(widths) > 2 else residuals(
            [inner] * (depths[1] + 1))
        self.up = residuals([inner] * depth + [outer])

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(self.middle(self.down(x)))
        return self.skip(x) + F.interpolate(inner, size=x.shape[-2:], mode="nearest")


class Hourglass(nn.Module):
    """A stem to stride 4 and hourglasses one after the other: pictures (B, 3, H, W) -> a list of maps, the last first.

    widths, depths: of each module, as in `HourglassModule`; CornerNet's by default. All maps have stride 4 and
    `out_channels` channels. Between two modules the first's input and output are merged (Law & Deng, section 3.5).
    """

    def __init__(self, widths: Sequence[int] = (256, 256, 384, 384, 384, 512),
                 depths: Sequence[int] = (2, 2, 2, 2, 2, 4), stacks: int = 2) -> None:
        super().__init__()
        width = widths[0]
        self.stem = nn.Sequential(conv_bn_relu(3, width // 2, 7, stride=2),
                                  BasicBlock(width // 2, width, 2, nn.BatchNorm2d))
        self.modules_ = nn.ModuleList(HourglassModule(widths, depths) for _ in range(stacks))
        self.outputs = nn.ModuleList(conv_bn_relu(width, width) for _ in range(stacks))
        self.merges = nn.ModuleList(Merge(width) for _ in range(stacks - 1))
        self.out_channels, self.strides = width, [4] * stacks

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        maps: list[Tensor] = []
        for i, module in enumerate(self.modules_):
            maps.insert(0, self.outputs[i](module(x)))
            if i < len(self.merges):
                x = self.merges[i](x, maps[0])
        return maps


class Merge(nn.Module):
    """What the next hourglass sees: a 1 x 1 convolution of what this one saw, and one of what it found."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seen, self.found = conv_bn(width, width, 1), conv_bn(width, width, 1)
        self.block = BasicBlock(width, width, 1, nn.BatchNorm2d)

    def forward(self, seen: Tensor, found: Tensor) -> Tensor:
        return self.block(F.relu(self.seen(seen) + self.found(found)))


def residuals(widths: Sequence[int], stride: int = 1) -> nn.Sequential:
    """Residual blocks from each width to the next; the first has the stride."""
    return nn.Sequential(*(BasicBlock(before, after, 1 if i else stride, nn.BatchNorm2d)
                           for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False))))


def conv_bn(channels: int, wanted: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution and batch normalisation; stride 1 keeps the size."""
    return nn.Sequential(nn.Conv2d(channels, wanted, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(wanted))


def conv_bn_relu(channels: int, wanted: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution, batch normalisation and ReLU; stride 1 keeps the size."""
    return nn.Sequential(*conv_bn(channels, wanted, kernel, stride), nn.ReLU(inplace=True))
