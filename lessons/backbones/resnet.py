"""ResNet (He et al., CVPR 2016): a stack of blocks, each of which adds something to what it was given.

As a detector's backbone it has no classifier; it returns what its four stages see, at strides 4, 8, 16 and 32 (C2 to C5
in the papers on detection). `resnet50` has the layers of torchvision's resnet50 under the same names.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and weights: per channel, x -> x * scale + shift.

    torchvision.ops' module: x (B, C, H, W) -> the same shape; all four tensors (C,) are buffers. Detectors fine-tuned
    from a classifier freeze its normalisation, because their batches of one or two pictures have poor statistics.
    State dicts with and without "num_batches_tracked" load.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((num_features,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return (x * scale[:, None, None]).add_(shift[:, None, None])  # in place: one large tensor less to fill

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __repr__(self) -> str:
        return f"FrozenBatchNorm2d({len(self.weight)}, eps={self.eps})"


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and the input added (He et al., figure 5 left)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """1 x 1 to fewer channels, 3 x 3, 1 x 1 to four times as many, and the input added (He et al., figure 5 right).

    Departs from the paper, as torchvision does: the stride is in the 3 x 3 convolution, not in the first.
    """

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), norm(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels, 4 * width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    """Pictures (B, 3, H, W) -> [C2, C3, ...], the features of its stages, by default at strides 4, 8, 16 and 32.

    block: BasicBlock or Bottleneck; depths: blocks in each stage; widths: the blocks' inner channels; norm: makes a
    normalisation for a number of channels; steps: how much coarser each stage is than the one before. `channels` and
    `strides` list those of the outputs. Convolutions begin as in He et al., ICCV 2015 (fan out), so that signals keep
    their size. Raises ValueError where there are not as many widths and steps as depths.
    """

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: Sequence[int],
                 widths: Sequence[int] = (64, 128, 256, 512), norm: Norm = nn.BatchNorm2d,
                 steps: Sequence[int] = (1, 2, 2, 2)) -> None:
        super().__init__()
        if not len(depths) == len(widths) == len(steps):
            raise ValueError(f"{len(depths)} depths, {len(widths)} widths, {len(steps)} steps: want as many of each.")
        stem = widths[0]
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False), norm(stem)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
        self.channels = [width * block.expansion for width in widths]
        self.strides = [4 * math.prod(steps[: i + 1]) for i in range(len(steps))]
        before = [stem, *self.channels]
        for i, (depth, width, step) in enumerate(zip(depths, widths, steps, strict=True)):
            blocks = [block(self.channels[i] if j else before[i], width, 1 if j else step, norm) for j in range(depth)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for i in range(len(self.channels)):
            x = self.get_submodule(f"layer{i + 1}")(x)
            features.append(x)
        return features


class LastStage(nn.Module):
    """A body of which a detector sees the last stage alone: pictures (B, 3, H, W) -> [one map], as before pyramids."""

    def __init__(self, body: ResNet) -> None:
        super().__init__()
        self.body, self.out_channels, self.strides = body, body.channels[-1], body.strides[-1:]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.body(images)[-1:]


def shortcut(channels: int, wanted: int, stride: int, norm: Norm) -> nn.Sequential | None:
    """What makes a block's input as large as its output: a 1 x 1 convolution, or nothing where it is already."""
    if stride == 1 and channels == wanted:
        return None
    return nn.Sequential(nn.Conv2d(channels, wanted, 1, stride, bias=False), norm(wanted))


def resnet50(norm: Norm = nn.BatchNorm2d) -> ResNet:
    """The ResNet with 50 layers (He et al., table 1), untrained."""
    return ResNet(Bottleneck, (3, 4, 6, 3), norm=norm)


def small_resnet(steps: Sequence[int] = (1, 2, 2, 2), norm: Norm = nn.BatchNorm2d) -> ResNet:
    """The lessons' body: as many stages as there are steps, each of one basic block; 1.2 million weights with four."""
    widths = (48, 96, 144, 192)[: len(steps)]
    return ResNet(BasicBlock, (1,) * len(steps), widths, norm, steps)
