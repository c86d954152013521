"""COCO's layout (Lin et al., ECCV 2014; panoptic: Kirillov et al., CVPR 2019): one JSON file for a whole split.

Boxes stand as xywh pixels in the file; masks as polygons or run-length codes; `iscrowd` marks a region of many objects
that evaluation ignores. Category numbers have gaps (COCO has 80 classes numbered up to 90): labels here are 1 .. K in
the order of the numbers, and `category_ids[label]` is the number in the file.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lessons.data.files import read_image, read_json
from lessons.data.sample import DetectionDataset, Sample, Target, drop_degenerate

TASKS = ("instances", "keypoints", "panoptic")


class CocoDetection(DetectionDataset):
    """Instances or person keypoints: `images` is the folder of pictures, `annotations` the JSON file.

    masks=False leaves masks out, which is much faster. With task "keypoints" targets hold "keypoints" (N, P, 3) and
    only annotations that carry some. Boxes without area are dropped with a warning. image_id is the file's.
    Raises ValueError for another task, broken JSON, missing entries or unknown categories and images.
    """

    def __init__(self, images: str | Path, annotations: str | Path, task: str = "instances", masks: bool = True
                 ) -> None:
        if task not in TASKS[:2]:
            raise ValueError(f"task {task!r} is none of {', '.join(TASKS[:2])}; for panoptic see CocoPanoptic.")
        self.folder, self.task, self.masks = Path(images), task, masks
        self.name, self.split, self.file = f"coco {task}", Path(annotations).stem, Path(annotations)
        content = _content(self.file)
        self.images: list[dict] = content["images"]
        self.category_ids, self.classes = _categories(content)
        self._labels = {number: label for label, number in enumerate(self.category_ids)}
        self._rows = _group(content["annotations"], {image["id"] for image in self.images}, self._labels, self.file)
        self.points = max((len(row.get("keypoints", [])) // 3 for row in content["annotations"]), default=0)

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Sample:
        return read_image(self.folder / self.images[index]["file_name"]), self.annotation(index)[0]

    def annotation(self, index: int) -> tuple[Target, tuple[int, int]]:
        image = self.images[index]
        size = int(image["height"]), int(image["width"])
        rows = self._rows.get(image["id"], [])
        if self.task == "keypoints":
            rows = [row for row in rows if row.get("num_keypoints", 0) > 0]
        boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        target = {"boxes": boxes, "labels": _integers(self._labels[row["category_id"]] for row in rows),
                  "area": torch.tensor([float(row["area"]) for row in rows], dtype=torch.float32),
                  "iscrowd": _integers(row.get("iscrowd", 0) for row in rows), "image_id": image["id"]}
        if self.task == "keypoints":
            points = [row["keypoints"] for row in rows]
            target["keypoints"] = torch.tensor(points, dtype=torch.float32).reshape(len(rows), self.points, 3)
        if self.masks:
            target["masks"] = _masks([row["segmentation"] for row in rows], size)
        return drop_degenerate(target, image["file_name"]), size


class CocoPanoptic(DetectionDataset):
    """Panoptic segmentation: every pixel has a class, and things are told apart.

    images, segments: folders of pictures and of the PNG files whose colours number the segments (id = R + 256 G +
    65536 B); annotations: the JSON file. The sample form's boxes, labels and masks hold the *things*; beside them
      panoptic  (H, W) int64 segment ids, 0 where there is none
      semantic  (H, W) int64 labels of things and stuff, 0 where there is none
      segments  (S, 3) int64 rows of id, label, is it a crowd
    `is_thing[label]` says which labels are things. Raises as `CocoDetection`.
    """

    def __init__(self, images: str | Path, segments: str | Path, annotations: str | Path) -> None:
        self.folder, self.segments, self.file = Path(images), Path(segments), Path(annotations)
        self.name, self.split = "coco panoptic", self.file.stem
        content = _content(self.file)
        self.category_ids, self.classes = _categories(content)
        things = {row["id"] for row in content["categories"] if row.get("isthing", 1)}
        self.is_thing = tuple(number in things for number in self.category_ids)
        self._labels = {number: label for label, number in enumerate(self.category_ids)}
        known = {image["id"]: image for image in content["images"]}
        self.rows: list[dict] = content["annotations"]
        for row in self.rows:
            if row["image_id"] not in known:
                raise ValueError(f"{self.file}: an annotation names the image {row['image_id']}, which is not listed.")
            for segment in row["segments_info"]:
                _known_category(segment, self._labels, self.file)
        self.images = [known[row["image_id"]] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, index: int) -> Sample:
        return read_image(self.folder / self.images[index]["file_name"]), self.annotation(index)[0]

    def annotation(self, index: int) -> tuple[Target, tuple[int, int]]:
        row = self.rows[index]
        red, green, blue = (read_image(self.segments / row["file_name"]) * 255).round().long()
        ids = red + 256 * green + 65536 * blue
        labels = {segment["id"]: self._labels[segment["category_id"]] for segment in row["segments_info"]}
        semantic = torch.zeros_like(ids)
        for number, label in labels.items():
            semantic[ids == number] = label
        things = [one for one in row["segments_info"] if self.is_thing[labels[one["id"]]]]
        boxes = torch.tensor([one["bbox"] for one in things], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [ids == one["id"] for one in things]
        table = [[one["id"], labels[one["id"]], one.get("iscrowd", 0)] for one in row["segments_info"]]
        target = {"boxes": boxes, "labels": _integers(labels[one["id"]] for one in things),
                  "area": torch.tensor([float(one["area"]) for one in things], dtype=torch.float32),
                  "iscrowd": _integers(one.get("iscrowd", 0) for one in things), "image_id": row["image_id"],
                  "masks": torch.stack(masks) if masks else torch.zeros((0, *ids.shape), dtype=torch.bool),
                  "panoptic": ids, "semantic": semantic, "segments": torch.tensor(table).reshape(-1, 3)}
        return drop_degenerate(target, self.images[index]["file_name"]), (ids.shape[0], ids.shape[1])


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: it is no COCO annotation file for detection.")
    return content


def _categories(content: dict[str, Any]) -> tuple[list[int], tuple[str, ...]]:
    """Numbers and names by label; label 0, the background, has number 0."""
    rows = sorted(content["categories"], key=lambda row: row["id"])
    return [0, *(row["id"] for row in rows)], ("background", *(row["name"] for row in rows))


def _group(rows: list[dict], images: set[int], labels: dict[int, int], path: Path) -> dict[int, list[dict]]:
    """The annotations of each image, checked."""
    groups: dict[int, list[dict]] = {}
    for row in rows:
        if row["image_id"] not in images:
            raise ValueError(f"{path}: annotation {row['id']} names the image {row['image_id']}, which is not listed.")
        _known_category(row, labels, path)
        groups.setdefault(row["image_id"], []).append(row)
    return groups


def _known_category(row: dict, labels: dict[int, int], path: Path) -> None:
    if row["category_id"] not in labels or row["category_id"] == 0:
        raise ValueError(f"{path}: annotation {row['id']} has the unknown category {row['category_id']}.")


def _integers(values: Any) -> Tensor:
    return torch.tensor([int(value) for value in values], dtype=torch.int64)


def _masks(segmentations: list[Any], size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool from polygons, uncompressed or compressed run-length codes."""
    from pycocotools import mask as rle

    masks = torch.zeros((len(segmentations), *size), dtype=torch.bool)
    for i, code in enumerate(segmentations):
        if isinstance(code, list):
            code = rle.merge(rle.frPyObjects(code, *size)) if code else None
        elif isinstance(code["counts"], list):
            code = rle.frPyObjects(code, *size)
        if code is not None:
            masks[i] = torch.from_numpy(rle.decode(code)).bool()
    return masks
