"""Attention and DETR's transformer against torch.nn, a loop from the formula, and DETR's layers written on torch.nn."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lessons.attention import (
    MultiHeadAttention,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
    sine_position_encoding,
)

B, Q, S, C, HEADS = 3, 5, 7, 12, 4


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def padding(batch, length):
    """True beyond each image's own length; the first image has no padding."""
    return torch.arange(length) >= (length - torch.arange(batch))[:, None].clamp(min=1)


def pair(dropout=0.0, dtype=torch.float64, seed=0):
    """Ours and torch's attention with the same random weights and biases."""
    torch.manual_seed(seed)
    reference = nn.MultiheadAttention(C, HEADS, dropout, batch_first=True, dtype=dtype)
    randomise(reference)
    ours = MultiHeadAttention(C, HEADS, dropout).to(dtype)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference


def randomise(module):
    """Norms and biases too, so that one left out is noticed."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)


def gradients(output, inputs, module):
    wanted = [*inputs, *(parameter for _, parameter in sorted(module.named_parameters()))]
    weight = random(*output.shape, seed=99, dtype=output.dtype)
    return torch.autograd.grad((output * weight).sum(), wanted)


MASKS = {
    "none": (None, None),
    "padding": (padding(B, S), None),
    "causal": (None, torch.ones(Q, S, dtype=torch.bool).triu(1)),
    "both": (padding(B, S), torch.ones(Q, S, dtype=torch.bool).triu(1)),
    "added": (None, random(Q, S, seed=7)),
    "added, by head": (None, random(B * HEADS, Q, S, seed=8)),
    "by head": (None, random(B * HEADS, Q, S, seed=8) > 0.8),
    "both added": (torch.zeros(B, S).masked_fill(padding(B, S), -math.inf).double(), random(Q, S, seed=7)),
}


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masks", MASKS)
def test_attention_equals_torch(masks, need_weights):
    ours, reference = pair()
    inputs = [random(B, Q, C, seed=1), random(B, S, C, seed=2), random(B, S, C, seed=3)]
    inputs = [x.requires_grad_() for x in inputs]
    padded, blocked = MASKS[masks]
    result, weights = ours(*inputs, key_padding_mask=padded, attn_mask=blocked, need_weights=need_weights)
    expected, expected_weights = reference(*inputs, key_padding_mask=padded, attn_mask=blocked,
                                           average_attn_weights=False)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    for got, wanted in zip(gradients(result, inputs, ours), gradients(expected, inputs, reference), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    if need_weights:
        assert weights.shape == (B, HEADS, Q, S)
        torch.testing.assert_close(weights, expected_weights, rtol=0, atol=1e-12)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    else:
        assert weights is None


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_gradcheck(need_weights):
    ours, _ = pair()
    inputs = tuple(x.requires_grad_() for x in (random(1, 2, C), random(1, 3, C, seed=1), random(1, 3, C, seed=2)))
    mask = torch.tensor([[False, True, False]])
    assert torch.autograd.gradcheck(lambda *x: ours(*x, key_padding_mask=mask, need_weights=need_weights)[0], inputs)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_attention_in_other_precisions(dtype, tolerance):
    ours, exact = pair(dtype=torch.float64)
    inputs = [random(B, Q, C, seed=1), random(B, S, C, seed=2), random(B, S, C, seed=3)]
    inputs = [x.to(dtype).double() for x in inputs]  # rounded alike
    exact.load_state_dict({key: value.to(dtype).double() for key, value in exact.state_dict().items()})
    expected, expected_weights = exact(*inputs, key_padding_mask=padding(B, S), average_attn_weights=False)
    ours = ours.to(dtype)
    for need_weights in (False, True):
        result, weights = ours(*(x.to(dtype) for x in inputs), padding(B, S), need_weights=need_weights)
        assert result.dtype == dtype
        torch.testing.assert_close(result.double() / expected.abs().max(), expected / expected.abs().max(), rtol=0,
                                   atol=tolerance)
    torch.testing.assert_close(weights.double(), expected_weights, rtol=0, atol=tolerance)


def test_state_dicts_load_both_ways_and_start_equal():
    torch.manual_seed(3)
    reference = nn.MultiheadAttention(C, HEADS, batch_first=True)
    torch.manual_seed(3)
    ours = MultiHeadAttention(C, HEADS)
    assert list(ours.state_dict()) == list(reference.state_dict())
    assert all(torch.equal(value, reference.state_dict()[key]) for key, value in ours.state_dict().items())
    reference.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout_draws_what_torch_draws(need_weights):
    ours, reference = pair(dropout=0.4)
    x = random(B, S, C)
    torch.manual_seed(5)
    result, weights = ours(x, x, x, need_weights=need_weights)
    torch.manual_seed(5)
    expected, dropped = reference(x, x, x, need_weights=need_weights, average_attn_weights=False)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    if need_weights:
        assert 0.2 < (weights == 0).double().mean() < 0.6
        torch.testing.assert_close(weights, dropped, rtol=0, atol=1e-12)
    ours.eval()
    assert torch.equal(ours(x, x, x)[0], ours(x, x, x)[0])


def test_who_may_see_nothing_gets_the_bias_and_disturbs_nobody():
    ours, _ = pair()
    x = random(2, S, C).requires_grad_()
    nothing = torch.tensor([[False] * S, [True] * S])
    alone = ours(x[:1], x[:1], x[:1])[0]
    for need_weights in (False, True):
        result, weights = ours(x, x, x, key_padding_mask=nothing, need_weights=need_weights)
        torch.testing.assert_close(result[:1], alone)
        torch.testing.assert_close(result[1], ours.out_proj.bias.expand(S, C), rtol=0, atol=0)
        (gradient,) = torch.autograd.grad(result.square().sum(), x)
        assert gradient.isfinite().all()
        assert gradient[1].abs().max() == 0
        assert gradient[0].abs().max() > 0
    assert weights[1].abs().max() == 0
    one_query = torch.zeros(S, S, dtype=torch.bool)
    one_query[2] = True
    result, weights = ours(x, x, x, attn_mask=one_query, need_weights=True)
    assert weights.sum(-1)[:, :, 2].abs().max() == 0
    torch.testing.assert_close(result, ours(x, x, x, attn_mask=one_query)[0])


@pytest.mark.parametrize("shape", [(0, Q, S), (B, 0, S), (B, Q, 0), (1, 1, 1)])
@pytest.mark.parametrize("need_weights", [False, True])
def test_empty_attention(shape, need_weights):
    batch, queries, keys = shape
    ours, _ = pair()
    for mask, blocked in ((None, None), (torch.zeros(batch, keys, dtype=torch.bool), random(queries, keys)),
                          (None, random(batch * HEADS, queries, keys))):
        result, weights = ours(random(batch, queries, C), random(batch, keys, C), random(batch, keys, C), mask, blocked,
                               need_weights)
        assert result.shape == (batch, queries, C)
        assert result.isfinite().all()
        assert weights is None or weights.shape == (batch, HEADS, queries, keys)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.randoms(use_true_random=False))
def test_properties(seed, length, rng):
    ours, _ = pair(seed=seed)
    x, order = random(1, length, C, seed=seed), torch.tensor(rng.sample(range(length), length))
    result, weights = ours(x, x, x, need_weights=True)
    permuted, permuted_weights = ours(x, x[:, order], x[:, order], need_weights=True)
    torch.testing.assert_close(permuted, result)  # keys have no order
    torch.testing.assert_close(permuted_weights, weights[..., order])
    torch.testing.assert_close(ours(x[:, order], x, x)[0], result[:, order])  # each query for itself
    longer = torch.cat([x, random(1, 3, C, seed=seed + 1)], dim=1)
    mask = torch.arange(length + 3)[None] >= length
    torch.testing.assert_close(ours(x, longer, longer, mask)[0], result)  # padding changes nothing
    torch.testing.assert_close(ours(x, longer.contiguous().mT.contiguous().mT, longer, mask)[0], result)


def sine_by_loop(mask, num_channels, temperature, normalize):
    """Carion et al., appendix: place by place and channel by channel, in Python's double precision."""
    batch, height, width = mask.shape
    half, result = num_channels // 2, torch.zeros(batch, num_channels, height, width, dtype=torch.float64)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                y, all_y = sum(not mask[b, k, j] for k in range(i + 1)), sum(not mask[b, k, j] for k in range(height))
                x, all_x = sum(not mask[b, i, k] for k in range(j + 1)), sum(not mask[b, i, k] for k in range(width))
                if normalize:
                    y, x = 2 * math.pi * y / (all_y + 1e-6), 2 * math.pi * x / (all_x + 1e-6)
                for channel in range(half):
                    f = math.cos if channel % 2 else math.sin
                    frequency = temperature ** (2 * (channel // 2) / half)
                    result[b, channel, i, j] = f(y / frequency)
                    result[b, half + channel, i, j] = f(x / frequency)
    return result


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("size", "channels", "temperature"), [((4, 6), 8, 10000), ((5, 3), 20, 20), ((1, 1), 4, 1)])
def test_sine_position_encoding(size, channels, temperature, normalize):
    height, width = size
    mask = torch.zeros(3, height, width, dtype=torch.bool)
    mask[1, :, width // 2 + 1:] = mask[1, height // 2 + 1:] = True  # a smaller image, padded on the right and below
    mask[2] = True  # nothing but padding
    result = sine_position_encoding(mask, channels, temperature, normalize)
    assert result.dtype == torch.float32
    expected = sine_by_loop(mask, channels, temperature, normalize)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-6)
    exact = sine_position_encoding(mask, channels, temperature, normalize, torch.float64)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-12)


def test_sine_position_encoding_by_hand():
    result = sine_position_encoding(torch.zeros(1, 2, 4, dtype=torch.bool), 8)
    assert result.shape == (1, 8, 2, 4)
    last = 2 * math.pi / (1 + 1e-6 / 4)
    torch.testing.assert_close(result[0, 4, :, 3], torch.full((2,), math.sin(last)), rtol=0, atol=1e-6)  # x, sin
    torch.testing.assert_close(result[0, 4, 0, 0].item(), 1.0, rtol=0, atol=1e-6)  # sin(2 pi / 4)
    torch.testing.assert_close(result[0, 1, 0], torch.full((4,), -1.0), rtol=0, atol=1e-6)  # y, cos(pi)
    torch.testing.assert_close(result[0, 2, 1, 0].item(), math.sin(2 * math.pi / 100), rtol=0, atol=1e-6)
    for empty in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert sine_position_encoding(torch.zeros(empty, dtype=torch.bool), 8).shape == (empty[0], 8, *empty[1:])


def layers(kind, norm_first, dropout=0.0):
    """Ours and torch's encoder or decoder layer with the same weights."""
    torch.manual_seed(0)
    names = {"encoder": (TransformerEncoderLayer, nn.TransformerEncoderLayer),
             "decoder": (TransformerDecoderLayer, nn.TransformerDecoderLayer)}
    ours, reference = names[kind]
    reference = reference(C, HEADS, 16, dropout, batch_first=True, norm_first=norm_first).double()
    randomise(reference)
    ours = ours(C, HEADS, 16, dropout, norm_first).double()
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference


def stacks(kind, norm_first, count=3):
    ours, reference = layers(kind, norm_first)
    norm = nn.LayerNorm(C).double() if norm_first or kind == "decoder" else None
    if kind == "encoder":
        reference = nn.TransformerEncoder(reference, count, copy.deepcopy(norm), enable_nested_tensor=False)
        ours = TransformerEncoder(ours, count, norm)
    else:
        reference, ours = nn.TransformerDecoder(reference, count, copy.deepcopy(norm)), TransformerDecoder(ours, count, norm)
    randomise(reference)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference


ENCODER_MASKS = [{}, {"src_key_padding_mask": padding(B, S)}, {"src_mask": torch.ones(S, S, dtype=torch.bool).triu(1)}]
DECODER_MASKS = [{}, {"memory_key_padding_mask": padding(B, S)}, {
    "tgt_mask": torch.ones(Q, Q, dtype=torch.bool).triu(1), "memory_mask": torch.ones(Q, S, dtype=torch.bool).triu(2),
    "tgt_key_padding_mask": padding(B, Q)}]


def compare(got, expected, inputs, ours, reference):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)
    for a, b in zip(gradients(got, inputs, ours), gradients(expected, inputs, reference), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("masks", range(3))
def test_layers_without_positions_equal_torch(masks, norm_first, training):
    src, tgt = random(B, S, C, seed=1).requires_grad_(), random(B, Q, C, seed=2).requires_grad_()
    ours, reference = (layer.train(training) for layer in layers("encoder", norm_first))
    got, weights = ours(src, **ENCODER_MASKS[masks])
    assert weights is None
    compare(got, reference(src, **ENCODER_MASKS[masks]), [src], ours, reference)
    ours, reference = (layer.train(training) for layer in layers("decoder", norm_first))
    got, weights = ours(tgt, src, **DECODER_MASKS[masks])
    assert weights is None
    compare(got, reference(tgt, src, **DECODER_MASKS[masks]), [tgt, src], ours, reference)
    zero = {"pos": torch.zeros(B, S, C), "query_pos": torch.zeros(Q, C)}
    torch.testing.assert_close(ours(tgt, src, **DECODER_MASKS[masks], **zero)[0], got)


@pytest.mark.parametrize("norm_first", [False, True])
def test_layers_drop_where_torch_drops(norm_first, monkeypatch):
    """Dropout by halves instead of by chance, since torch.nn keeps its tensors, and so draws, in another order."""
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "dropout", lambda x, p, training, inplace=False: x * (1 - p) if training else x)
    monkeypatch.setattr(F, "scaled_dot_product_attention",
                        lambda q, k, v, mask=None, dropout_p=0.0, *rest: attention(q, k, v, mask) * (1 - dropout_p))
    src, tgt = random(B, S, C, seed=1), random(B, Q, C, seed=2)
    for kind, inputs in (("encoder", [src]), ("decoder", [tgt, src])):
        ours, reference = layers(kind, norm_first, dropout=0.5)
        got, _ = ours(*inputs)
        torch.testing.assert_close(got, reference(*inputs), rtol=0, atol=1e-11)
        torch.testing.assert_close(ours(*inputs, need_weights=True)[0], got)
        assert not torch.allclose(got, ours.eval()(*inputs)[0])


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("masks", range(3))
def test_stacks_without_positions_equal_torch(masks, norm_first):
    src, tgt = random(B, S, C, seed=1).requires_grad_(), random(B, Q, C, seed=2).requires_grad_()
    ours, reference = stacks("encoder", norm_first)
    options = {"mask" if key == "src_mask" else key: mask for key, mask in ENCODER_MASKS[masks].items()}
    got, weights = ours(src, **options)
    assert weights == []
    compare(got, reference(src, **options), [src], ours, reference)
    ours, reference = stacks("decoder", norm_first)
    got, weights = ours(tgt, src, **DECODER_MASKS[masks])
    assert weights == []
    assert got.shape == (3, B, Q, C)
    compare(got[-1], reference(tgt, src, **DECODER_MASKS[masks]), [tgt, src], ours, reference)


def detr_encoder_layer(layer, src, padded, pos):
    """DETR's layer with positions, written on torch.nn's parts: the output and the attention weights."""
    x = layer.norm1(src) if layer.norm_first else src
    change, weights = layer.self_attn(x + pos, x + pos, x, key_padding_mask=padded, average_attn_weights=False)
    src = src + change
    if not layer.norm_first:
        src = layer.norm1(src)
        return layer.norm2(src + layer.linear2(F.relu(layer.linear1(src)))), weights
    return src + layer.linear2(F.relu(layer.linear1(layer.norm2(src)))), weights


def detr_decoder_layer(layer, tgt, memory, padded, pos, query_pos):
    x = layer.norm1(tgt) if layer.norm_first else tgt
    tgt = tgt + layer.self_attn(x + query_pos, x + query_pos, x)[0]
    tgt = tgt if layer.norm_first else layer.norm1(tgt)
    x = layer.norm2(tgt) if layer.norm_first else tgt
    change, weights = layer.multihead_attn(x + query_pos, memory + pos, memory, key_padding_mask=padded,
                                           average_attn_weights=False)
    tgt = tgt + change
    if not layer.norm_first:
        tgt = layer.norm2(tgt)
        return layer.norm3(tgt + layer.linear2(F.relu(layer.linear1(tgt)))), weights
    return tgt + layer.linear2(F.relu(layer.linear1(layer.norm3(tgt)))), weights


@pytest.mark.parametrize("norm_first", [False, True])
def test_positions_at_every_layer_as_in_detr(norm_first):
    src, pos, queries = (random(*shape, seed=i).requires_grad_() for i, shape in enumerate([(B, S, C), (B, S, C), (Q, C)]))
    padded = padding(B, S)
    (encoder, torch_encoder), (decoder, torch_decoder) = stacks("encoder", norm_first), stacks("decoder", norm_first)

    memory, expected_seen = src, []
    for layer in torch_encoder.layers:
        memory, seen = detr_encoder_layer(layer, memory, padded, pos)
        expected_seen.append(seen)
    memory = torch_encoder.norm(memory) if torch_encoder.norm is not None else memory
    got, weights = encoder(src, src_key_padding_mask=padded, pos=pos, need_weights=True)
    compare(got, memory, [src, pos], encoder, torch_encoder)
    torch.testing.assert_close(weights, expected_seen, rtol=0, atol=1e-12)
    torch.testing.assert_close(encoder(src, src_key_padding_mask=padded, pos=pos)[0], memory)

    memory = memory.detach().requires_grad_()
    x, outputs, expected_seen = torch.zeros(B, Q, C, dtype=torch.float64), [], []
    for layer in torch_decoder.layers:
        x, seen = detr_decoder_layer(layer, x, memory, padded, pos, queries)
        outputs.append(torch_decoder.norm(x))
        expected_seen.append(seen)
    options = {"memory_key_padding_mask": padded, "pos": pos, "query_pos": queries}
    got, weights = decoder(torch.zeros(B, Q, C, dtype=torch.float64), memory, **options, need_weights=True)
    compare(got, torch.stack(outputs), [memory, pos, queries], decoder, torch_decoder)
    torch.testing.assert_close(weights, expected_seen, rtol=0, atol=1e-12)
    assert [seen.shape for seen in weights] == [(B, HEADS, Q, S)] * 3
    torch.testing.assert_close(decoder(torch.zeros(B, Q, C, dtype=torch.float64), memory, **options)[0], got)


def test_values_have_no_position():
    """Where all keys fit alike the answer is the mean of the values, whatever is added to the queries."""
    layer, _ = layers("encoder", norm_first=False)
    with torch.no_grad():
        layer.self_attn.in_proj_weight[C:2 * C] = 0  # all keys are equal
    src = random(B, S, C)
    torch.testing.assert_close(layer(src, pos=random(B, S, C, seed=4) * 100)[0], layer(src)[0])


def test_layers_of_a_stack_start_differently_and_no_layers_change_nothing():
    encoder = TransformerEncoder(TransformerEncoderLayer(C, HEADS, 16), 2)
    first, second = (layer.self_attn.in_proj_weight for layer in encoder.layers)
    assert not torch.equal(first, second)
    limit = math.sqrt(6 / (3 * C + C))  # Xavier's
    assert 0.9 * limit < first.abs().max() <= limit
    src = random(B, S, C, dtype=torch.float32)
    output, weights = TransformerEncoder(TransformerEncoderLayer(C, HEADS), 0)(src, need_weights=True)
    assert torch.equal(output, src)
    assert weights == []


def test_bad_input_is_named():
    for arguments, message in (((12, 5), "embed_dim 12 for 5 heads"), ((12, 0), "12 for 0 heads"),
                               ((0, 1), "embed_dim 0"), ((12, 4, 1.5), "dropout 1.5"), ((12, 4, math.nan), "nan")):
        with pytest.raises(ValueError, match=message):
            MultiHeadAttention(*arguments)
    ours, _ = pair()
    x, longer = random(B, S, C), random(B, S + 1, C)
    for wrong in ((x[0], x, x), (x, x, longer), (x, longer[:1], longer[:1]), (x, x[..., :4], x[..., :4]),
                  (x[..., :4], x, x)):
        with pytest.raises(ValueError, match="want \\(B, Q, 12\\)"):
            ours(*wrong)
    for options in ({"key_padding_mask": padding(B, S + 1)}, {"attn_mask": random(S, S + 1)},
                    {"attn_mask": random(B, S, S)}, {"key_padding_mask": padding(B, S).int()}):
        with pytest.raises(ValueError, match="mask of shape"):
            ours(x, x, x, **options)
    with pytest.raises(ValueError, match="num_layers -1"):
        TransformerEncoder(TransformerEncoderLayer(C, HEADS), -1)
    with pytest.raises(ValueError, match="num_layers 0: a decoder needs"):
        TransformerDecoder(TransformerDecoderLayer(C, HEADS), 0)
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    for wrong, channels, temperature in ((mask[0], 8, 10), (mask.float(), 8, 10), (mask, 6, 10), (mask, 0, 10),
                                         (mask, 8, 0), (mask, 8, math.nan)):
        with pytest.raises(ValueError, match=r"want \(B, H, W\) of bool|want a multiple of 4"):
            sine_position_encoding(wrong, channels, temperature)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_cuda(dtype):
    torch.manual_seed(0)
    encoder = TransformerEncoder(TransformerEncoderLayer(32, 4, 64, dropout=0.0), 2)
    mask = padding(3, 20)
    mask[2] = True
    src, pos = random(3, 20, 32, dtype=torch.float32), sine_position_encoding(mask[:, None], 32).flatten(2).mT
    expected, _ = encoder(src, src_key_padding_mask=mask, pos=pos)
    torch.testing.assert_close(sine_position_encoding(mask[:, None].cuda(), 32).cpu().flatten(2).mT, pos)
    encoder = encoder.cuda().to(dtype)
    for need_weights in (False, True):
        got, _ = encoder(src.cuda().to(dtype), None, mask.cuda(), pos.cuda().to(dtype), need_weights)
        torch.testing.assert_close(got.cpu().float(), expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 2e-2)
