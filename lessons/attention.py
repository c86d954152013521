"""Attention and DETR's transformer: every place of the image, and every query, looks at all the others at once.

Attention compares a query with every key and returns the mean of the values, weighted by how well the keys fit:
softmax(Q K^T / sqrt(d)) V (Vaswani et al., NeurIPS 2017, equation 1). It does not know where anything lies, so DETR
(Carion et al., ECCV 2020) adds to queries and keys, in every attention layer, what says where: sines of the place for
image features, learned object queries for the decoder. The layers below are the paper's figure 10, from bottom to top.
Their parameters have torch.nn's names, so that state dicts load both ways. NaN passes through, as in torch.nn.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.devices import check_device

Attended = tuple[Tensor, Tensor | None]  # what a block gives, and the weights of its attention if they are wanted


def sine_position_encoding(mask: Tensor, num_channels: int, temperature: float = 10000,
                           normalize: bool = True, dtype: torch.dtype = torch.float32) -> Tensor:
    """Where each place of a padded image lies, as sines and cosines: (B, num_channels, H, W) of `dtype`.

    mask: (B, H, W) bool, True = padding. Rows and columns are counted from 1 over what is no padding, and with
    `normalize` divided by their number, to end at 2 pi. The first half of the channels is for y, the second for x: in
    each, channels 2i and 2i + 1 are sin and cos of place / temperature^(2i / (num_channels / 2)) (Carion et al., ECCV
    2020, appendix A.4, and their PositionEmbeddingSine, to which DETR gives num_channels / 2).
    Raises ValueError for a mask that is not (B, H, W) bool, num_channels not a multiple of 4, a temperature not > 0.
    """
    if mask.ndim != 3 or mask.dtype != torch.bool:
        raise ValueError(f"mask of shape {tuple(mask.shape)}, {mask.dtype}: want (B, H, W) of bool.")
    if num_channels < 4 or num_channels % 4 or not temperature > 0:
        raise ValueError(f"num_channels {num_channels} with temperature {temperature}: want a multiple of 4 and > 0.")
    half = num_channels // 2
    exponent = torch.arange(0, half, 2, dtype=dtype, device=mask.device) / half
    encoded = []
    for dim in (1, 2):  # y, then x
        place = (~mask).cumsum(dim, dtype=dtype)
        if normalize:
            place = place / (place[:, -1:] if dim == 1 else place[:, :, -1:]).add(1e-6) * (2 * math.pi)
        angle = place[..., None] / temperature**exponent  # (B, H, W, half / 2)
        encoded.append(torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(3))
    return torch.cat(encoded, dim=-1).permute(0, 3, 1, 2)


class MultiHeadAttention(nn.Module):
    """Attention in `num_heads` subspaces at once (Vaswani et al., 2017, section 3.2.2), torch.nn.MultiheadAttention.

    query (B, Q, C), key and value (B, S, C), C = embed_dim -> the attended values (B, Q, C) and, if need_weights, the
    weights (B, num_heads, Q, S); otherwise None, and torch's fused kernel never makes that table. In training, dropout
    falls on the weights, those returned included. key_padding_mask (B, S) and attn_mask (Q, S) or (B * num_heads, Q, S)
    are bool, True = must not be seen, or are added to the scores.
    Departs from torch.nn: a query that may see no key has weights 0 and gets out_proj.bias, with weights (there NaN)
    and without; weights are not averaged over the heads.
    Raises ValueError for an embed_dim that the heads cannot share, a dropout outside [0, 1], shapes or devices that do
    not fit.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads or not 0 <= dropout <= 1:
            raise ValueError(f"embed_dim {embed_dim} for {num_heads} heads, dropout {dropout}: want a multiple of the "
                             "number of heads, and a dropout in [0, 1].")
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))  # for queries, keys, values
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
                attn_mask: Tensor | None = None, need_weights: bool = False) -> Attended:
        check_device(query=query, key=key, value=value, key_padding_mask=key_padding_mask, attn_mask=attn_mask,
                     parameters=self.in_proj_weight)
        self._check(query, key, value)
        projections = zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, ., d)
                   for x, (weight, bias) in zip((query, key, value), projections, strict=True))
        bias = _mask_bias(key_padding_mask, attn_mask, (len(q), self.num_heads, q.shape[2], k.shape[2]), q.dtype)
        blind = None
        if bias is not None:  # a softmax over nothing would be NaN: let the blind see all, and forget what they saw
            blind = (bias == -math.inf).all(dim=-1, keepdim=True)
            bias = bias.masked_fill(blind, 0)
        attended, weights = (self._explicit if need_weights else self._fused)(q, k, v, bias)
        if blind is not None:
            attended = attended.masked_fill(blind, 0)
            weights = None if weights is None else weights.masked_fill(blind, 0)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), weights

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Attended:
        scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
        weights = (scores if bias is None else scores + bias).softmax(dim=-1)
        weights = F.dropout(weights, self.dropout, self.training)
        return weights @ v, weights

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Attended:
        return F.scaled_dot_product_attention(q, k, v, bias, self.dropout if self.training else 0.0), None

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        fits = query.ndim == key.ndim == 3 and len(query) == len(key) and key.shape == value.shape
        if not fits or not query.shape[2] == key.shape[2] == self.embed_dim:
            raise ValueError(f"query, key and value of shapes {tuple(query.shape)}, {tuple(key.shape)} and "
                             f"{tuple(value.shape)}: want (B, Q, {self.embed_dim}) and twice (B, S, {self.embed_dim}).")


class _Layer(nn.Module):
    """What both layers share: a residual around each block, and a network on each place."""

    def __init__(self, d_model: int, dim_feedforward: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(d_model, dim_feedforward), nn.Linear(dim_feedforward, d_model)
        self.dropout, self.norm_first = nn.Dropout(dropout), norm_first

    def add_and_norm(self, x: Tensor, block: Callable[[Tensor], Attended], norm: nn.Module) -> Attended:
        """x + block(x), normalised after (or, norm_first, x normalised before), and the block's attention weights."""
        change, weights = block(norm(x) if self.norm_first else x)
        x = x + self.dropout(change)
        return x if self.norm_first else norm(x), weights

    def feed_forward(self, x: Tensor) -> Attended:
        return self.linear2(self.dropout(F.relu(self.linear1(x)))), None


class TransformerEncoderLayer(_Layer):
    """Self-attention of the image's places, then a network on each place; around both a residual and a LayerNorm.

    src (B, S, C), C = d_model, and pos (B, S, C) or None, which is added to queries and keys but not to values -> (B,
    S, C) and, if need_weights, the attention weights (B, nhead, S, S). Masks as in MultiHeadAttention. norm_first
    normalises before each block instead of after the sum. Without pos it is torch.nn.TransformerEncoderLayer with
    batch_first. DETR, appendix A.3 and figure 10, left.
    """

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
                 norm_first: bool = False) -> None:
        super().__init__(d_model, dim_feedforward, dropout, norm_first)
        self.self_attn = MultiHeadAttention(d_model, nhead, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)

    def forward(self, src: Tensor, src_mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
                pos: Tensor | None = None, need_weights: bool = False) -> Attended:
        def attend(x: Tensor) -> Attended:
            placed = _placed(x, pos)
            return self.self_attn(placed, placed, x, src_key_padding_mask, src_mask, need_weights)

        src, weights = self.add_and_norm(src, attend, self.norm1)
        src, _ = self.add_and_norm(src, self.feed_forward, self.norm2)
        return src, weights


class TransformerDecoderLayer(_Layer):
    """Self-attention of the object queries, their attention to the image, then a network on each query.

    tgt (B, Q, C), memory (B, S, C), the encoder's output -> (B, Q, C) and, if need_weights, the weights (B, nhead, Q,
    S) with which the queries look at the image. pos (B, S, C) or None is added to the memory as key; query_pos (B, Q,
    C) or (Q, C) or None, DETR's object queries, to tgt as query and key of the first attention and as query of the
    second; neither to values. Without both it is torch.nn.TransformerDecoderLayer with batch_first. DETR, figure 10,
    right.
    """

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
                 norm_first: bool = False) -> None:
        super().__init__(d_model, dim_feedforward, dropout, norm_first)
        self.self_attn = MultiHeadAttention(d_model, nhead, dropout)
        self.multihead_attn = MultiHeadAttention(d_model, nhead, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))

    def forward(self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None, memory_mask: Tensor | None = None,
                tgt_key_padding_mask: Tensor | None = None, memory_key_padding_mask: Tensor | None = None,
                pos: Tensor | None = None, query_pos: Tensor | None = None, need_weights: bool = False) -> Attended:
        def attend_to_queries(x: Tensor) -> Attended:
            placed = _placed(x, query_pos)
            return self.self_attn(placed, placed, x, tgt_key_padding_mask, tgt_mask)

        def attend_to_image(x: Tensor) -> Attended:
            return self.multihead_attn(_placed(x, query_pos), _placed(memory, pos), memory, memory_key_padding_mask,
                                       memory_mask, need_weights)

        tgt, _ = self.add_and_norm(tgt, attend_to_queries, self.norm1)
        tgt, weights = self.add_and_norm(tgt, attend_to_image, self.norm2)
        tgt, _ = self.add_and_norm(tgt, self.feed_forward, self.norm3)
        return tgt, weights


class TransformerEncoder(nn.Module):
    """`num_layers` encoder layers, one upon the other, and a last norm if there is one: torch.nn.TransformerEncoder.

    src (B, S, C) and the layer's masks and pos -> (B, S, C) and the attention weights layer by layer, a list of
    `num_layers` (B, nhead, S, S), empty unless need_weights. `norm` is for norm_first layers; DETR's have none.
    Departs from torch.nn, where all layers start equal: as in DETR's code each starts with Xavier weights of its own.
    Raises ValueError for fewer than 0 layers.
    """

    def __init__(self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers, self.norm = _stack(encoder_layer, num_layers), norm

    def forward(self, src: Tensor, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
                pos: Tensor | None = None, need_weights: bool = False) -> tuple[Tensor, list[Tensor]]:
        weights = []
        for layer in self.layers:
            src, seen = layer(src, mask, src_key_padding_mask, pos, need_weights)
            if need_weights:
                weights.append(seen)
        return src if self.norm is None else self.norm(src), weights


class TransformerDecoder(nn.Module):
    """`num_layers` decoder layers, one upon the other; each one's output goes through the one last norm.

    tgt (B, Q, C), DETR's zeros, memory (B, S, C), and the layer's masks, pos and query_pos -> the outputs of all layers
    (num_layers, B, Q, C), for DETR's losses at every layer (section 3.2), and the weights with which each looks at the
    image, a list of `num_layers` (B, nhead, Q, S), empty unless need_weights. The last output is that of
    torch.nn.TransformerDecoder. Layers start as in TransformerEncoder. Raises ValueError for fewer than 1 layer.
    """

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers {num_layers}: a decoder needs a layer.")
        self.layers, self.norm = _stack(decoder_layer, num_layers), norm

    def forward(self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None, memory_mask: Tensor | None = None,
                tgt_key_padding_mask: Tensor | None = None, memory_key_padding_mask: Tensor | None = None,
                pos: Tensor | None = None, query_pos: Tensor | None = None,
                need_weights: bool = False) -> tuple[Tensor, list[Tensor]]:
        outputs, weights = [], []
        for layer in self.layers:
            tgt, seen = layer(tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, pos,
                              query_pos, need_weights)
            outputs.append(tgt if self.norm is None else self.norm(tgt))
            if need_weights:
                weights.append(seen)
        return torch.stack(outputs), weights


def _placed(x: Tensor, pos: Tensor | None) -> Tensor:
    if pos is None:
        return x
    check_device(features=x, positions=pos)
    if pos.shape[-2:] != x.shape[-2:]:
        raise ValueError(f"positions of shape {tuple(pos.shape)} for features of shape {tuple(x.shape)}.")
    return x + pos


def _stack(layer: nn.Module, count: int) -> nn.ModuleList:
    """`count` copies of a layer, each with Xavier weights of its own."""
    if count < 0:
        raise ValueError(f"num_layers {count}: want a number >= 0.")
    layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(count))
    for parameter in layers.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    return layers


def _mask_bias(key_padding_mask: Tensor | None, attn_mask: Tensor | None, shape: tuple[int, int, int, int],
               dtype: torch.dtype) -> Tensor | None:
    """Both masks as one tensor to be added to the scores of `shape` (B, heads, Q, S), to which it broadcasts."""
    batch, heads, queries, keys = shape
    bias = None
    if key_padding_mask is not None:
        bias = _added(key_padding_mask, dtype, (batch, keys))[:, None, None]
    if attn_mask is not None:
        added = _added(attn_mask, dtype, (queries, keys), (batch * heads, queries, keys))
        added = added.reshape(shape if added.ndim == 3 else (1, 1, queries, keys))
        bias = added if bias is None else bias + added
    return bias


def _added(mask: Tensor, dtype: torch.dtype, *shapes: tuple[int, ...]) -> Tensor:
    """A mask of one of the shapes as numbers: -inf where it is True."""
    if tuple(mask.shape) not in shapes or not (mask.dtype == torch.bool or mask.is_floating_point()):
        raise ValueError(f"mask of shape {tuple(mask.shape)}, {mask.dtype}: want {' or '.join(map(str, shapes))} of "
                         "bool or floating-point numbers.")
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
