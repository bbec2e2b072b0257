"""Tiny ImageNet (Stanford CS231n, 2015): 200 classes of ImageNet, 100000 / 10000 images of 64x64.

Layout: `tiny-imagenet-200/{wnids.txt,train/<wnid>/images,val/images,val/val_annotations.txt}`, as unpacked from the
official archive. Classes are numbered in the order of their WordNet ids, as torchvision's ImageFolder does; the
official wnids.txt has them in another order. The labels of the test set are not public.
"""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

import numpy as np

from repro.data.base import Info, Sample
from repro.data.download import Archive
from repro.data.folder import Folder, read_lines, report_missing
from repro.data.images import is_image, probe, read_image
from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
# unpacked: 110,000 files of 2 kB, each in a block of 4 kB
ARCHIVE = Archive(
    dataset="tiny_imagenet", url="http://cs231n.stanford.edu/tiny-imagenet-200.zip", size=248_100_043,
    unpacked=500_000_000, checksum="md5:90528d7ca1a48142e341f4ef8d21d0de",
)  # fmt: skip
_SIZE = (64, 64)
_AGAIN = f"unpack {ARCHIVE.filename} again"
# with the first of the names that words.txt gives them, so that predictions can be named without the data
_WORDS = """
n01443537 goldfish; n01629819 European fire salamander; n01641577 bullfrog; n01644900 tailed frog; n01698640 American
alligator; n01742172 boa constrictor; n01768244 trilobite; n01770393 scorpion; n01774384 black widow; n01774750
tarantula; n01784675 centipede; n01855672 goose; n01882714 koala; n01910747 jellyfish; n01917289 brain coral;
n01944390 snail; n01945685 slug; n01950731 sea slug; n01983481 American lobster; n01984695 spiny lobster; n02002724
black stork; n02056570 king penguin; n02058221 albatross; n02074367 dugong; n02085620 Chihuahua; n02094433 Yorkshire
terrier; n02099601 golden retriever; n02099712 Labrador retriever; n02106662 German shepherd; n02113799 standard
poodle; n02123045 tabby; n02123394 Persian cat; n02124075 Egyptian cat; n02125311 cougar; n02129165 lion; n02132136
brown bear; n02165456 ladybug; n02190166 fly; n02206856 bee; n02226429 grasshopper; n02231487 walking stick; n02233338
cockroach; n02236044 mantis; n02268443 dragonfly; n02279972 monarch; n02281406 sulphur butterfly; n02321529 sea
cucumber; n02364673 guinea pig; n02395406 hog; n02403003 ox; n02410509 bison; n02415577 bighorn; n02423022 gazelle;
n02437312 Arabian camel; n02480495 orangutan; n02481823 chimpanzee; n02486410 baboon; n02504458 African elephant;
n02509815 lesser panda; n02666196 abacus; n02669723 academic gown; n02699494 altar; n02730930 apron; n02769748
backpack; n02788148 bannister; n02791270 barbershop; n02793495 barn; n02795169 barrel; n02802426 basketball; n02808440
bathtub; n02814533 beach wagon; n02814860 beacon; n02815834 beaker; n02823428 beer bottle; n02837789 bikini; n02841315
binoculars; n02843684 birdhouse; n02883205 bow tie; n02892201 brass; n02906734 broom; n02909870 bucket; n02917067
bullet train; n02927161 butcher shop; n02948072 candle; n02950826 cannon; n02963159 cardigan; n02977058 cash machine;
n02988304 CD player; n02999410 chain; n03014705 chest; n03026506 Christmas stocking; n03042490 cliff dwelling;
n03085013 computer keyboard; n03089624 confectionery; n03100240 convertible; n03126707 crane; n03160309 dam; n03179701
desk; n03201208 dining table; n03250847 drumstick; n03255030 dumbbell; n03355925 flagpole; n03388043 fountain;
n03393912 freight car; n03400231 frying pan; n03404251 fur coat; n03424325 gasmask; n03444034 go-kart; n03447447
gondola; n03544143 hourglass; n03584254 iPod; n03599486 jinrikisha; n03617480 kimono; n03637318 lampshade; n03649909
lawn mower; n03662601 lifeboat; n03670208 limousine; n03706229 magnetic compass; n03733131 maypole; n03763968 military
uniform; n03770439 miniskirt; n03796401 moving van; n03804744 nail; n03814639 neck brace; n03837869 obelisk; n03838899
oboe; n03854065 organ; n03891332 parking meter; n03902125 pay-phone; n03930313 picket fence; n03937543 pill bottle;
n03970156 plunger; n03976657 pole; n03977966 police van; n03980874 poncho; n03983396 pop bottle; n03992509 potter's
wheel; n04008634 projectile; n04023962 punching bag; n04067472 reel; n04070727 refrigerator; n04074963 remote control;
n04099969 rocking chair; n04118538 rugby ball; n04133789 sandal; n04146614 school bus; n04149813 scoreboard; n04179913
sewing machine; n04251144 snorkel; n04254777 sock; n04259630 sombrero; n04265275 space heater; n04275548 spider web;
n04285008 sports car; n04311004 steel arch bridge; n04328186 stopwatch; n04356056 sunglasses; n04366367 suspension
bridge; n04371430 swimming trunks; n04376876 syringe; n04398044 teapot; n04399382 teddy; n04417672 thatch; n04456115
torch; n04465501 tractor; n04486054 triumphal arch; n04487081 trolleybus; n04501370 turnstile; n04507155 umbrella;
n04532106 vestment; n04532670 viaduct; n04540053 volleyball; n04560804 water jug; n04562935 water tower; n04596742
wok; n04597913 wooden spoon; n06596364 comic book; n07579787 plate; n07583066 guacamole; n07614500 ice cream;
n07615774 ice lolly; n07695742 pretzel; n07711569 mashed potato; n07715103 cauliflower; n07720875 bell pepper;
n07734744 mushroom; n07747607 orange; n07749582 lemon; n07753592 banana; n07768694 pomegranate; n07871810 meat loaf;
n07873807 pizza; n07875152 potpie; n07920052 espresso; n09193705 alp; n09246464 cliff; n09256479 coral reef; n09332890
lakeside; n09428293 seashore; n12267677 acorn
"""
_NAMES = dict(sorted(entry.split(maxsplit=1) for entry in " ".join(_WORDS.split()).split("; ")))
_LABELS = {wnid: label for label, wnid in enumerate(_NAMES)}


class TinyImageNet(Folder):
    """Small photographs of 200 classes, from `tiny-imagenet-200` of the data folder. Grey ones become RGB.

    Training images come one of each class in turn, so that the first n are spread over the classes. The images of the
    test are not unpacked."""

    folder = "tiny-imagenet-200"
    archive = ARCHIVE
    counts: ClassVar[dict[str, int]] = {"train": 100_000, "val": 10_000}
    info = Info(
        name="tiny_imagenet", title="Tiny ImageNet", source=ARCHIVE.url, version="tiny-imagenet-200",
        licence="ImageNet terms of access: non-commercial research and education",
        size="100000 + 10000 images of 64x64, 0.25 GB to download", splits=tuple(counts), tasks=("classification",),
        classes=tuple(_NAMES.values()), checksum=ARCHIVE.checksum,
    )  # fmt: skip

    def official(self, split: str) -> tuple[bool, str]:
        """Whether the split has the published number of images of each class, the first of each a JPEG of 64x64.

        No checksum of single files is published."""
        items, wanted = self._items(split), self.counts[split]
        if len(items) != wanted:
            return False, f"{len(items)} of {wanted} images"
        each = wanted // len(_LABELS)
        counts = np.bincount([label for _, label in items], minlength=len(_LABELS))
        if (counts != each).any():
            odd = int(np.flatnonzero(counts != each)[0])
            return False, f"{counts[odd]} images of {self.info.classes[odd]} instead of {each}"
        for path in {label: path for path, label in reversed(items)}.values():
            encoding, size = probe(path)
            if (encoding, size) != ("JPEG", _SIZE):
                return False, f"{encoding} images of {size[0]}x{size[1]} instead of JPEG of {_SIZE[0]}x{_SIZE[1]}"
        return True, ""

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3], 64x64 in the official copy (others are taken as they are), and label 0..199.

        Raises ReproError naming the file when it is damaged."""
        path, label = self._items(split)[index]
        return Sample(path.stem, read_image(path), label=label)

    def _wanted(self, name: str) -> bool:
        return not name.startswith(f"{self.folder}/test/")

    def _find(self, split: str) -> list[tuple[Path, int]]:
        wnids = _read_wnids(self._root / "wnids.txt")
        return (_train if split == "train" else _val)(self._root / split, wnids)

    def _identity(self, split: str) -> Iterator[bytes]:
        """Label, file name and file size in bytes. Contents are not read, which would take minutes on a slow disk: a
        file changed without a change of its size does not show."""
        for path, label in self._items(split):
            yield f"{label} {path.name} {path.stat().st_size}\n".encode()


def _train(folder: Path, wnids: list[str]) -> list[tuple[Path, int]]:
    classes = [[(path, _LABELS[wnid]) for path in _images(folder / wnid / "images")] for wnid in wnids]
    return [item for turn in zip_longest(*classes) for item in turn if item is not None]


def _val(folder: Path, wnids: list[str]) -> list[tuple[Path, int]]:
    annotations = folder / "val_annotations.txt"
    images = {path.name: path for path in _images(folder / "images")}
    labels: dict[str, int] = {}
    for number, line in read_lines(annotations):
        name, *rest = line.split("\t")
        wnid = rest[0] if rest else ""
        if wnid not in wnids:
            raise ReproError(f"{annotations} line {number} names the class {wnid[:60]!r}, not in wnids.txt", _AGAIN)
        if name not in images:
            raise ReproError(f"{folder / 'images' / name}, named in {annotations} line {number}, is missing", _AGAIN)
        if name in labels:
            raise ReproError(f"{annotations} names {name} again in line {number}", _AGAIN)
        labels[name] = _LABELS[wnid]
    unlabelled = [images[name] for name in sorted(images.keys() - labels.keys())]
    report_missing(unlabelled, f"is not in {annotations}", _AGAIN)
    return [(images[name], label) for name, label in labels.items()]


def _read_wnids(path: Path) -> list[str]:
    wnids: list[str] = []
    for number, wnid in read_lines(path):
        if not re.fullmatch(r"n\d{8}", wnid):
            raise ReproError(f"{path} line {number} is {wnid[:60]!r}, not a WordNet id like n01443537", _AGAIN)
        if wnid not in _LABELS or wnid in wnids:
            fault = "which is no class of Tiny ImageNet" if wnid not in _LABELS else "which it names before"
            raise ReproError(f"{path} line {number} names {wnid}, {fault}", _AGAIN)
        wnids.append(wnid)
    if not wnids:
        raise ReproError(f"{path} names no class", _AGAIN)
    return sorted(wnids)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ReproError(f"{folder} does not exist", _AGAIN)
    images = [path for path in sorted(folder.iterdir()) if is_image(path)]
    if not images:
        raise ReproError(f"{folder} holds no images", _AGAIN)
    return images
