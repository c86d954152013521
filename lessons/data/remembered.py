"""A data set that reads each picture once: its samples stay in memory, as large as the detector wants them."""

from collections.abc import Callable, Collection

from torch import Tensor

from lessons.data.sample import DetectionDataset, Sample, Target

LIMIT = 2**29  # bytes: a few hundred pictures, as much as a laptop can spare


class Remembered(DetectionDataset):
    """The samples of a data set after its own transform and `prepare`, neither of which may be random.

    Reading a photograph, its twenty masks and making them all as large as the detector wants takes as long as a tenth
    of a training step. What does not fit into `limit` bytes is read anew every time. without: entries of a target that
    nobody needs and that need not be prepared, such as "masks". What is random belongs into `transform`, as always.
    """

    def __init__(self, dataset: DetectionDataset, prepare: Callable[[Tensor, Target], Sample],
                 without: Collection[str] = (), limit: int = LIMIT) -> None:
        self.name, self.split, self.classes = dataset.name, dataset.split, dataset.classes
        self.dataset, self.prepare, self.without, self.free = dataset, prepare, without, limit
        self.samples: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self, index: int) -> Sample:
        if index in self.samples:
            image, target = self.samples[index]
            return image, dict(target)  # whoever changes the dictionary has one of his own
        image, target = self.dataset[index]
        image, target = self.prepare(image, {key: value for key, value in target.items() if key not in self.without})
        size = sum(value.nbytes for value in (image, *target.values()) if isinstance(value, Tensor))
        if size <= self.free:
            self.free -= size
            self.samples[index] = image, dict(target)
        return image, target
