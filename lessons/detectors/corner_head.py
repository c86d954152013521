"""What CornerNet and CenterNet predict their keypoints with: pooling that brings an object to its corners or centre.

Each kind of keypoint has a branch: a residual block whose first layer is a pooling module (Law & Deng, ECCV 2018,
figure 7), then small networks for heat, offsets and tags. The pooling modules differ in what they bring to a cell:

    CornerPooling          the maximum along each of the two edges that begin at a corner       (CornerNet, section 3.4)
    CascadeCornerPooling   before that, to each place of an edge, the maximum inside the object (CenterNet, section 3.3)
    CentrePooling          the maximum of the whole row and of the whole column                 (CenterNet, section 3.3)
    NoPooling              nothing, for comparison
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from lessons.backbones.hourglass import conv_bn, conv_bn_relu
from lessons.corners import KeypointMaps, corner_pool
from lessons.detectors.retinanet import begun

PRIOR = 0.1  # probability of a keypoint at the start, in all cells
EDGES = {"top_left": ("top", "left"), "bottom_right": ("bottom", "right")}  # pooled down or up, and across


class NoPooling(nn.Module):
    """Two convolutions of x, added: (B, C, H, W) -> (B, hidden, H, W). What the other modules pool, without pooling."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.first, self.second = (conv_bn_relu(channels, hidden) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


class CornerPooling(NoPooling):
    """Two convolutions of x, one pooled along the vertical edge of a corner, one along the horizontal one, added."""

    def __init__(self, channels: int, hidden: int, corner: str) -> None:
        super().__init__(channels, hidden)
        self.corner = corner

    def forward(self, x: Tensor) -> Tensor:
        vertical, horizontal = EDGES[self.corner]
        return corner_pool(self.first(x), vertical) + corner_pool(self.second(x), horizontal)


class CascadeCornerPooling(CornerPooling):
    """Corner pooling whose inputs were pooled into the object before, at right angles to the edge (CenterNet, fig. 5c).

    As the authors' network has it; `lessons.corners.cascade_corner_pool` is the paper's description.
    """

    def __init__(self, channels: int, hidden: int, corner: str) -> None:
        super().__init__(channels, hidden, corner)
        self.first_inside, self.second_inside = (conv_bn_relu(channels, hidden) for _ in range(2))
        self.first_look, self.second_look = (nn.Conv2d(hidden, hidden, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        vertical, horizontal = EDGES[self.corner]
        across = self.first(x) + corner_pool(self.first_inside(x), horizontal)
        down = self.second(x) + corner_pool(self.second_inside(x), vertical)
        return corner_pool(self.first_look(across), vertical) + corner_pool(self.second_look(down), horizontal)


class CentrePooling(NoPooling):
    """Two convolutions of x, the columns' maximum of one and the rows' of the other, added."""

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x).amax(dim=2, keepdim=True) + self.second(x).amax(dim=3, keepdim=True)


class KeypointBranch(nn.Module):
    """What the network says of one kind of keypoint: features (B, C, H, W) -> KeypointMaps, with logits for heat.

    num_classes counts the background, which has no map. hidden: channels of each of the small networks for heat,
    offsets and, if the keypoints are `tagged`, tags.
    """

    def __init__(self, pooling: NoPooling, channels: int, num_classes: int, hidden: int, tagged: bool) -> None:
        super().__init__()
        self.pooling = pooling
        self.merge, self.shortcut = conv_bn(pooling.hidden, channels, 3), conv_bn(channels, channels, 1)
        self.last = conv_bn_relu(channels, channels)
        self.heat = predictor(channels, hidden, num_classes - 1, PRIOR)
        self.offsets = predictor(channels, hidden, 2)
        self.tags = predictor(channels, hidden, 1) if tagged else None

    def forward(self, features: Tensor) -> KeypointMaps:
        x = self.last(F.relu(self.merge(self.pooling(features)) + self.shortcut(features)))
        return KeypointMaps(self.heat(x), self.offsets(x), None if self.tags is None else self.tags(x))


class KeypointHead(nn.ModuleDict):
    """A branch for each kind of keypoint, by name: top_left, bottom_right and, in CenterNet, centre."""

    def __init__(self, poolings: Mapping[str, NoPooling], channels: int, num_classes: int, hidden: int) -> None:
        super().__init__({kind: KeypointBranch(pooling, channels, num_classes, hidden, tagged=kind != "centre")
                          for kind, pooling in poolings.items()})

    def forward(self, features: Tensor) -> dict[str, KeypointMaps]:
        return {kind: branch(features) for kind, branch in self.items()}


def cornernet_head(channels: int, num_classes: int, hidden: int = 256) -> KeypointHead:
    """CornerNet's: two corners, corner pooling of 128 channels each in the paper, half of `hidden`."""
    return KeypointHead({corner: CornerPooling(channels, hidden // 2, corner) for corner in EDGES}, channels,
                        num_classes, hidden)


def centernet_head(channels: int, num_classes: int, hidden: int = 256) -> KeypointHead:
    """CenterNet's: two corners with cascade corner pooling, and the centre with centre pooling."""
    poolings: dict[str, NoPooling] = {corner: CascadeCornerPooling(channels, hidden // 2, corner) for corner in EDGES}
    return KeypointHead({**poolings, "centre": CentrePooling(channels, hidden // 2)}, channels, num_classes, hidden)


def predictor(channels: int, hidden: int, wanted: int, prior: float | None = None) -> nn.Sequential:
    """3 x 3 convolution, ReLU, 1 x 1 convolution; `prior`: the probability that its logits start from."""
    last = nn.Conv2d(hidden, wanted, 1)
    return nn.Sequential(nn.Conv2d(channels, hidden, 3, padding=1), nn.ReLU(inplace=True),
                         last if prior is None else begun(last, prior))
