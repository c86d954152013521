"""Samples and random numbers are functions of the seed and the position, whoever reads them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import Blobs

from lessons.order import BatchPositions, SampleStream, derive_seed, epoch_order, own_random_state, seed_everything


@given(length=st.integers(1, 40), share=st.integers(1, 6), world=st.integers(1, 4), steps=st.integers(1, 12),
       start=st.integers(0, 12), seed=st.integers(0, 2**63))
@settings(max_examples=60, deadline=None)
def test_batches_are_consecutive_whole_epochs_whoever_reads_them(length, share, world, steps, start, seed):
    batch, start = share * world, min(start, steps)
    alone = list(BatchPositions(0, steps, batch))
    assert sum(alone, []) == list(range(steps * batch))
    parts = [list(BatchPositions(0, steps, batch, rank, world)) for rank in range(world)]
    assert [sum(together, []) for together in zip(*parts, strict=True)] == alone
    assert list(BatchPositions(start, steps, batch)) == alone[start:]
    for epoch in range(2):
        assert sorted(epoch_order(seed, epoch, length).tolist()) == list(range(length))


def test_epochs_are_shuffled_differently():
    orders = {tuple(epoch_order(seed, epoch, 20).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_a_sample_is_a_function_of_its_position():
    stream = SampleStream(Blobs(), seed=3)
    first = [stream[position][0] for position in (5, 6, 5 + 37)]
    seed_everything(99)
    again = [stream[position][0] for position in (5 + 37, 6, 5)]
    for a, b in zip(first, reversed(again), strict=True):
        assert torch.equal(a, b)
    other = SampleStream(Blobs(), seed=4)
    assert not torch.equal(other[5][0], first[0])


def test_seeds_of_different_purposes_differ():
    purposes = [(purpose, number) for purpose in ("step", "sample") for number in range(50)]
    seeds = [derive_seed(seed, *purpose) for seed in range(5) for purpose in purposes]
    assert len(set(seeds)) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_own_random_state_restores_all_generators_even_after_an_error():
    import random

    import numpy as np

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    with pytest.raises(KeyError), own_random_state(torch.device("cpu")):  # noqa: PT012
        seed_everything(5)
        raise KeyError
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert before[2] == random.getstate()
