"""Data sets, every one in the same sample form (see `lessons.data.sample`)."""

from lessons.data.catalogue import open_dataset

__all__ = ["open_dataset"]
