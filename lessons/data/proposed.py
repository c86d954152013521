"""A data set whose samples carry their object proposals, so that Selective Search runs once per picture and no more."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from lessons.checkpoints import CheckpointError, deserialise, serialise, write_atomically
from lessons.data.sample import DetectionDataset, Sample
from lessons.proposals import selective_search

NEEDED = ("boxes", "labels", "area", "iscrowd", "image_id")


class WithProposals(DetectionDataset):
    """The first `length` samples of a data set; target["proposals"] (N, 4) holds at most `count` boxes, best first.

    Samples are made when first asked for and then kept in memory, without masks and maps. `transform` of the given set
    is applied before, so it should not be random. Raises ValueError where the set is shorter than `length`.
    """

    def __init__(self, dataset: DetectionDataset, length: int | None = None, count: int = 200,
                 propose: Callable[[Tensor], Tensor] = selective_search) -> None:
        self.name, self.split, self.classes = dataset.name, dataset.split, dataset.classes
        self.dataset, self.count, self.propose = dataset, count, propose
        self.length = len(dataset) if length is None else length
        if not 0 <= self.length <= len(dataset):
            raise ValueError(f"length {length} of {dataset.name} {dataset.split}, which holds {len(dataset)}.")
        self.samples: dict[int, Sample] = {}
        self.found: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self.length

    def load(self, index: int) -> Sample:
        if index not in self.samples:
            image, target = self.dataset[index]
            if index not in self.found:
                self.found[index] = self.propose(image)[: self.count]
            kept = {key: target[key] for key in NEEDED} | {"proposals": self.found[index]}
            self.samples[index] = image, kept
        return self.samples[index]

    def prepare(self, file: Path | None = None, progress: bool = True) -> "WithProposals":
        """Makes every sample now. `file` (.safetensors) is where proposals are kept for the next time; returns itself.

        Another set's, or a damaged, file is made anew.
        """
        notes = json.dumps([self.name, self.split, self.length, self.count])
        if file is not None and file.is_file():
            self.found = _read(file, notes)
        complete = len(self.found) == self.length
        for index in tqdm(range(self.length), "proposals", file=sys.stdout, ascii=True, ncols=100, mininterval=1.0,
                          disable=not progress):
            self.load(index)
        if file is not None and not complete:
            write_atomically(file, serialise({str(index): boxes for index, boxes in self.found.items()}, notes))
        return self


def _read(file: Path, notes: str) -> dict[int, Tensor]:
    try:
        tensors, stored = deserialise(file.read_bytes(), file)
    except CheckpointError:
        return {}
    return {int(name): boxes.to(torch.float32) for name, boxes in tensors.items()} if stored == notes else {}
