"""Data sets of two pictures in the official layouts, written by the tests that read them."""

import json

import numpy as np
from PIL import Image

SQUARE = [[2, 3, 12, 3, 12, 13, 2, 13]]


def picture(path, width=40, height=30, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)).convert(mode).save(path)


def voc_object(name, box, difficult=0):
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def voc_set(root, objects, names=("a", "b")):
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("\n".join(names) + "\n")
    for name in names:
        picture(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{''.join(objects.get(name, []))}</annotation>")
    return root


def coco_set(root, annotations, images=2):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    rows = [{"id": 10 + i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in range(images)]
    for row in rows:
        picture(root / "train2017" / row["file_name"])
    content = {"images": rows, "annotations": annotations,
               "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]}
    for task in ("instances", "person_keypoints"):
        (root / "annotations" / f"{task}_train2017.json").write_text(json.dumps(content))
    return root


def row(number, **changes):
    return {"id": number, "image_id": 10, "category_id": 18, "bbox": [2, 3, 10, 10], "area": 100, "iscrowd": 0,
            "segmentation": SQUARE, **changes}


def panoptic_set(root):
    """A picture of sky, one dog and grass; the middle right is nothing."""
    ids = np.zeros((30, 40), dtype=np.int64)
    ids[:10], ids[10:20, :20], ids[20:] = 7, 70000, 300
    pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    (root / "annotations/panoptic_train2017").mkdir(parents=True)
    Image.fromarray(pixels).save(root / "annotations/panoptic_train2017/0.png")
    picture(root / "train2017/0.jpg")
    segments = [{"id": 7, "category_id": 1, "bbox": [0, 0, 40, 10], "area": 400, "iscrowd": 0},
                {"id": 70000, "category_id": 5, "bbox": [0, 10, 20, 10], "area": 200, "iscrowd": 0},
                {"id": 300, "category_id": 9, "bbox": [0, 20, 40, 10], "area": 400, "iscrowd": 0}]
    content = {"images": [{"id": 1, "file_name": "0.jpg", "width": 40, "height": 30}],
               "annotations": [{"image_id": 1, "file_name": "0.png", "segments_info": segments}],
               "categories": [{"id": 1, "name": "sky", "isthing": 0}, {"id": 5, "name": "dog", "isthing": 1},
                              {"id": 9, "name": "grass", "isthing": 0}]}
    file = root / "annotations/panoptic_train2017.json"
    file.write_text(json.dumps(content))
    return file, ids


def nuclei_set(root):
    for name in "abcdefgh":
        picture(root / "nuclei/stage1_train" / name / "images" / f"{name}.png")
        picture(root / "nuclei/stage1_train" / name / "masks/0.png", mode="1")
