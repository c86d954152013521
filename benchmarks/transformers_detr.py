"""Hugging Face transformers' DETR in our calling convention, with weights under which every part has work.

What it computes is transformers', from the batch of pictures to the loss. Only the outputs of the decoder's layers are
taken from the layers themselves: with its option auxiliary_loss this version of transformers feeds each layer the
normalised output of the one before, which neither the authors' code nor transformers without the option do.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d, DetrObjectDetectionOutput

from benchmarks.alive import photographs
from lessons import zoo
from lessons.data.sample import Detections, Target
from lessons.detectors.detr import DETR, SetPrediction, in_parts
from lessons.images import ImageBatch, ImagePreparation

SHARPNESS = 5.0  # what queries and keys of the attention to the picture are multiplied by: each prefers some places


class TransformersDETR(DetrForObjectDetection):
    """transformers' DetrForObjectDetection, called as ours: with pictures and targets, or with pictures alone."""

    def __init__(self, config: DetrConfig) -> None:
        super().__init__(config)
        self.prepare = ImagePreparation((800,), 1333, divisor=1)
        self.processor = DetrImageProcessor()
        self.hidden: list[Tensor] = []  # of each decoder layer, before the last norm
        for layer in self.model.decoder.layers:
            layer.register_forward_hook(lambda module, given, result: self.hidden.append(result))

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
                ) -> dict[str, Tensor] | list[Detections]:
        batch, adapted = self.prepare(images, targets, self.training)
        prediction = self.predict(batch)
        return self.losses(prediction, batch, adapted) if self.training else self.detect(prediction, batch)

    def own_output(self, batch: ImageBatch, **options) -> DetrObjectDetectionOutput:
        """What transformers' forward method returns."""
        return super().forward(batch.pixels, pixel_mask=pixel_mask(batch), **options)

    def predict(self, batch: ImageBatch, need_weights: bool = False) -> SetPrediction:
        self.hidden.clear()
        seen = self.model(batch.pixels, pixel_mask=pixel_mask(batch), output_attentions=need_weights)
        hidden = self.model.decoder.layernorm(torch.stack(self.hidden))
        attention = [list(seen.encoder_attentions), list(seen.cross_attentions)] if need_weights else [[], []]
        return SetPrediction(self.class_labels_classifier(hidden), self.bbox_predictor(hidden).sigmoid(),
                             torch.empty(0), *attention)

    def losses(self, prediction: SetPrediction, batch: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """transformers' losses, weighted as it adds them up."""
        labels = [{"class_labels": target["labels"], "boxes": in_parts(target["boxes"], size)}
                  for target, size in zip(targets, batch.sizes, strict=True)]
        config = copy.copy(self.config)
        config.auxiliary_loss = True
        logits, boxes = prediction.logits, prediction.boxes
        usual = torch.get_default_dtype()
        torch.set_default_dtype(logits.dtype)  # which it takes for the weights of its classes
        try:
            _, losses, _ = ForObjectDetectionLoss(logits[-1], labels, logits.device, boxes[-1], config, logits, boxes)
        finally:
            torch.set_default_dtype(usual)
        weights = {"ce": 1, "bbox": config.bbox_loss_coefficient, "giou": config.giou_loss_coefficient}
        return {name: weights[name.split("_")[1]] * loss for name, loss in losses.items() if name.startswith("loss")}

    def detect(self, prediction: SetPrediction, batch: ImageBatch) -> list[Detections]:
        output = DetrObjectDetectionOutput(logits=prediction.logits[-1], pred_boxes=prediction.boxes[-1])
        return self.processor.post_process_object_detection(output, 0.0, torch.tensor(batch.originals))


def pixel_mask(batch: ImageBatch) -> Tensor:
    """1 where there is a picture, 0 where there is padding: (B, H, W), as transformers wants it."""
    mask = torch.zeros_like(batch.pixels[:, 0])
    for one, (height, width) in zip(mask, batch.sizes, strict=True):
        one[:height, :width] = 1
    return mask


def reference_detr(seed: int = 0, num_classes: int = 91, attention: str = "sdpa", sharpness: float = SHARPNESS
                   ) -> TransformersDETR:
    """transformers' model of the paper's size, alive: normalisation fits pictures, no channel is like another.

    attention: "eager" where the weights are wanted, "sdpa" as it comes; sharpness: of the decoder's looks.
    """
    torch.manual_seed(seed)
    body = ResNetConfig(out_features=["stage4"])
    model = TransformersDETR(DetrConfig(backbone_config=body, num_labels=num_classes, dropout=0.0,
                                        attn_implementation="eager")).requires_grad_()
    model.config._attn_implementation = attention  # only now, as its ResNet refuses what it does not need
    generator = torch.Generator().manual_seed(seed)
    images = photographs([(128, 160), (160, 110), (96, 150)], torch.float32, seed=9)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            enliven(name, tensor, generator, sharpness)
        fit_to(model, ImagePreparation((128,), 1333, divisor=1)(images)[0])
    return model.eval()


def enliven(name: str, tensor: Tensor, generator: torch.Generator, sharpness: float) -> None:
    """Weights that keep the size of what they are given; norms and biases that differ from channel to channel."""
    noise = torch.randn(tensor.shape, generator=generator)
    if "query_position" in name:
        tensor.copy_(noise)
    elif tensor.ndim > 1:
        sharp = sharpness if "encoder_attn.q_proj" in name or "encoder_attn.k_proj" in name else 1.0
        tensor.copy_(sharp * noise / math.sqrt(tensor[0].numel()))
    elif name.endswith("running_var") or "norm" in name and name.endswith("weight"):
        tensor.copy_(1 + 0.1 * noise)
    else:
        tensor.copy_(0.1 * noise)


def fit_to(model: TransformersDETR, batch: ImageBatch) -> None:
    """Fits normalisation, projection and heads to pictures: numbers of usual size, and queries that disagree."""
    hooks = [module.register_forward_pre_hook(fit_normalisation) for module in model.modules()
             if isinstance(module, DetrFrozenBatchNorm2d)]
    hooks += [module.register_forward_pre_hook(fit_spread) for module in
              (model.model.input_projection, model.class_labels_classifier, model.bbox_predictor.layers[-1])]
    model.predict(batch)
    for hook in hooks:
        hook.remove()


def fit_normalisation(module: nn.Module, given: tuple[Tensor]) -> None:
    """Takes mean and variance of what the module is given as its own."""
    module.running_mean.copy_(given[0].mean(dim=(0, 2, 3)))
    module.running_var.copy_(given[0].var(dim=(0, 2, 3)))


def fit_spread(module: nn.Module, given: tuple[Tensor]) -> None:
    """Scales the projection of maps (B, C, H, W) or a head (L, B, Q, C): mean 0, cells or queries differ by 2."""
    found = module.forward(*given)  # without this hook
    found = found.flatten(2).mT if isinstance(module, nn.Conv2d) else found[-1]  # (B, Q, K)
    factor = 2 / (found - found.mean(dim=1, keepdim=True)).std()
    module.weight *= factor
    module.bias.copy_(factor * (module.bias - found.mean(dim=(0, 1))))


def detr_pair(short_side: int, seed: int = 0, num_classes: int = 91, attention: str = "sdpa",
              sharpness: float = SHARPNESS) -> tuple[DETR, TransformersDETR]:
    """Ours and transformers' with the same weights, in evaluation mode, without dropout, for that short side."""
    theirs = reference_detr(seed, num_classes, attention, sharpness)
    mine = zoo.load("detr_resnet50", theirs.state_dict())
    for module in mine.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):  # of attention weights
            module.dropout = 0.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    mine.prepare.min_sizes = theirs.prepare.min_sizes = (short_side,)
    return mine, theirs
