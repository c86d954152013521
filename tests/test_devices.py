"""Every op says which tensors are on two devices, and works where all are on one that is not the processor.

No GPU is needed: tensors on torch's "meta" device are in the wrong place, and tensors that only say that they are there
stand for a GPU's. These hold numbers, but may meet no other tensor.
"""

import contextlib
import inspect

import pytest
import torch
from op_calls import calls, op, panoptic_quality
from test_independence import MEASURES, OPS, public_functions
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from lessons.devices import check_device

META = torch.device("meta")
CALLS = [pytest.param(function, arguments, id=name) for name, function, arguments in calls()]


def with_leaf(arguments, place, change):
    leaves, form = tree_flatten(arguments)
    return tree_unflatten([change(leaf) if i == place else leaf for i, leaf in enumerate(leaves)], form)


@pytest.mark.parametrize(("function", "arguments"), CALLS)
def test_each_tensor_on_another_device_is_named(function, arguments):
    function(*arguments)
    leaves = tree_flatten(arguments)[0]
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    if function is panoptic_quality:
        tensors = tensors[::2]  # tables of segments are read as numbers, wherever they are
    assert len(tensors) >= 2
    for place in tensors:
        with pytest.raises(ValueError, match=r"\w+ on (cpu and \w+ on meta|meta and \w+ on cpu): want one device"):
            function(*with_leaf(arguments, place, lambda tensor: tensor.to("meta")))


def takes_tensors(function):
    """How many arguments are tensors or lists of them; None counts, since it stands for a tensor that may be there."""
    kinds = [str(kind) for name, kind in inspect.get_annotations(function).items() if name != "return"]
    return sum("Tensor" in kind or "Boxes" in kind or "KeypointMaps" in kind for kind in kinds)


# each map has anchors of its own, and COCO's numbers are reckoned on the processor, wherever tensors come from
ALONE = {"anchors.pyramid_anchors", "agreement.of_boxes", "agreement.of_masks", "agreement.of_keypoints", "devices.check_device"}
# what roi lends to others, called with tensors that are checked, or, pool_by_level, checking them for its callers
BEHIND = {f"roi.{name}" for name in ("bin_edges", "max_in_bins", "average_samples", "by_kind", "sum_bags", "pool_by_level")}


def test_no_op_was_forgotten():
    covered = {name for name, _, _ in calls()}
    for name, _ in public_functions([*OPS[:OPS.index("backbones.resnet")], *MEASURES]):
        short = name.removeprefix("lessons.")
        if short.endswith(".forward"):
            assert short.removesuffix(".forward") in covered
        elif short.count(".") == 1 and takes_tensors(op(short)) > 1:
            assert short in covered | ALONE | BEHIND


def test_a_single_tensor_and_none_need_no_company():
    check_device(a=torch.zeros(1), b=None, c=[], d=[torch.zeros(1)])
    check_device()
    with pytest.raises(ValueError, match="^boxes on cpu and scores on meta: want one device.$"):
        check_device(boxes=torch.zeros(1), labels=None, scores=torch.zeros(1, device="meta"))
    with pytest.raises(ValueError, match="^boxes on cpu and boxes on meta: want one device.$"):
        check_device(boxes=[torch.zeros(1), torch.zeros(1, device="meta")])


class OnGpu(torch.Tensor):
    """A tensor that says it is on META, and holds its numbers in an ordinary one."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), dtype=inner.dtype,
                                                   device=META)

    def __init__(self, inner):
        self.inner = inner

    def tolist(self):
        return self.inner.tolist()

    def new_tensor(self, *arguments, **options):
        return OnGpu(self.inner.new_tensor(*arguments, **options))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class Gpu(TorchDispatchMode):
    """Tensors made with device=META, too, hold numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnGpu)]
    device = kwargs.get("device")
    if there and func is not torch.ops.aten.copy_.default:  # torch lets numbers meet everything, and copies
        assert len(there) == sum(isinstance(t, OnGpu) or t.ndim > 0 for t in tensors), f"{func} meets two devices"
    inner = tree_map_only(OnGpu, lambda tensor: tensor.inner, (args, kwargs))
    result = func(*inner[0], **inner[1] | ({"device": "cpu"} if device else {}))
    if device == META or (there and device is None):
        result = tree_map_only(torch.Tensor, OnGpu, result)
    if not there or device is not None:
        return result
    return return_and_correct_aliasing(func, args, kwargs, result)


def to_gpu(value):
    if isinstance(value, torch.nn.Module):
        for parameter_of in value.modules():
            for name, parameter in parameter_of.named_parameters(recurse=False):
                parameter_of._parameters[name] = torch.nn.Parameter(OnGpu(parameter.detach()), parameter.requires_grad)
        return value
    return tree_map_only(torch.Tensor, lambda tensor: OnGpu(tensor).requires_grad_(tensor.is_floating_point()), value)


def numbers(value):
    return value.inner if isinstance(value, OnGpu) else value


@pytest.fixture
def gpu(monkeypatch):
    """What torch does below its dispatcher for a device that holds numbers, and not for META."""
    make = torch.tensor

    def tensor(*arguments, device=None, **options):
        made = make(*arguments, **options)
        return made if device is None else OnGpu(made)

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    with Gpu():
        yield


@pytest.mark.parametrize(("function", "arguments"), CALLS)
def test_works_where_all_is_on_a_gpu(function, arguments, request):
    expected = function(*arguments)
    there, inputs = to_gpu(function), to_gpu(arguments)
    request.getfixturevalue("gpu")
    result = there(*inputs)
    tensors = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, torch.Tensor)]
    if function is not op("proposals.proposal_recall"):  # a number of each image, for a table
        assert all(isinstance(tensor, OnGpu) for tensor in tensors)
    for got, wanted in zip(tree_flatten(result)[0], tree_flatten(expected)[0], strict=True):
        if isinstance(wanted, str):
            assert got == wanted
        else:
            torch.testing.assert_close(numbers(got), wanted)
    taught = [tensor for tensor in tensors if tensor.requires_grad]
    if taught:
        sum(tensor.sum() for tensor in taught).backward()


@pytest.mark.usefixtures("gpu")
def test_the_pretended_gpu_notices_mixing():
    there = OnGpu(torch.arange(3.0))
    assert ((there * 2 + torch.ones(3, device=META) + torch.tensor([1, 1, 0], device=META)).tolist()) == [2, 4, 5]
    assert bool((there < 5).all())
    for mixed in (lambda: there + torch.ones(3), lambda: torch.arange(3)[there.long()],
                  lambda: torch.stack([there, torch.zeros(3)])):
        with pytest.raises(AssertionError, match="meets two devices"):
            mixed()
