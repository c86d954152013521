"""COCO's layout (Lin et al., ECCV 2014; panoptic: Kirillov et al., CVPR 2019): one JSON file for a whole split.

Boxes stand as xywh pixels in the file; masks as polygons or run-length codes; `iscrowd` marks a region of many objects
that evaluation ignores. Category numbers have gaps (COCO has 80 classes numbered up to 90): labels here are 1 .. K in
the order of the numbers, and `category_ids[label]` is the number in the file, for exporting results.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lessons.data.files import check_size, read_colours, read_image, read_json
from lessons.data.sample import DetectionDataset, Sample, Target, clip_boxes, drop_degenerate

TASKS = ("instances", "keypoints", "panoptic")
NUMBER = (int, float)
FORMS: dict[str, type | tuple[type, ...]] = {  # what the entries of a file must be; outlines are looked at when read
    "id": int, "image_id": int, "category_id": int, "file_name": str, "name": str, "height": int, "width": int,
    "area": NUMBER, "bbox": list, "keypoints": list, "segments_info": list, "segmentation": object}
FORM_NAMES = {int: "a whole number", str: "a text", NUMBER: "a number", list: "a list"}


class CocoDetection(DetectionDataset):
    """Instances or person keypoints: `images` is the folder of pictures, `annotations` the JSON file.

    masks=False leaves masks out, which is much faster, and boxes without outlines can be read. With task "keypoints"
    targets hold "keypoints" (N, P, 3) and only annotations that carry some. Boxes reaching beyond the picture are
    clipped, those without area dropped with a warning. image_id is the file's.
    Raises ValueError for another task, broken JSON, entries that are missing or of another kind, numbers given twice,
    unknown categories and images; when a sample is read, for a box, keypoints or an outline that cannot be understood
    and for a picture of another size than the file says.
    """

    def __init__(self, images: str | Path, annotations: str | Path, task: str = "instances", masks: bool = True
                 ) -> None:
        if task not in TASKS[:2]:
            raise ValueError(f"task {task!r} is none of {', '.join(TASKS[:2])}; for panoptic see CocoPanoptic.")
        self.folder, self.task, self.masks = Path(images), task, masks
        self.name, self.split, self.file = f"coco {task}", Path(annotations).stem, Path(annotations)
        content = _content(self.file)
        needed = ["id", "image_id", "category_id", "bbox", "area"]
        needed += ["segmentation"] * masks + ["keypoints"] * (task == "keypoints")
        _check_entries(content["annotations"], needed, self.file)
        self.images: list[dict] = content["images"]
        self.category_ids, self.classes = _categories(content)
        self._labels = {number: label for label, number in enumerate(self.category_ids) if label}
        self._rows = _group(content["annotations"], {image["id"] for image in self.images}, self._labels, self.file)
        self.points = max((len(row.get("keypoints", ())) // 3 for row in content["annotations"]), default=0)

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> Sample:
        image = read_image(self.folder / self.images[index]["file_name"])
        target, size = self.annotation(index)
        check_size(self.folder / self.images[index]["file_name"], image, size)
        return image, target

    def annotation(self, index: int) -> tuple[Target, tuple[int, int]]:
        image = self.images[index]
        size = image["height"], image["width"]
        rows = self._rows.get(image["id"], [])
        if self.task == "keypoints":
            rows = [row for row in rows if any(row["keypoints"][2::3])]
        target = {"boxes": _boxes(rows, size, self.file), "labels": _labels_of(rows, self._labels),
                  "area": torch.tensor([float(row["area"]) for row in rows], dtype=torch.float32),
                  "iscrowd": _crowds(rows, self.file), "image_id": image["id"]}
        if self.task == "keypoints":
            target["keypoints"] = self._keypoints(rows)
        if self.masks:
            masks = [_mask(row["segmentation"], size, f"{self.file}: annotation {row['id']}") for row in rows]
            target["masks"] = torch.stack(masks) if masks else torch.zeros((0, *size), dtype=torch.bool)
        return drop_degenerate(target, image["file_name"]), size

    def _keypoints(self, rows: list[dict]) -> Tensor:
        points = [_numbers(row, "keypoints", 3 * self.points, self.file) for row in rows]
        return torch.tensor(points, dtype=torch.float32).reshape(len(rows), self.points, 3)


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
        self.is_thing = (False, *(number in things for number in self.category_ids[1:]))
        self._labels = {number: label for label, number in enumerate(self.category_ids) if label}
        known = {image["id"]: image for image in content["images"]}
        self.rows: list[dict] = content["annotations"]
        _check_entries(self.rows, ["image_id", "file_name", "segments_info"], self.file)
        for row in self.rows:
            if row["image_id"] not in known:
                raise ValueError(f"{self.file}: an annotation names the image {row['image_id']}, which is not listed.")
            _check_entries(row["segments_info"], ["id", "category_id", "bbox", "area"], self.file)
            for segment in row["segments_info"]:
                _known_category(segment, self._labels, self.file)
        self.images = [known[row["image_id"]] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, index: int) -> Sample:
        image = read_image(self.folder / self.images[index]["file_name"])
        target, size = self.annotation(index)
        check_size(self.folder / self.images[index]["file_name"], image, size)
        return image, target

    def annotation(self, index: int) -> tuple[Target, tuple[int, int]]:
        row = self.rows[index]
        ids = self._segment_ids(row)
        size = ids.shape[0], ids.shape[1]
        labels = {segment["id"]: self._labels[segment["category_id"]] for segment in row["segments_info"]}
        semantic = torch.zeros_like(ids)
        for number, label in labels.items():
            semantic[ids == number] = label
        things = [one for one in row["segments_info"] if self.is_thing[labels[one["id"]]]]
        masks = [ids == one["id"] for one in things]
        table = [_integers(one["id"] for one in row["segments_info"]), _labels_of(row["segments_info"], self._labels),
                 _crowds(row["segments_info"], self.file)]
        target = {"boxes": _boxes(things, size, self.file), "labels": _labels_of(things, self._labels),
                  "area": torch.tensor([float(one["area"]) for one in things], dtype=torch.float32),
                  "iscrowd": _crowds(things, self.file), "image_id": row["image_id"],
                  "masks": torch.stack(masks) if masks else torch.zeros((0, *size), dtype=torch.bool),
                  "panoptic": ids, "semantic": semantic,
                  "segments": torch.stack(table, dim=1)}
        return drop_degenerate(target, self.images[index]["file_name"]), size

    def _segment_ids(self, row: dict) -> Tensor:
        """(H, W) ids of the PNG's colours, the same as those that the JSON lists."""
        path = self.segments / row["file_name"]
        red, green, blue = read_colours(path)
        ids = red + 256 * green + 65536 * blue
        odd = {segment["id"] for segment in row["segments_info"]} ^ (set(ids.unique().tolist()) - {0})
        if odd:
            raise ValueError(f"{path}: segment {min(odd)} is only in one of the picture and {self.file.name}.")
        return ids


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    parts = ("images", "annotations", "categories")
    missing = [key for key in parts if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: it is no COCO annotation file for detection.")
    _check_entries(content["images"], ["id", "file_name", "height", "width"], path)
    _check_entries(content["categories"], ["id", "name"], path)
    for key in ("images", "categories"):
        numbers = [row["id"] for row in content[key]]
        if len(set(numbers)) < len(numbers):
            twice = Counter(numbers).most_common(1)[0][0]
            raise ValueError(f"{path}: the number {twice} stands twice among the {key}.")
    return content


def _check_entries(rows: list[dict], needed: Sequence[str], path: Path) -> None:
    """Raises ValueError for the first entry in which something `needed` is missing or is not what FORMS says."""
    for row in rows:
        missing = [key for key in needed if not isinstance(row, dict) or key not in row]
        if missing:
            raise ValueError(f"{path}: the entry {str(row)[:80]} has no {', '.join(missing)}.")
        for key in needed:
            if not isinstance(row[key], FORMS[key]):
                raise ValueError(f"{path}: the entry {str(row)[:80]} has the {key} {str(row[key])[:80]}, which is not "
                                 f"{FORM_NAMES[FORMS[key]]}.")


def _categories(content: dict[str, Any]) -> tuple[list[int], tuple[str, ...]]:
    """Numbers and names by label; the background, label 0, stands first with the number 0, which nothing uses."""
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
    if row["category_id"] not in labels:
        raise ValueError(f"{path}: annotation {row['id']} has the unknown category {row['category_id']}.")


def _boxes(rows: list[dict], size: tuple[int, int], path: Path) -> Tensor:
    """(N, 4) xyxy of the rows' xywh, inside a picture of `size`."""
    boxes = torch.tensor([_numbers(row, "bbox", 4, path) for row in rows], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return clip_boxes(boxes, size)


def _numbers(row: dict, key: str, count: int, path: Path) -> list[float]:
    """The entry `key` of an annotation, `count` numbers. Raises ValueError naming what is there instead."""
    values = row[key]
    if len(values) != count or not all(isinstance(value, NUMBER) for value in values):
        raise ValueError(f"{path}: annotation {row['id']} has the {key} {str(values)[:80]}, not {count} numbers.")
    return values


def _labels_of(rows: list[dict], labels: dict[int, int]) -> Tensor:
    return _integers(labels[row["category_id"]] for row in rows)


def _crowds(rows: list[dict], path: Path) -> Tensor:
    """(N,) int64, 1 for a crowd; a file without this entry has none. Raises ValueError for anything but 0 and 1."""
    crowds = [row.get("iscrowd", 0) for row in rows]
    for row, crowd in zip(rows, crowds, strict=True):
        if crowd not in (0, 1):
            raise ValueError(f"{path}: annotation {row['id']} has iscrowd {crowd!r}, not 0 or 1.")
    return _integers(crowds)


def _integers(values: Iterable[int]) -> Tensor:
    return torch.tensor([int(value) for value in values], dtype=torch.int64)


def _mask(outline: Any, size: tuple[int, int], where: str) -> Tensor:
    """(H, W) bool of polygons, an uncompressed or a compressed run-length code. Raises ValueError naming `where`."""
    from pycocotools import mask as rle

    try:
        code = _run_lengths(outline, size, where) if isinstance(outline, dict) else _polygons(outline, size, where)
    except TypeError as error:  # something else stands where numbers and lists of numbers should
        raise ValueError(f"{where} has the outline {str(outline)[:80]}, which is none ({error}).") from error
    try:
        return torch.from_numpy(rle.decode(code)).bool()
    except ValueError as error:
        raise ValueError(f"{where} has a run-length code that cannot be decoded ({error}).") from error


def _polygons(outline: list[list[float]], size: tuple[int, int], where: str) -> dict:
    """The compressed run-length code of the pixels inside any of the polygons x1, y1, x2, y2, ..."""
    from pycocotools import mask as rle

    polygons = [one for one in outline or () if len(one) >= 6 and len(one) % 2 == 0]  # four numbers would be a box
    if not polygons:
        raise ValueError(f"{where} has no outline, polygons of three or more points; masks=False reads its box.")
    far = 10 * max(size)  # pycocotools walks along the outline pixel by pixel, however far that is
    if not all(-far <= value <= far for polygon in polygons for value in polygon):
        raise ValueError(f"{where} has an outline that is not near its picture of {size} pixels.")
    return rle.merge(rle.frPyObjects(polygons, *size))


def _run_lengths(code: dict, size: tuple[int, int], where: str) -> dict:
    """A run-length code in its compressed form, which pycocotools decodes, after checking what that takes on trust."""
    from pycocotools import mask as rle

    counts = code.get("counts")
    if counts is None or tuple(code.get("size", ())) != size:
        raise ValueError(f"{where} has a run-length code without counts or not for a picture of {size} pixels.")
    runs = counts if isinstance(counts, list) else decompress_runs(counts)
    if sum(runs) != size[0] * size[1] or min(runs) < 0:
        raise ValueError(f"{where} has run lengths for {sum(runs)} pixels, the picture has {size[0] * size[1]}.")
    return rle.frPyObjects(code, *size) if isinstance(counts, list) else code


def decompress_runs(counts: str | bytes) -> list[int]:
    """The run lengths behind COCO's compressed code, by columns, beginning with background (cocoapi, maskApi.c).

    Each character carries five bits of a number, the lowest first, and whether more follow; numbers from the fourth on
    are differences to the one two places before. An unfinished number at the end is left out.
    """
    runs: list[int] = []
    number = shift = 0
    for character in counts.encode("latin-1", "replace") if isinstance(counts, str) else counts:
        bits = character - 48
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (bits & 16) << (shift - 4)  # the highest bit is the sign
            runs.append(number + runs[-2] if len(runs) > 2 else number)
            number = shift = 0
    return runs
