"""Which samples, and which random numbers, a training step gets: a pure function of the seed and of its number.

Imagine the data set shuffled anew for every epoch and all epochs written one after the other: an endless stream of
samples. Step k takes the positions k * batch_size up to (k + 1) * batch_size of this stream. So

- a training that resumes at step k continues with the very batch it would have had, without reading any before it;
- no sample is left over at the end of an epoch, and none comes twice before all came once;
- two processes that take half of each batch see together what one process sees alone.

Random numbers (dropout, augmentation) are handled the same way: they are seeded afresh for every sample and every step.
"""

import hashlib
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, unrelated to the seed for any other: `derive_seed(0, "step", 12)`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int, device: torch.device | None = None) -> None:
    """Seeds the global generators of Python, NumPy and torch, from which transforms draw, and dropout on `device`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - other people's transforms draw from the old global generator
    # torch.manual_seed would do, but it costs time, and memory for every kind of device that is not in use
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Inside, the global generators may be seeded at will; afterwards they are as they were before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generator begins at `seed`, as for a model's first weights; afterwards it is as before."""
    with torch.random.fork_rng(devices=[]):  # weights are made on the CPU
        torch.default_generator.manual_seed(seed)
        yield


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, length: int) -> Tensor:
    """The order (length,) in which an epoch goes through a data set: a random permutation of 0 .. length - 1."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
    return torch.randperm(length, generator=generator)


class SampleStream(Dataset):
    """The endless stream: item `position` is a sample, read with random numbers that belong to this position."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed
        self.length = len(dataset)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> Any:
        epoch, offset = divmod(position, self.length)
        seed_everything(derive_seed(self.seed, "sample", position))
        return self.dataset[int(epoch_order(self.seed, epoch, self.length)[offset])]


class BatchPositions:
    """The positions of each step's batch, step `start` first; of each batch only the slice of one process.

    Process `rank` of `world` takes the rank-th of `world` equal parts.
    """

    def __init__(self, start: int, steps: int, batch_size: int, rank: int = 0, world: int = 1):
        if batch_size % world:
            raise ValueError(f"batch_size={batch_size} does not divide evenly among {world} processes.")
        self.start, self.steps, self.batch_size = start, steps, batch_size
        self.rank, self.share = rank, batch_size // world

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = step * self.batch_size + self.rank * self.share
            yield list(range(first, first + self.share))


def batch_loader(stream: SampleStream, positions: BatchPositions, collate: Callable, workers: int = 0) -> DataLoader:
    """Batches `collate([sample, ...])` in the order of `positions`, read by `workers` processes (0: by this one).

    The number of workers changes the speed, never the result.
    """
    return DataLoader(stream, batch_sampler=positions, collate_fn=collate, num_workers=workers,  # type: ignore[arg-type]
                      worker_init_fn=_ignore_interrupt, generator=torch.Generator())


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, but workers must live until the main process finished its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
