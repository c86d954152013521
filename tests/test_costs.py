"""Multiply-adds against the formulas of the textbooks, worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lessons.costs import count_multiply_adds, multiply_adds_by_module


@given(images=st.integers(1, 3), height=st.integers(5, 12), width=st.integers(5, 12), kernel=st.sampled_from([1, 3, 5]),
       stride=st.integers(1, 3), groups=st.sampled_from([1, 2, 4]), padding=st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_convolution(images, height, width, kernel, stride, groups, padding):
    """Every output value is a sum of kernel * kernel * (inputs / groups) products."""
    layer = nn.Conv2d(4, 8, kernel, stride, padding, groups=groups)
    out_height = (height + 2 * padding - kernel) // stride + 1
    out_width = (width + 2 * padding - kernel) // stride + 1
    expected = images * 8 * out_height * out_width * kernel * kernel * 4 // groups
    assert count_multiply_adds(layer, torch.zeros(images, 4, height, width)) == expected


def test_transposed_convolution():
    """Every input value is multiplied with the whole kernel of every output channel."""
    assert count_multiply_adds(nn.ConvTranspose2d(4, 6, 2, stride=2), torch.zeros(1, 4, 5, 5)) == 5 * 5 * 4 * 6 * 2 * 2


@pytest.mark.parametrize(("function", "shapes", "expected"), [
    (nn.Linear(4, 5), [(7, 4)], 7 * 4 * 5), (nn.Linear(4, 5, bias=False), [(2, 7, 4)], 2 * 7 * 4 * 5),
    (nn.Linear(4, 5), [(4,)], 4 * 5), (nn.Linear(4, 5), [(0, 4)], 0),
    (torch.matmul, [(3, 4), (4, 5)], 3 * 4 * 5), (torch.matmul, [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
    (torch.matmul, [(3, 4), (4,)], 3 * 4), (torch.matmul, [(4,), (4, 5)], 4 * 5), (torch.matmul, [(4,), (4,)], 4),
    (lambda a, b: torch.einsum("bij,kj->bik", a, b), [(2, 3, 4), (5, 4)], 2 * 3 * 4 * 5),
    (nn.ReLU(), [(3, 4)], 0), (nn.MaxPool2d(2), [(1, 3, 4, 4)], 0), (lambda a: a + a, [(3, 4)], 0)])
def test_products(function, shapes, expected):
    assert count_multiply_adds(function, *(torch.zeros(shape) for shape in shapes)) == expected


def test_attention_is_counted_whole_whatever_kernel_torch_would_choose():
    """N tokens of width D: 4 N D^2 for the projections, 2 N^2 D for the scores and the weighted sum."""
    n, d, hidden = 7, 16, 32
    queries = torch.zeros(1, 2, n, 8)
    attention = nn.functional.scaled_dot_product_attention
    assert count_multiply_adds(attention, queries, queries, queries) == 2 * n * n * 16
    layer = nn.TransformerEncoderLayer(d, 4, hidden, batch_first=True)
    expected = 4 * n * d * d + 2 * n * n * d + 2 * n * d * hidden
    assert count_multiply_adds(layer, torch.zeros(1, n, d)) == expected
    assert count_multiply_adds(layer.eval(), torch.zeros(1, n, d)) == expected


def test_alexnet_s_first_layer():
    """96 kernels of 11 x 11 x 3 at 55 x 55 places: 105.4 million (Krizhevsky et al. 2012, section 3.5)."""
    layer, image = nn.Conv2d(3, 96, 11, stride=4), torch.zeros(1, 3, 227, 227)
    assert count_multiply_adds(layer, image) == 55 * 55 * 96 * 11 * 11 * 3 == 105_415_200


class Nested(nn.Module):
    """One layer that runs twice, one that never runs, one inside another module."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(4, 3))
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.twice(self.twice(x)))


def test_table_by_module_adds_up():
    table = multiply_adds_by_module(Nested(), torch.zeros(5, 4))
    assert table == {"": 5 * (32 + 12), "twice": 5 * 32, "head": 5 * 12, "head.1": 5 * 12}
    assert list(table) == ["", "twice", "head", "head.1"]


def test_the_table_of_a_model_without_products_is_empty():
    assert multiply_adds_by_module(nn.ReLU(), torch.zeros(2)) == {}


def test_the_model_is_left_as_it_was():
    model = Nested()
    model.head.eval()
    norm = nn.BatchNorm1d(4)
    before = torch.backends.mha.get_fastpath_enabled()
    multiply_adds_by_module(model, torch.zeros(5, 4))
    count_multiply_adds(norm, torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    assert model.training
    assert model.twice.training
    assert not model.head.training
    assert norm.num_batches_tracked == 0
    assert norm.training
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert all(p.grad is None for p in model.parameters())


def test_a_model_that_fails_leaves_the_switches():
    def fail():
        raise RuntimeError("no")

    before = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError, match="no"):
        count_multiply_adds(fail)
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert torch.is_grad_enabled()
