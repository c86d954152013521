"""SPPnet: spatial pyramid pooling (He et al., ECCV 2014; sections and appendices are those of TPAMI 2015).

    image -> convolutions, once -> one map -> each proposal's cells -> pyramid of maxima -> fc6, fc7 -> SVMs -> boxes

R-CNN convolves every proposal on its own. Here the whole image is convolved once and proposals are cut out of the MAP;
max-pooling into a fixed number of bins turns a window of any size into a vector of one length, which is all that fully
connected layers ask for. From fc7 on everything is R-CNN's. N counts proposals, S scales of the image.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.backbones.alexnet import Features
from lessons.boxes import box_area
from lessons.data.sample import Target
from lessons.detectors.svm_detector import SVMDetector
from lessons.images import ImagePreparation, resize_boxes, shape
from lessons.proposals import selective_search
from lessons.roi import roi_spatial_pyramid_pool


class SPPNet(SVMDetector):
    """The detector. In training mode fc6 and fc7 are fine-tuned by a classifier of regions; in evaluation SVMs detect.

    backbone: pictures (B, 3, H, W) -> [one map], with `out_channels` and `strides`; it stays as it is, because no
    gradient was sent through the pyramid (section 4.1). num_classes counts the background; levels: bins a side of the
    pyramid's levels; hidden: width of fc6 and fc7; prepare: one preparation for each scale at which images are looked
    at. Of several scales each proposal is taken from the one at which it is nearest to `window` pixels a side.
    """

    window = 64  # 224 in the paper (section 4.1); here the side of the crops that the backbone was pre-trained on

    def __init__(self, backbone: nn.Module, num_classes: int, prepare: Sequence[ImagePreparation],
                 levels: Sequence[int] = (4, 2, 1), hidden: int = 384, max_proposals: int = 200,
                 propose: Callable[[Tensor], Tensor] = selective_search) -> None:
        channels: int = backbone.out_channels  # type: ignore[assignment]
        pooled = channels * sum(n * n for n in levels)
        super().__init__(num_classes - 1, pooled, hidden, max_proposals, propose)
        self.backbone, self.prepare, self.levels = backbone.requires_grad_(False), tuple(prepare), tuple(levels)
        self.fc6 = nn.Linear(pooled, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)  # of fine-tuning; the SVMs take its place
        self.drop = nn.Dropout(0.5)

    def train(self, mode: bool = True) -> "SPPNet":
        """As in torch; but the backbone's normalisation keeps its statistics, as all of the backbone stays."""
        super().train(mode)
        self.backbone.eval()
        return self

    def fine_tuning_loss(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """The cross-entropy of 128 regions; the gradient ends at the pyramid."""
        boxes, labels = self.fine_tuning_samples(images, targets)
        return F.cross_entropy(self.fc8(self.describe(self.pool(images, boxes)).fc7), labels)

    def features(self, image: Tensor, boxes: Tensor) -> Features:
        """CNN features of each box: one pass per image, whatever the number of boxes. pool5 is the pyramid (N, P)."""
        return self.describe(self.pool([image], [boxes]))

    def describe(self, pooled: Tensor) -> Features:
        """fc6 and fc7 of pyramids (N, P)."""
        fc6 = torch.relu(self.fc6(self.drop(pooled)))
        fc7 = torch.relu(self.fc7(self.drop(fc6)))
        return Features(pooled, fc6, fc7)

    @torch.no_grad()
    def pool(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """The pyramids (N, P) of boxes (N_i, 4) xyxy pixels of each image, one image after the other."""
        nearest = torch.cat([self.nearest_scale(image, own) for image, own in zip(images, boxes, strict=True)])
        pooled = nearest.new_empty(len(nearest), self.fc6.in_features, dtype=self.fc6.weight.dtype)
        for scale, prepare in enumerate(self.prepare):
            batch, _ = prepare(images)
            enlarged = torch.cat([F.pad(resize_boxes(own, before, after), (1, 0), value=number) for number, (own, before, after)
                                  in enumerate(zip(boxes, batch.originals, batch.sizes, strict=True))])
            here = nearest == scale
            pooled[here] = roi_spatial_pyramid_pool(self.backbone(batch.pixels)[0], enlarged[here], self.levels,
                                                    1 / self.backbone.strides[0])
        return pooled

    def nearest_scale(self, image: Tensor, boxes: Tensor) -> Tensor:
        """The number (N,) of the scale at which a box's area is nearest to window x window pixels (section 4.1)."""
        enlarged = torch.stack([box_area(resize_boxes(boxes, shape(image), p.size_for(image))) for p in self.prepare])
        return (enlarged - self.window**2).abs().argmin(dim=0)
