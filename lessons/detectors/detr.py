"""DETR (Carion et al., ECCV 2020): detection is the prediction of a set, all at once, without anchors and without NMS.

    pictures -> backbone -> encoder: every place looks at all places -> memory
    N learned queries -> decoder: every query looks at all queries and at the memory -> one class and one box each

There are more queries than objects; those to spare learn to say "no object". In training the predictions are matched
one to one with the objects at the least total cost (section 3.1), so each object has one query to answer for it and a
second box on the same object is a mistake: that is why nothing has to be removed afterwards.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.attention import (
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
    sine_position_encoding,
)
from lessons.boxes import box_convert
from lessons.data.sample import Detections, Target
from lessons.images import ImageBatch, ImagePreparation, Shape, shape
from lessons.losses import detr_set_loss


class Transformer(nn.Module):
    """Encoder and decoder (figure 10): the picture's features and the queries -> what each query has found.

    features (B, C, H, W), padding (B, H, W) bool, True where there is no picture, queries (Q, C), C = d_model -> the
    outputs of all decoder layers (L, B, Q, C) and, layer by layer if need_weights, else empty, the encoder's
    self-attention (B, nhead, H * W, H * W) and the decoder's attention to the picture (B, nhead, Q, H * W).
    """

    def __init__(self, d_model: int = 256, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
                 dim_feedforward: int = 2048, dropout: float = 0.1) -> None:
        super().__init__()
        self.d_model = d_model
        layer = d_model, nhead, dim_feedforward, dropout
        self.encoder = TransformerEncoder(TransformerEncoderLayer(*layer), num_encoder_layers)
        self.decoder = TransformerDecoder(TransformerDecoderLayer(*layer), num_decoder_layers, nn.LayerNorm(d_model))

    def forward(self, features: Tensor, padding: Tensor, queries: Tensor, need_weights: bool = False
                ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        pos = as_sequence(sine_position_encoding(padding, features.shape[1], dtype=queries.dtype))
        unseen = padding.flatten(1) if padding.any() else None  # without a mask attention is faster
        memory, by_places = self.encoder(as_sequence(features), src_key_padding_mask=unseen, pos=pos,
                                         need_weights=need_weights)
        nothing = torch.zeros_like(queries).expand(len(features), -1, -1)  # all that a query has at first is its place
        found, by_queries = self.decoder(nothing, memory, memory_key_padding_mask=unseen, pos=pos, query_pos=queries,
                                         need_weights=need_weights)
        return found, by_places, by_queries


class SetPrediction(NamedTuple):
    """What DETR says about a batch, after each of its L decoder layers; the last one's word counts.

    logits (L, B, Q, K + 1), the last column for "no object"; boxes (L, B, Q, 4), cxcywh in parts of the batch's
    pictures; padding (B, H, W), the cells of the feature map without a picture; and, where asked for, the attention of
    every layer: encoder (B, heads, H * W, H * W) and decoder (B, heads, Q, H * W), rows sum to 1.
    """

    logits: Tensor
    boxes: Tensor
    padding: Tensor
    encoder_attention: list[Tensor]
    decoder_attention: list[Tensor]


class DETR(nn.Module):
    """The whole detector (figure 2), in torchvision's calling convention.

    model(images, targets) -> dict of losses in training; model(images) -> list of dict(boxes, labels, scores) in
    evaluation: row q is what query q says, boxes xyxy in the pixels of the given pictures. backbone: pictures
    (B, 3, H, W) -> list of maps, of which the last is looked at. num_classes is K and counts the background, label 0,
    which is never a target: "no object" is one class more, and the last.
    `predict` tells more than the detections: every decoder layer's boxes, and where it looked.
    """

    no_object_weight = 0.1  # in the cross-entropy, as most queries find nothing (section 3.1)
    loss_weights = (1.0, 5.0, 2.0)  # of class, L1 and GIoU, in the matching as well (appendix A.4)

    def __init__(self, backbone: nn.Module, transformer: Transformer, num_classes: int, prepare: ImagePreparation,
                 num_queries: int = 100) -> None:
        super().__init__()
        self.backbone, self.transformer, self.prepare = backbone, transformer, prepare
        channels = transformer.d_model
        self.input_proj = nn.Conv2d(backbone.out_channels, channels, 1)  # type: ignore[arg-type]
        self.query_embed = nn.Embedding(num_queries, channels)
        self.class_embed = nn.Linear(channels, num_classes + 1)
        self.bbox_embed = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels),
                                        nn.ReLU(), nn.Linear(channels, 4))

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
                ) -> dict[str, Tensor] | list[Detections]:
        batch, adapted = self.prepare(images, targets, self.training)
        prediction = self.predict(batch)
        return self.losses(prediction, batch, adapted) if self.training else self.detect(prediction, batch)

    def predict(self, batch: ImageBatch, need_weights: bool = False) -> SetPrediction:
        """Classes and boxes of every query after every decoder layer and, with need_weights, all attention weights.

        batch: what `prepare(images)[0]` makes of pictures.
        """
        features = self.input_proj(self.backbone(batch.pixels)[-1])
        padding = padded_cells(batch, shape(features))
        found, *attention = self.transformer(features, padding, self.query_embed.weight, need_weights)
        return SetPrediction(self.class_embed(found), self.bbox_embed(found).sigmoid(), padding, *attention)

    def losses(self, prediction: SetPrediction, batch: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Class, L1 and GIoU loss, weighted, after the last decoder layer, and after layer i as "..._i" (section 3.2).

        targets: boxes (G, 4) xyxy in the pixels of the batch, labels (G,).
        """
        truth = [{"labels": target["labels"], "boxes": in_parts(target["boxes"], size)}
                 for target, size in zip(targets, batch.sizes, strict=True)]
        losses = {}
        for i in (-1, *range(len(prediction.logits) - 1)):  # each layer's predictions are matched anew
            found = detr_set_loss(prediction.logits[i], prediction.boxes[i], truth, self.no_object_weight,
                                  self.loss_weights)
            for (name, loss), weight in zip(found.items(), self.loss_weights, strict=True):
                losses[name if i < 0 else f"{name}_{i}"] = weight * loss
        return losses

    def detect(self, prediction: SetPrediction, batch: ImageBatch, layer: int = -1) -> list[Detections]:
        """What decoder layer `layer` says of each picture: of every query the best class that is an object's.

        Queries that would rather say "no object" keep their box, with a low score: AP has a use for it (section 4).
        """
        scores, labels = prediction.logits[layer].softmax(dim=-1)[..., :-1].max(dim=-1)
        corners = box_convert(prediction.boxes[layer], "cxcywh", "xyxy")
        return [{"boxes": boxes * sides(size, boxes), "labels": label, "scores": score}
                for boxes, label, score, size in zip(corners, labels, scores, batch.originals, strict=True)]


def as_sequence(features: Tensor) -> Tensor:
    """Maps (B, C, H, W) as a sequence of their cells, row by row: (B, H * W, C)."""
    return features.flatten(2).transpose(1, 2)


def padded_cells(batch: ImageBatch, grid: Shape) -> Tensor:
    """Which cells of a feature map of height and width `grid` lie in no picture: (B, *grid) bool."""
    padded = torch.ones_like(batch.pixels[:, :1])
    for one, (height, width) in zip(padded, batch.sizes, strict=True):
        one[:, :height, :width] = 0
    return F.interpolate(padded, size=grid)[:, 0].bool()  # a cell is its first pixel, as in the authors' code


def in_parts(boxes: Tensor, size: Shape) -> Tensor:
    """Boxes (G, 4) xyxy pixels as cxcywh in parts of a picture of `size` (height, width)."""
    return box_convert(boxes, "xyxy", "cxcywh") / sides(size, boxes)


def sides(size: Shape, boxes: Tensor) -> Tensor:
    """Width, height, width, height (4,) of a picture, to multiply or divide boxes by."""
    return boxes.new_tensor([size[1], size[0], size[1], size[0]])
