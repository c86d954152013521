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
from lessons.images import ImageBatch, ImagePreparation, resize_boxes
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
                 levels: Sequence[int] = (6, 3, 2, 1), hidden: int = 256, max_proposals: int = 200,
                 propose: Callable[[Tensor], Tensor] = selective_search) -> None:
        channels: int = backbone.out_channels  # type: ignore[assignment]
        pooled = channels * sum(n * n for n in levels)
        super().__init__(num_classes - 1, pooled, hidden, max_proposals, propose)
        self.stride: int = backbone.strides[0]  # type: ignore[index, assignment]
        self.backbone, self.prepare, self.levels = backbone.requires_grad_(False), tuple(prepare), tuple(levels)
        self.fc6 = nn.Linear(pooled, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, num_classes)
        self.drop = nn.Dropout(0.5)

    @property
    def last_layer(self) -> nn.Linear:
        return self.fc8

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
        batches = [prepare(images)[0] for prepare in self.prepare]
        windows = torch.stack([in_batch(boxes, batch) for batch in batches])  # (S, N, 5)
        scale = nearest_scale(windows[..., 1:], self.window)
        pooled = windows.new_empty(windows.shape[1], self.fc6.in_features)
        for number, batch in enumerate(batches):
            here = scale == number
            features = self.backbone(batch.pixels)[0]
            pooled[here] = roi_spatial_pyramid_pool(features, windows[number, here], self.levels, 1 / self.stride)
        return pooled


def in_batch(boxes: Sequence[Tensor], batch: ImageBatch) -> Tensor:
    """Boxes (N_i, 4) of each picture, in the batch's pixels, with the picture's number in front: (N, 5)."""
    pairs = zip(boxes, batch.originals, batch.sizes, strict=True)
    return torch.cat([F.pad(resize_boxes(own, *sizes), (1, 0), value=i) for i, (own, *sizes) in enumerate(pairs)])


def nearest_scale(boxes: Tensor, side: float) -> Tensor:
    """The scale (N,) at which each box's area is nearest to side x side pixels; boxes (S, N, 4) xyxy (section 4.1)."""
    return (box_area(boxes.flatten(0, 1)).view(boxes.shape[:2]) - side**2).abs().argmin(dim=0)
