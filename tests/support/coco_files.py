"""Small files in COCO's format."""

import numpy as np

from repro.data.coco import CATEGORY_IDS, CLASSES

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
CATEGORIES = [{"id": i, "name": name, "supercategory": "x"} for i, name in zip(CATEGORY_IDS, CLASSES, strict=True)]
TRIANGLE = [[2.5, 1.0, 10.0, 1.25, 6.0, 9.5]]
TWO = [[0, 0, 4, 0, 4, 3, 0, 3], [8.2, 4.1, 15.9, 4.1, 15.9, 11.7, 8.2, 11.7]]
RUNS = {"counts": [13, 9, 3, 9, 158], "size": [12, 16]}


def thing(number, image=139, category=18, box=(2.5, 1.0, 7.5, 8.5), mask=TRIANGLE, crowd=0):
    """An annotation."""
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": 9.5,
        "iscrowd": crowd,
        "segmentation": mask,
    }


def picture(number, size=(12, 16)):
    """An entry of an image."""
    return {"id": number, "file_name": f"{number:012}.jpg", "height": size[0], "width": size[1], "license": 3}


OBJECTS = [
    thing(7),
    thing(3, category=90, box=(0, 0, 15.9, 11.7), mask=TWO),
    thing(900100, category=1, box=(1, 1, 2, 9), mask=RUNS, crowd=1),
    thing(5, image=25, box=(15, 11, 1, 1), mask=[[15, 11, 16, 11, 16, 12, 15, 12]]),
]


def instances(objects=OBJECTS, images=(397, 139, 25), **others):
    """A whole annotation file."""
    content = {"info": {}, "images": list(map(picture, images)), "annotations": objects, "categories": CATEGORIES}
    return content | others
