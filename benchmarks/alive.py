"""torchvision's detectors with weights under which every part has work, ours with the same, and pictures for both.

Untrained models agree on nothing worth comparing: behind fifty layers all is nearly 0, no score is above any threshold,
and NMS, regions and masks have nothing to do. Published weights are not at hand offline. So normalisation is fitted to
pictures, channels are made unlike, and the last layers are made to spread.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection

from lessons import zoo
from lessons.boxes import masks_to_boxes
from lessons.data.sample import DetectionDataset, Sample, Target
from lessons.data.scenes import compose_scene
from lessons.published import renamed

# photographs' sizes: none square, none a multiple of 32, upright and lying, of two scales
SIZES = [(150, 203), (211, 140), (97, 260), (173, 181), (240, 111), (130, 190)]
TWO_STAGE = {"rpn.head.cls_logits": 6, "rpn.head.bbox_pred": 4, "roi_heads.box_predictor.cls_score": 6,
             "roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_predictor.mask_fcn_logits": 4}
TOWERS = {"head.classification_head.conv": 4, "head.regression_head.conv": 4}
# beginnings of names, and what such weights are multiplied by so that scores and boxes spread
LAST_LAYERS: dict[str, dict[str, float]] = {
    "fasterrcnn_resnet50_fpn": TWO_STAGE,
    "maskrcnn_resnet50_fpn": TWO_STAGE,
    "keypointrcnn_resnet50_fpn": TWO_STAGE,
    "retinanet_resnet50_fpn": TOWERS | {"head.classification_head.cls_logits": 0.1,
                                        "head.regression_head.bbox_reg": 0.1},
    "fcos_resnet50_fpn": TOWERS | {"head.classification_head.cls_logits": 2, "head.regression_head.bbox_reg": 1,
                                   "head.regression_head.bbox_ctrness": 2},
}
NAMES = tuple(LAST_LAYERS)
DETR = "detr_resnet50"  # whose reference is transformers', see `benchmarks.transformers_detr`


def reference(name: str, seed: int = 0, **options) -> nn.Module:
    """torchvision's untrained model, alive: normalisation fits pictures, no channel is like another, heads spread.

    options: as torchvision's builder takes them, num_classes for instance.
    """
    torch.manual_seed(seed)
    model = getattr(detection, name)(weights=None, weights_backbone=None, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if (".bn" in key or "downsample.1" in key) and key.endswith(("weight", "bias")):
                tensor += 0.4 * torch.rand(tensor.shape, generator=generator) - 0.2
            for prefix, factor in LAST_LAYERS[name].items():
                if key.startswith(prefix) and key.endswith("weight"):
                    tensor *= factor
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        model.backbone.train()(torch.stack(photographs([(128, 160)] * 3, torch.float32, seed=9)) * 4 - 2)
    return model


def photographs(sizes: Sequence[tuple[int, int]] | None = None, dtype: torch.dtype = torch.float64, seed: int = 0
                ) -> list[Tensor]:
    """Blobs of colour and noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for height, width in SIZES if sizes is None else sizes:
        coarse = torch.rand(1, 3, 7, 9, generator=generator)
        smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")[0]
        pictures.append((smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1).to(dtype))
    return pictures


def targets_for(images: Sequence[Tensor], seed: int = 0, num_classes: int = 91, counts: Sequence[int] | None = None
                ) -> list[Target]:
    """Objects for every picture; by default none in the second."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for i, image in enumerate(images):
        count = (0 if i == 1 else 3 + i % 3) if counts is None else counts[i]
        height, width = image.shape[-2:]
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.5, height * 0.5])
        side = 12 + torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.5 - 14, height * 0.5 - 14])
        boxes = torch.cat([corner, corner + side], dim=1)
        masks = torch.zeros(count, height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = torch.rand(y2 - y1, x2 - x1, generator=generator) > 0.3
        targets.append({"boxes": boxes.to(image.dtype), "masks": masks,
                        "labels": torch.randint(1, num_classes, (count,), generator=generator),
                        "keypoints": points_in(boxes, generator)})
    return targets


def points_in(boxes: Tensor, generator: torch.Generator) -> Tensor:
    """17 keypoints (N, 17, 3) inside each box (N, 4), with a visibility of 0, 1 or 2."""
    places = torch.rand(len(boxes), 17, 2, generator=generator)
    points = boxes[:, None, :2] + places * (boxes[:, 2:] - boxes[:, :2])[:, None]
    return torch.cat([points, torch.randint(0, 3, (len(boxes), 17, 1), generator=generator)], dim=2).float()


def embedded_pictures(count: int, size: int) -> list[Sample]:
    """Embedded scenes of `size` pixels, cut to pictures that are not square, with masks and keypoints."""
    shapes = ((size * 3 // 4, size), (size, size * 2 // 3), (size * 9 // 10, size))
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(count):
        image, target = compose_scene("val", index, size=size)
        height, width = shapes[index % len(shapes)]
        samples.append(with_points((image[:, :height, :width], cut(target, height, width)), generator))
    return samples


def coco_pictures(data: DetectionDataset, count: int) -> list[Sample]:
    """The first pictures of a set in COCO's layout, crowds left out, with keypoints for every object."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(min(count, len(data))):
        image, target = data[index]
        alone = target["iscrowd"] == 0
        kept = {key: target[key][alone] for key in ("boxes", "labels", "masks")}
        samples.append(with_points((image, kept), generator))
    return samples


def cut(target: Target, height: int, width: int) -> Target:
    """The target of the picture's top left part: objects that show more than 100 pixels in it, boxes around those."""
    masks = target["masks"][:, :height, :width]
    kept = masks.flatten(1).sum(1) > 100
    boxes = masks_to_boxes(masks[kept]) + torch.tensor([0, 0, 1, 1])
    return {"boxes": boxes, "labels": target["labels"][kept], "masks": masks[kept]}


def with_points(sample: Sample, generator: torch.Generator) -> Sample:
    """The sample with keypoints in its boxes, since the models want 17, and no set has those for things."""
    image, target = sample
    return image, {**target, "keypoints": points_in(target["boxes"], generator)}


def model_pair(name: str, short_side: int, seed: int = 0, **options) -> tuple[nn.Module, nn.Module]:
    """Ours and the reference with the same weights, in evaluation mode, for pictures of that short side."""
    if name == DETR:
        from benchmarks.transformers_detr import detr_pair

        return detr_pair(short_side, seed, **options)
    theirs = reference(name, seed, **options).eval()
    mine = zoo.load(name, theirs.state_dict())
    theirs.transform.min_size, mine.prepare.min_sizes = (short_side,), (short_side,)
    return mine, theirs


def limit_regions(mine: nn.Module, theirs: nn.Module, count: int) -> None:
    """Both two-stage models find `count` objects in a picture, whatever their score, and learn from as many."""
    theirs.roi_heads.score_thresh = mine.box_head.score_threshold = 0.0
    theirs.roi_heads.detections_per_img = mine.box_head.max_detections = count
    theirs.roi_heads.fg_bg_sampler.batch_size_per_image = mine.box_head.batch_size = 4 * count  # a quarter objects


def layers_of(theirs: nn.Module) -> dict[str, str]:
    """For each of our layers with weights the name of torchvision's."""
    names = [key.removesuffix(".weight") for key in theirs.state_dict() if key.endswith(".weight")]
    ours = renamed({f"{name}.weight": name for name in names})  # type: ignore[misc]
    return {key.removesuffix(".weight"): name for key, name in ours.items()}  # type: ignore[misc]


@contextmanager
def recorded(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, list[Tensor]]]:
    """What the named layers return, copied, call by call: a dict that fills while the model runs inside the block."""
    seen: dict[str, list[Tensor]] = {}
    hooks = [model.get_submodule(name).register_forward_hook(
        lambda module, given, result, name=name: seen.setdefault(name, []).append(result.detach().clone()))
        for name in names]  # copied, because the ReLU that follows may write in place
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def one_step(model: nn.Module, images: Sequence[Tensor], targets: Sequence[Target]
             ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses and gradients of a training step from a fixed seed; afterwards the model is what it was."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(7)
    losses = model.train()(images, [dict(target) for target in targets])
    model.zero_grad()
    sum(losses.values()).backward()
    model.load_state_dict(state)
    model.eval()
    return losses, {key: parameter.grad for key, parameter in model.named_parameters()}
