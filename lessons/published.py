"""Detectors at the size of their references, and the weights that others published for them.

Each function builds one of torchvision's models out of this collection's parts; `renamed` turns the names of
torchvision's state dicts, old and new, into ours, one for one, so that the weights load strictly.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from lessons.backbones.fpn import LastLevelMaxPool, ResNetFPN
from lessons.backbones.resnet import FrozenBatchNorm2d, Norm, resnet50
from lessons.checkpoints import CheckpointError, Tensors
from lessons.detectors.fast_rcnn import FastRCNNHead
from lessons.detectors.faster_rcnn import FasterRCNN, RegionProposalNetwork
from lessons.detectors.mask_rcnn import KeypointHead, KeypointRCNN, MaskHead, MaskRCNN
from lessons.images import ImagePreparation

COCO_CLASSES = 91  # with background and the eleven numbers that no class has
ANCHOR_SIZES = ((32,), (64,), (128,), (256,), (512,))
HOST = "https://download.pytorch.org/models/"
FILES = {"fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",  # the number begins their SHA-256
         "maskrcnn_resnet50_fpn": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
         "keypointrcnn_resnet50_fpn": "keypointrcnn_resnet50_fpn_coco-fc266e95.pth"}
NAMES = [  # torchvision's names and ours; each line of both generations that there are
    (r"^(backbone\.fpn\.\w+_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.0\.0\.", "rpn.conv."),
    (r"^rpn\.head\.", "rpn."),
    (r"^roi_heads\.box_(head|predictor)\.", "box_head."),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"mask_head.convs.{2 * int(m[1]) - 2}."),
    (r"^roi_heads\.mask_head\.(\d)\.0\.", lambda m: f"mask_head.convs.{2 * int(m[1])}."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.enlarge."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_head.logits."),
    (r"^roi_heads\.keypoint_head\.", "keypoint_head.convs."),
    (r"^roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint_head.enlarge."),
]


def fasterrcnn_resnet50_fpn(norm: Norm = nn.BatchNorm2d, num_classes: int = COCO_CLASSES) -> FasterRCNN:
    """Faster R-CNN with ResNet-50 and a pyramid, torchvision's model of that name. num_classes counts background."""
    backbone, rpn, head = _parts(norm, num_classes)
    return FasterRCNN(backbone, rpn, head, ImagePreparation((800,), 1333))


def maskrcnn_resnet50_fpn(norm: Norm = nn.BatchNorm2d, num_classes: int = COCO_CLASSES) -> MaskRCNN:
    """Mask R-CNN with ResNet-50 and a pyramid, torchvision's model of that name. num_classes counts background."""
    backbone, rpn, head = _parts(norm, num_classes)
    return MaskRCNN(backbone, rpn, head, MaskHead(backbone.out_channels, num_classes), ImagePreparation((800,), 1333))


def keypointrcnn_resnet50_fpn(norm: Norm = nn.BatchNorm2d, num_classes: int = 2, num_keypoints: int = 17
                              ) -> KeypointRCNN:
    """Keypoint R-CNN with ResNet-50 and a pyramid, torchvision's model of that name: people and their 17 keypoints."""
    backbone, rpn, head = _parts(norm, num_classes)
    return KeypointRCNN(backbone, rpn, head, KeypointHead(backbone.out_channels, num_keypoints),
                        ImagePreparation((640, 672, 704, 736, 768, 800), 1333))


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "fasterrcnn_resnet50_fpn": fasterrcnn_resnet50_fpn,
    "maskrcnn_resnet50_fpn": maskrcnn_resnet50_fpn,
    "keypointrcnn_resnet50_fpn": keypointrcnn_resnet50_fpn,
}


def build_for(name: str, tensors: Mapping[str, Tensor] | None) -> nn.Module:
    """The model that a state dict, with our names, belongs to: as many classes and keypoints, and its normalisation.

    torchvision's published files were made with frozen batch normalisation with epsilon 0 and hold no
    "num_batches_tracked"; state dicts that do are of ordinary batch normalisation.
    """
    if tensors is None:
        return BUILDERS[name]()
    options = {}
    if (scores := tensors.get("box_head.cls_score.weight")) is not None:
        options["num_classes"] = len(scores)
    if (maps := tensors.get("keypoint_head.enlarge.weight")) is not None:
        options["num_keypoints"] = maps.shape[1]
    is_ordinary = any(key.endswith("num_batches_tracked") for key in tensors)
    return BUILDERS[name](nn.BatchNorm2d if is_ordinary else partial(FrozenBatchNorm2d, eps=0.0), **options)


def renamed(tensors: Mapping[str, Tensor]) -> Tensors:
    """A state dict of torchvision's detectors, of either generation, with our names; ours stay as they are."""
    result = {}
    for name, tensor in tensors.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)  # type: ignore[call-overload]
        result[name] = tensor
    return result


def download(name: str) -> Tensors:
    """torchvision's published state dict, kept in torch's folder of downloads and checked by its SHA-256.

    Raises CheckpointError in one sentence where it cannot be had.
    """
    try:
        return torch.hub.load_state_dict_from_url(HOST + FILES[name], map_location="cpu", check_hash=True,
                                                  weights_only=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{HOST}{FILES[name]} could not be fetched ({error}); with a network it is downloaded "
                              f"once to {torch.hub.get_dir()}, or give the path of the file.") from None


def _parts(norm: Norm, num_classes: int) -> tuple[ResNetFPN, RegionProposalNetwork, FastRCNNHead]:
    backbone = ResNetFPN(resnet50(norm), extra_blocks=LastLevelMaxPool())
    rpn = RegionProposalNetwork(backbone.out_channels, ANCHOR_SIZES)
    return backbone, rpn, FastRCNNHead(backbone.out_channels, num_classes, backbone.strides[:4])
