"""What each part of a feature pyramid gives to proposals (FPN, section 5.1, table 1).

Four backbones, the same list of anchors' sizes in all and the same short training of the RPN alone. Three are pyramids
on one body; the one map ends a stage earlier, at stride 16, and so has fewer cells and anchors.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from experiments.proposal_training import Size, average_recalls, train_proposals
from experiments.record import Numbers, wins
from lessons.backbones.fpn import FeaturePyramidNetwork, ResNetFPN
from lessons.backbones.resnet import LastStage, small_resnet
from lessons.detectors.faster_rcnn import FasterRCNN
from lessons.images import ImagePreparation
from lessons.order import seeded
from lessons.recipes import faster_rcnn, fpn
from lessons.recipes.small_resnet import LESSON, start_from_pre_trained

CLAIM = "A pyramid raises the recall of small objects most; it needs its lateral links and its top-down path."
PRE_TRAINED = LESSON
SIZES = (16, 32, 64, 96)  # of the anchors, pixels; on a pyramid one for each level, four of its cells (P5: three)
FULL, SHORT = Size(300, 250, 100), Size(16, 4, 8)


def one_map(seed: int) -> FasterRCNN:
    """Lesson 05's detector with the paper's stride, 16."""
    with seeded(seed):
        backbone = LastStage(small_resnet((1, 2, 2)))
        rpn = faster_rcnn.small_rpn(backbone.out_channels, (SIZES,))
        return FasterRCNN(backbone, rpn, faster_rcnn.small_head(backbone, 7), ImagePreparation((160,), 320))


def pyramid(seed: int, sizes: Sequence[int] = SIZES) -> FasterRCNN:
    """Lesson 06's detector with the anchors of the others."""
    with seeded(seed):
        backbone = ResNetFPN(small_resnet(), fpn.CHANNELS)
        head = faster_rcnn.small_head(backbone, 7)
        rpn = faster_rcnn.small_rpn(fpn.CHANNELS, tuple((size,) for size in sizes))
        return FasterRCNN(backbone, rpn, head, ImagePreparation((160,), 320))


class NoLink(nn.Module):
    """In place of a lateral link: adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), fpn.CHANNELS, *x.shape[2:])


def without_lateral_links(seed: int) -> FasterRCNN:
    """The pyramid whose finer maps are the coarsest one, enlarged and smoothed."""
    model = pyramid(seed)
    links = model.backbone.fpn.inner_blocks  # type: ignore[union-attr]
    for level in range(len(links) - 1):  # type: ignore[arg-type]
        links[level] = NoLink()  # type: ignore[index, operator]
    return model


class NoTopDown(FeaturePyramidNetwork):
    """Every map on its own: brought to the same channels and smoothed, nothing added from above."""

    def forward(self, x: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        maps = (smooth(link(one)) for smooth, link, one in zip(self.layer_blocks, self.inner_blocks, x.values(),
                                                               strict=True))
        return OrderedDict(zip(x, maps, strict=True))


def without_top_down_path(seed: int, sizes: Sequence[int] = SIZES) -> FasterRCNN:
    """The pyramid without the sum."""
    model = pyramid(seed, sizes)
    with seeded(seed):
        model.backbone.fpn = NoTopDown(model.backbone.body.channels, fpn.CHANNELS)  # type: ignore[union-attr, arg-type]
    return model


BUILD: dict[str, Callable[[int], FasterRCNN]] = {
    "one map": one_map, "pyramid": pyramid, "no lateral links": without_lateral_links,
    "no top-down path": without_top_down_path}


def run(seed: int, short: bool = False) -> Numbers:
    """Average recall of each backbone's proposals after the same training; short: a few steps."""
    size, found = SHORT if short else FULL, {}
    for name, build in BUILD.items():
        model = build(seed)
        start_from_pre_trained(model.backbone.body)  # type: ignore[arg-type]
        train_proposals(model, size, seed)
        found[name] = average_recalls(model, size, seed)
    return found


def verdict(per_seed: Sequence[Numbers]) -> dict[str, bool]:
    """Small and medium objects, links, and the path."""
    gains = [{key: n["pyramid"][key] - n["one map"][key] for key in ("AR_small", "AR_medium")} for n in per_seed]
    return {"the pyramid covers more small objects than one map": wins(per_seed, "pyramid", "one map", "AR_small"),
            "it gains more on small than on medium objects": sum(g["AR_small"] - g["AR_medium"] for g in gains) > 0,
            "without lateral links it covers fewer objects": wins(per_seed, "pyramid", "no lateral links", "AR100"),
            "without the top-down path it covers fewer": wins(per_seed, "pyramid", "no top-down path", "AR100")}
