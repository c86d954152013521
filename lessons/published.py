"""Detectors at the size of their references, and the weights that others published for them.

Each function builds one of torchvision's models, or DETR, out of this collection's parts; `renamed` turns the names of
torchvision's state dicts, old and new, of DETR's authors and of Hugging Face's transformers into ours, so that the
weights load strictly.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urljoin

import torch
from torch import Tensor, nn

from lessons.backbones.fpn import LastLevelMaxPool, LastLevelP6P7, ResNetFPN
from lessons.backbones.resnet import FrozenBatchNorm2d, LastStage, Norm, resnet50
from lessons.checkpoints import CheckpointError, Tensors
from lessons.detectors.detr import DETR, Transformer
from lessons.detectors.fast_rcnn import FastRCNNHead
from lessons.detectors.faster_rcnn import FasterRCNN, RegionProposalNetwork
from lessons.detectors.fcos import FCOS, FCOSHead
from lessons.detectors.mask_rcnn import KeypointHead, KeypointRCNN, MaskHead, MaskRCNN
from lessons.detectors.retinanet import RetinaHead, RetinaNet
from lessons.images import ImagePreparation

COCO_CLASSES = 91  # with background and the eleven numbers that no class has
ANCHOR_SIZES = ((32,), (64,), (128,), (256,), (512,))
HOST = "https://download.pytorch.org/models/"
FILES = {"fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",  # the number begins their SHA-256
         "maskrcnn_resnet50_fpn": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
         "keypointrcnn_resnet50_fpn": "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
         "retinanet_resnet50_fpn": "retinanet_resnet50_fpn_coco-eeacb38b.pth",
         "fcos_resnet50_fpn": "fcos_resnet50_fpn_coco-99b0c9b7.pth",
         "detr_resnet50": "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth"}
TOWERS = {"classification": "class_tower", "regression": "box_tower"}
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
    (r"^head\.(classification|regression)_head\.conv\.(\d)\.0\.",
     lambda m: f"head.{TOWERS[m[1]]}.{2 * int(m[2])}."),
    (r"^head\.(classification|regression)_head\.conv\.", lambda m: f"head.{TOWERS[m[1]]}."),
    (r"^head\.(classification|regression)_head\.", "head."),
    # DETR's authors, who call the rest as we do
    (r"^backbone\.0\.body\.", "backbone.body."),
    (r"^bbox_embed\.layers\.(\d)\.", lambda m: f"bbox_embed.{2 * int(m[1])}."),
    # transformers' DETR: its heads and projections
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^bbox_predictor\.layers\.(\d)\.", lambda m: f"bbox_embed.{2 * int(m[1])}."),
    (r"^model\.query_position_embeddings\.", "query_embed."),
    (r"^model\.input_projection\.", "input_proj."),
    # its encoder and decoder; before version 5 "out_proj", and "fc1" without "mlp"
    (r"^model\.(encoder|decoder)\.", r"transformer.\1."),
    (r"^transformer\.decoder\.layernorm\.", "transformer.decoder.norm."),
    (r"^(transformer\.\w+\.layers\.\d+)\.(?:mlp\.)?fc(\d)\.", r"\1.linear\2."),
    (r"^(transformer\.\w+\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"^(transformer\.encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"^(transformer\.decoder\.layers\.\d+)\.encoder_attn_layer_norm\.", r"\1.norm2."),
    (r"^(transformer\.decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm3."),
    (r"^(transformer\.decoder\.layers\.\d+)\.encoder_attn\.", r"\1.multihead_attn."),
    (r"^(transformer\..+_attn)\.o_proj\.", r"\1.out_proj."),
    # its body, timm's with the names of the papers' code or its own ResNet
    (r"^model\.backbone\.(?:conv_encoder\.)?model\.", "backbone.body."),
    (r"^(backbone\.body)\.embedder\.embedder\.convolution\.", r"\1.conv1."),
    (r"^(backbone\.body)\.embedder\.embedder\.normalization\.", r"\1.bn1."),
    (r"^(backbone\.body)\.encoder\.stages\.(\d)\.layers\.(\d)\.", lambda m: f"{m[1]}.layer{int(m[2]) + 1}.{m[3]}."),
    (r"^(backbone\.body\.layer\d\.\d)\.layer\.(\d)\.convolution\.", lambda m: f"{m[1]}.conv{int(m[2]) + 1}."),
    (r"^(backbone\.body\.layer\d\.\d)\.layer\.(\d)\.normalization\.", lambda m: f"{m[1]}.bn{int(m[2]) + 1}."),
    (r"^(backbone\.body\.layer\d\.\d)\.shortcut\.convolution\.", r"\1.downsample.0."),
    (r"^(backbone\.body\.layer\d\.\d)\.shortcut\.normalization\.", r"\1.downsample.1."),
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


def retinanet_resnet50_fpn(norm: Norm = nn.BatchNorm2d, num_classes: int = COCO_CLASSES) -> RetinaNet:
    """RetinaNet with ResNet-50, torchvision's model of that name: three sizes of anchors at each of five levels."""
    backbone = ResNetFPN(resnet50(norm), first=3, extra_blocks=LastLevelP6P7(256, 256))
    sizes = [(x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512)]
    return RetinaNet(backbone, RetinaHead(backbone.out_channels, 9, num_classes), ImagePreparation((800,), 1333), sizes)


def fcos_resnet50_fpn(norm: Norm = nn.BatchNorm2d, num_classes: int = COCO_CLASSES) -> FCOS:
    """FCOS with ResNet-50, torchvision's model of that name."""
    backbone = ResNetFPN(resnet50(norm), first=3, extra_blocks=LastLevelP6P7(256, 256))
    return FCOS(backbone, FCOSHead(backbone.out_channels, num_classes), ImagePreparation((800,), 1333),
                backbone.strides)


def detr_resnet50(norm: Norm = FrozenBatchNorm2d, num_classes: int = COCO_CLASSES, num_queries: int = 100) -> DETR:
    """DETR with ResNet-50, its authors' `detr_resnet50`. num_classes counts the background, which no object has."""
    prepare = ImagePreparation(range(480, 801, 32), 1333, divisor=1)
    return DETR(LastStage(resnet50(norm)), Transformer(), num_classes, prepare, num_queries)


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "fasterrcnn_resnet50_fpn": fasterrcnn_resnet50_fpn,
    "maskrcnn_resnet50_fpn": maskrcnn_resnet50_fpn,
    "keypointrcnn_resnet50_fpn": keypointrcnn_resnet50_fpn,
    "retinanet_resnet50_fpn": retinanet_resnet50_fpn,
    "fcos_resnet50_fpn": fcos_resnet50_fpn,
    "detr_resnet50": detr_resnet50,
}


def build_for(name: str, tensors: Mapping[str, Tensor] | None) -> nn.Module:
    """The model that a state dict, with our names, belongs to: its classes, keypoints, queries and normalisation.

    torchvision's published files were made with frozen batch normalisation and hold no "num_batches_tracked"; state
    dicts that do are of ordinary batch normalisation. Its epsilon was 0, but the usual 1e-5 in FCOS and DETR.
    """
    if tensors is None:
        return BUILDERS[name]()
    options = {}
    if (scores := tensors.get("box_head.cls_score.weight")) is not None:
        options["num_classes"] = len(scores)
    if (scores := tensors.get("head.cls_logits.weight")) is not None:
        options["num_classes"] = len(scores) // (9 if name.startswith("retinanet") else 1)
    if (maps := tensors.get("keypoint_head.enlarge.weight")) is not None:
        options["num_keypoints"] = maps.shape[1]
    if (queries := tensors.get("query_embed.weight")) is not None and "class_embed.weight" in tensors:
        options |= {"num_classes": len(tensors["class_embed.weight"]) - 1, "num_queries": len(queries)}
    is_ordinary = any(key.endswith("num_batches_tracked") for key in tensors)
    frozen = partial(FrozenBatchNorm2d, eps=1e-5 if name.startswith(("fcos", "detr")) else 0.0)
    return BUILDERS[name](nn.BatchNorm2d if is_ordinary else frozen, **options)


def renamed(tensors: Mapping[str, Tensor]) -> Tensors:
    """A state dict of the references', of any generation, with our names; ours stay as they are.

    One for one, but that transformers' three projections of each attention become one tensor, as in torch.nn.
    """
    result = {}
    for name, tensor in tensors.items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)  # type: ignore[call-overload]
        result[name] = tensor
    return joined(result)


def joined(tensors: Mapping[str, Tensor]) -> Tensors:
    """With "q_proj", "k_proj" and "v_proj" of an attention, where there are all three, as one "in_proj"."""
    result = dict(tensors)
    for query in [name for name in tensors if ".q_proj." in name]:
        parts = [query.replace(".q_proj.", f".{which}_proj.") for which in "qkv"]
        if all(part in tensors for part in parts):
            result[query.replace(".q_proj.", ".in_proj_")] = torch.cat([result.pop(part) for part in parts])
    return result


def download(name: str) -> Tensors:
    """The published file's content, kept in torch's folder of downloads and checked by its SHA-256.

    Raises CheckpointError in one sentence where it cannot be had.
    """
    url = urljoin(HOST, FILES[name])
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True,
                                                  weights_only=True)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{url} could not be fetched ({error}); with a network it is downloaded "
                              f"once to {torch.hub.get_dir()}, or give the path of the file.") from None


def _parts(norm: Norm, num_classes: int) -> tuple[ResNetFPN, RegionProposalNetwork, FastRCNNHead]:
    backbone = ResNetFPN(resnet50(norm), extra_blocks=LastLevelMaxPool())
    rpn = RegionProposalNetwork(backbone.out_channels, ANCHOR_SIZES)
    return backbone, rpn, FastRCNNHead(backbone.out_channels, num_classes, backbone.strides[:4])
