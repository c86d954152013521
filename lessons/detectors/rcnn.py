"""R-CNN: regions with CNN features (Girshick et al., CVPR 2014).

    image -> propose -> warp -> CNN features -> one SVM per class -> non-maximum suppression -> box regression

Here is what makes it R-CNN: every proposal is warped to a square and goes through the CNN on its own. The rest, from
the features on, is in `lessons.detectors.svm_detector`, since SPPnet does the same. N counts proposals.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.backbones.alexnet import Features, SmallAlexNet
from lessons.data.sample import Target
from lessons.detectors.svm_detector import SVMDetector
from lessons.proposals import selective_search


class RCNN(SVMDetector):
    """The detector. In training mode a classifier of crops is fine-tuned; in evaluation mode SVMs detect.

    backbone: classifies crops into K + 1 classes, background first. context_padding: pixels of the image around a
    proposal that a crop shows on each side, counted in the crop (16 of 227 in the paper). Of the proposals of an image
    the first `max_proposals` are looked at; `propose` makes them.
    """

    mean: Tensor

    def __init__(self, backbone: SmallAlexNet, context_padding: int = 4, max_proposals: int = 200,
                 propose: Callable[[Tensor], Tensor] = selective_search) -> None:
        super().__init__(backbone.fc8.out_features - 1, backbone.fc6.in_features, backbone.fc7.out_features,
                         max_proposals, propose)
        self.backbone, self.context_padding = backbone, context_padding
        self.register_buffer("mean", torch.full((3,), 0.5))  # colour of the training images

    @property
    def last_layer(self) -> nn.Linear:
        return self.backbone.fc8

    def fine_tuning_loss(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """The cross-entropy of one batch of crops."""
        crops, labels = self.fine_tuning_batch(images, targets)
        return F.cross_entropy(self.backbone(crops), labels)

    def fine_tuning_batch(self, images: Sequence[Tensor], targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        """Crops of `fine_tuning_samples`, half of them mirrored, (128, 3, S, S), and their labels (128,)."""
        boxes, labels = self.fine_tuning_samples(images, targets)
        crops = torch.cat([self.warp(image, own) for image, own in zip(images, boxes, strict=True)])
        mirror = torch.rand(len(crops), 1, 1, 1, device=crops.device) < 0.5
        return torch.where(mirror, crops.flip(3), crops), labels

    def warp(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Crops as the backbone wants them, (N, 3, S, S), the mean colour subtracted."""
        crops = warp_crops(image, boxes, self.backbone.crop_size, self.context_padding, self.mean)
        return crops - self.mean[:, None, None]

    def features(self, image: Tensor, boxes: Tensor) -> Features:
        """CNN features of each box: one pass per box, R-CNN's great cost."""
        parts = [self.backbone.features(self.warp(image, part)) for part in boxes.split(256)]
        return Features(*(torch.cat(layer) for layer in zip(*parts, strict=True)))


def enlarge_for_context(boxes: Tensor, size: int, padding: int) -> Tensor:
    """Boxes grown about their centres so that, warped to `size` pixels, the old box ends `padding` pixels inside.

    The padding is measured in the WARPED frame (appendix A): every box grows by size / (size - 2 padding), 1.164 for
    the paper's 227 and 16, whatever its own size. Raises ValueError unless 0 <= 2 padding < size.
    """
    if not 0 <= 2 * padding < size:
        raise ValueError(f"a padding of {padding} leaves nothing of a crop of {size} pixels.")
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * (size / (size - 2 * padding))
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([centre - half, centre + half], 1)


def warp_crops(image: Tensor, boxes: Tensor, size: int, context_padding: int = 0, fill: Tensor | None = None) -> Tensor:
    """Stretches every box, with some context, to a square of size x size pixels (section 2.1 and appendix A).

    image: (C, H, W). boxes: (N, 4) xyxy pixels, which may reach beyond the image. Returns (N, C, size, size), sampled
    bilinearly; what lies outside the image has the colour `fill` (C,), by default the image's mean. Differentiable
    with respect to image and boxes. Raises ValueError for boxes without width or height, or with NaN.
    """
    if not (boxes[:, 2:] > boxes[:, :2]).all():
        bad = boxes[~(boxes[:, 2:] > boxes[:, :2]).all(1)][0].tolist()
        raise ValueError(f"box {bad} (xyxy pixels) has no area to warp.")
    fill = image.mean((1, 2)) if fill is None else fill
    x1, y1, x2, y2 = enlarge_for_context(boxes, size, context_padding).T[..., None]
    steps = (torch.arange(size, device=boxes.device, dtype=boxes.dtype) + 0.5) / size  # pixel centres, 0 .. 1
    x = (x1 + (x2 - x1) * steps) * 2 / image.shape[2] - 1  # (N, size), -1 .. 1 of the image
    y = (y1 + (y2 - y1) * steps) * 2 / image.shape[1] - 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)  # (N, size, size, 2)
    # one tall picture of all crops, so that the image is not copied for each of them
    tall = F.grid_sample((image - fill[:, None, None])[None], grid.reshape(1, -1, size, 2), align_corners=False)
    return tall[0].unflatten(1, (len(boxes), size)).transpose(0, 1) + fill[:, None, None]
