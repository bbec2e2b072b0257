"""A tiny copy of every data set in its official layout, and hashes of the samples that its loader makes of it.

Pictures are PNG, whatever their files are called: decoders of JPEG differ.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repro import paths
from repro.data.catalog import open_dataset

SIZE = (12, 16)
# options under which a loader has more to say, or less to do
OPTIONS = {
    "isbi2012": {"fold": 1, "weight_map": True},
    "shapes": {"image_size": (32, 40), "void_border": 1, "train_size": 2, "val_size": 1, "test_size": 2},
}
WRITERS: dict[str, Callable[[Path], Any]] = {"shapes": lambda root: None}


def loader_values(name: str) -> dict[str, Any]:
    """Hashes of a loader's class names and of the samples of each split, from its tiny copy in the data folder; the
    means of its pixels' weights, which are sums of exponentials."""
    records = WRITERS[name](paths.data_dir())
    with mocked(records) if records else contextlib.nullcontext():
        data = open_dataset(name, **OPTIONS.get(name, {}))
        splits = {split: [data.sample(split, i) for i in range(data.size(split))] for split in data.info.splits}
    weights = [sample.pixel_weight for samples in splits.values() for sample in samples]
    found: dict[str, Any] = {split: samples_hash(samples) for split, samples in splits.items()}
    if weights[0] is not None:
        found["pixel_weight"] = [float(np.mean(weight)) for weight in weights[:3]]
    return found | {"names": digest(*data.info.classes, "|", *data.info.semantic_classes)}


def digest(*parts: Any) -> str:
    """The first 16 digits of a SHA-256 over arrays, with their types and shapes, and words."""
    total = hashlib.sha256()
    for part in parts:
        text = f"{part.dtype} {part.shape}\n" if isinstance(part, np.ndarray) else f"{part}\n"
        total.update(text.encode() + (part.tobytes() if isinstance(part, np.ndarray) else b""))
    return total.hexdigest()[:16]


def samples_hash(samples: list[Any]) -> str:
    """All that samples say, but for the weights of pixels, whose last digits differ by machine."""
    fields = [field.name for field in dataclasses.fields(samples[0]) if field.name != "pixel_weight"]
    return digest(*(part for sample in samples for name in fields for part in (name, getattr(sample, name))))


def mocked(records: list[dict[str, Any]]) -> Any:
    """TensorFlow Datasets with these records in every split."""
    import tensorflow_datasets as tfds

    return tfds.testing.mock_data(as_data_source_fn=lambda *_, **__: records)


def writes(*names: str) -> Callable[[Any], Any]:
    """Enter a function of the data folder as what writes these data sets; of those of TFDS it gives the records."""

    def enter(function: Any) -> Any:
        WRITERS.update(dict.fromkeys(names, function))
        return function

    return enter


def photo(number: int = 0, size: tuple[int, ...] = (*SIZE, 3)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, size, np.uint8)


def encoded(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels))


def text(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@writes("camvid")
def camvid(root: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        save(root / "CamVid" / split / "a.png", photo(number))
        save(root / "CamVid" / f"{split}annot" / "a.png", np.resize(np.arange(12, dtype=np.uint8), SIZE))


@writes("isbi2012")
def isbi2012(root: Path) -> None:
    (root / "ISBI2012").mkdir(parents=True, exist_ok=True)
    for name, pixels in (("volume", photo(0, (30, *SIZE))), ("labels", (photo(1, (30, *SIZE)) > 70) * np.uint8(255))):
        first, *others = map(Image.fromarray, pixels)
        first.save(root / "ISBI2012" / f"train-{name}.tif", save_all=True, append_images=others)


@writes("dubai")
def dubai(root: Path) -> None:
    codes = ("3C1098", "8429F6", "6EC1E4", "FEDD3A", "E2A929", "9B9B9B", "000000")
    colours = np.array([list(bytes.fromhex(code)) for code in codes], np.uint8)
    for tile in range(1, 9):
        folder = root / "Semantic segmentation dataset" / f"Tile {tile}"
        save(folder / "images" / "image_part_001.jpg", photo(tile))
        save(folder / "masks" / "image_part_001.png", colours[(np.arange(192).reshape(SIZE) + tile) % 7])


@writes("voc2012_seg")
def voc2012_seg(root: Path) -> None:
    folder = root / "VOCdevkit" / "VOC2012"
    for number, split in enumerate(("train", "val")):
        text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", f"2007_00000{number}\n")
        save(folder / "JPEGImages" / f"2007_00000{number}.jpg", photo(number))
        labels = np.array([*range(21), 255], np.uint8)
        save(folder / "SegmentationClass" / f"2007_00000{number}.png", np.resize(labels, SIZE))


def voc(folder: Path, kinds: tuple[str, ...], corners: tuple[float, ...] = (3, 2, 9, 11)) -> None:
    """Two objects an image, the second difficult and out of its image by a pixel."""

    tags = ("xmin", "ymin", "xmax", "ymax")

    def thing(kind: str, flags: str, corners: tuple[float, ...]) -> str:
        box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, corners, strict=True))
        return f"<object><name>{kind}</name>{flags}<bndbox>{box}</bndbox></object>"

    flags = "<truncated>1</truncated>", "<difficult>1</difficult>"
    things = "".join(map(thing, kinds, flags, (corners, (1, 4, 17, 12))))
    about = f"<annotation><size><width>16</width><height>12</height></size>{things}</annotation>"
    for number, split in enumerate(("train", "val", "trainval", "test")):
        text(folder / "ImageSets" / "Main" / f"{split}.txt", f"00000{number}\n")
        save(folder / "JPEGImages" / f"00000{number}.jpg", photo(number))
        text(folder / "Annotations" / f"00000{number}.xml", about)


@writes("voc2007")
def voc2007(root: Path) -> None:
    voc(root / "VOCdevkit" / "VOC2007", ("dog", "person"))


@writes("voc2012")
def voc2012(root: Path) -> None:
    voc(root / "VOCdevkit" / "VOC2012", ("cat", "tvmonitor"), (3.5, 2, 9.25, 11))


@writes("bccd")
def bccd(root: Path) -> None:
    voc(root / "BCCD", ("Platelets", "RBC"))


def coco_json(kind: str, categories: list[dict[str, Any]], images: tuple[int, ...], name: str) -> dict[str, Any]:
    """Three objects: of two polygons, beyond the image's border; a crowd of run lengths; one without a height."""
    runs = {"counts": [13, 9, 3, 9, 158], "size": SIZE}
    outlines = [[2.5, 1, 10, 1.25, 6, 9.5], [8.2, 4.1, 16.5, 4.1, 15.9, 11.7]], runs, [[9, 8, 9, 8, 10, 8, 10, 8]]
    boxes = (2.5, 1, 14, 10.7), (1, 1, 2, 9), (9, 8, 1, 0)
    objects = [
        {"id": 9 - n, "image_id": images[-1], "category_id": categories[n % len(categories)]["id"], "bbox": boxes[n],
         "area": 9.5, "iscrowd": int(n == 1), "segmentation": outlines[n]}
        for n in range(3)
    ]  # fmt: skip
    pictures = [{"id": n, "file_name": name.format(n), "height": SIZE[0], "width": SIZE[1]} for n in images]
    return {"info": kind, "images": pictures, "annotations": objects, "categories": categories}


def coco_folder(folder: Path, splits: tuple[str, ...], categories: list[dict[str, Any]], name: str) -> None:
    for split in splits:
        content = coco_json(split, categories, (25, 7), name)
        text(folder / "annotations" / f"instances_{split}.json", content)
        for image in content["images"]:
            save(folder / split / image["file_name"], photo(image["id"]))


@writes("coco2017")
def coco2017(root: Path) -> None:
    kinds = [{"id": 18, "name": "dog"}, {"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}]
    coco_folder(root / "coco", ("train2017", "val2017"), kinds, "{:012}.jpg")


@writes("coco2017_joined")
def coco2017_joined(root: Path) -> list[dict[str, Any]]:
    coco2017(root)
    return [{"image": encoded(photo(number)), "image/id": np.int64(number)} for number in (25, 7)]


@writes("nuclei")
def nuclei(root: Path) -> None:
    coco_folder(root / "nuclei", ("train", "val", "test"), [{"id": 1, "name": "nucleus"}], "{:016x}.png")


@writes("penn_fudan")
def penn_fudan(root: Path) -> None:
    numbers = np.zeros(SIZE, np.uint8)
    numbers[1:12, 3:7], numbers[4:6, 0:3], numbers[4:7, 7:16] = 1, 3, 3
    for number, stem in enumerate(("FudanPed00052", "PennPed00069", "FudanPed00062", "PennPed00096")):
        save(root / "PennFudanPed" / "PNGImages" / f"{stem}.png", photo(number))
        save(root / "PennFudanPed" / "PedMasks" / f"{stem}_mask.png", numbers)


@writes("cityscapes_instances")
def cityscapes_instances(root: Path) -> None:
    labels = [24, 25, 26, 27, 28, 31, 32, 33]
    values = np.full(SIZE, 7, np.uint16)
    values.flat[:8], values.flat[20:36] = labels, np.repeat([1000 * label + 7 for label in labels], 2)
    values[6, 3:5], values[11, 0] = 29000, 0
    for split, scene in (("train", "aachen_000000_000019"), ("val", "lindau_000000_000019")):
        city = scene.partition("_")[0]
        save(root / "cityscapes" / "leftImg8bit" / split / city / f"{scene}_leftImg8bit.png", photo())
        save(root / "cityscapes" / "gtFine" / split / city / f"{scene}_gtFine_instanceIds.png", values)


@writes("tiny_imagenet")
def tiny_imagenet(root: Path) -> None:
    folder = root / "tiny-imagenet-200"
    for number, wnid in enumerate(("n02124075", "n01443537", "n12267677")):
        for image in range(2 - number % 2):
            save(folder / "train" / wnid / "images" / f"{wnid}_{image}.JPEG", photo(2 * number + image))
    text(folder / "wnids.txt", "n02124075\nn01443537\nn12267677")
    for number in range(2):
        save(folder / "val" / "images" / f"val_{number}.JPEG", photo(9 - number))
    text(
        folder / "val" / "val_annotations.txt", "val_1.JPEG\tn12267677\t0\t0\t9\t9\nval_0.JPEG\tn01443537\t0\t0\t9\t9\n"
    )


@writes("imagenette", "imagenet2012")
def labelled_records(root: Path) -> list[dict[str, Any]]:
    names = (b"b.JPEG", b"a.JPEG")
    return [{"image": encoded(photo(n)), "label": np.int64(9 - n), "file_name": names[n]} for n in range(2)]


@writes("voc2007_tfds", "voc2012_tfds")
def voc_records(root: Path) -> list[dict[str, Any]]:
    objects = {
        "bbox": np.array([(2 / 12, 3 / 16, 11 / 12, 9 / 16), (1 / 12, 1 / 16, 1, 1)], np.float32),
        "label": np.array([11, 19]), "is_difficult": np.array([False, True]), "is_truncated": np.array([True, False]),
    }  # fmt: skip
    return [{"image": encoded(photo()), "image/filename": b"000007.jpg", "objects": objects}]


@writes("coco2017_tfds")
def coco_records(root: Path) -> list[dict[str, Any]]:
    boxes = [(1 / 12, 2.5 / 16, 9.5 / 12, 10 / 16), (3 / 12, 4 / 16, 3 / 12, 5 / 16), (0, 0, 1, 1)]
    objects = {
        "bbox": np.array(boxes, np.float32), "label": np.array([16, 5, 79]), "is_crowd": np.array([False, False, True]),
    }  # fmt: skip
    return [{"image": encoded(photo()), "image/id": np.int64(139), "objects": objects}]


@writes("oxford_iiit_pet")
def pet_records(root: Path) -> list[dict[str, Any]]:
    trimap = encoded(np.resize(np.array([1, 2, 3], np.uint8), SIZE))
    return [
        {"file_name": f"{n}.jpg".encode(), "image": encoded(photo(n)), "segmentation_mask": trimap} for n in range(11)
    ]


@writes("cityscapes")
def cityscapes_records(root: Path) -> list[dict[str, Any]]:
    labels = encoded(np.resize(np.array([*range(34), 255], np.uint8), SIZE))
    return [{"image_id": b"ulm_000001_000019", "image_left": encoded(photo()), "segmentation_label": labels}]
