"""What a model costs: its multiply-adds, counted exactly while it runs.

Papers count one multiplication with the addition of its product as one operation (a multiply-add, MAC; what many call
"FLOPs" is these, some double them). Counted are convolutions and matrix products, which do nearly all of the work;
activations, normalisation, pooling and additions are not, as in the papers. (Nor are recurrent layers and nn.Bilinear,
which no lesson uses.)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lessons.evaluation import evaluation_mode


def count_multiply_adds(model: Callable, *inputs: Any) -> int:
    """Multiply-adds of `model(*inputs)`: a module, run in evaluation mode, or any function of tensors."""
    with _counting(model) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


def multiply_adds_by_module(model: nn.Module, *inputs: Any) -> dict[str, int]:
    """Multiply-adds of each submodule of `model(*inputs)`, by its name in the model and in the model's order.

    "" is the whole model; a module's count includes those of the modules inside it, over all its calls. Modules that
    do no multiply-adds are left out.
    """
    with _counting(model) as counter:
        model(*inputs)
    counts = {key: sum(by_operation.values()) // 2 for key, by_operation in counter.get_flop_counts().items()}
    root = type(model).__name__  # the counter puts it before each name
    named = {name: counts.get(f"{root}.{name}" if name else root, 0) for name, _ in model.named_modules()}
    return {name: count for name, count in named.items() if count}


@contextmanager
def _counting(model: Callable) -> Iterator[FlopCounterMode]:
    """A counter that sees every product: torch's fused attention and its fast path for encoders would hide some."""
    counter = FlopCounterMode(display=False, custom_mapping=_VECTOR_PRODUCTS)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluation_mode(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _matrix_times_vector(matrix: torch.Size, vector: torch.Size, **_: Any) -> int:
    return 2 * matrix[0] * matrix[1]


def _sum_plus_matrix_times_vector(added: torch.Size, matrix: torch.Size, vector: torch.Size, **_: Any) -> int:
    return 2 * matrix[0] * matrix[1]


def _dot(a: torch.Size, b: torch.Size, **_: Any) -> int:
    return 2 * a[0]


# torch's counter knows products of matrices only
_VECTOR_PRODUCTS = {torch.ops.aten.mv: _matrix_times_vector, torch.ops.aten.addmv: _sum_plus_matrix_times_vector,
                    torch.ops.aten.dot: _dot}
