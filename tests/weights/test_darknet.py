"""Files of Darknet: what is written is read back, and OpenCV's own importer of Darknet computes the same from it."""

import struct
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest

from repro import backend
from repro.errors import ReproError
from repro.models import darknet, vgg, yolo_v1, yolo_v2, yolo_v3
from repro.models.darknet import (
    Answer,
    AveragePool,
    Connected,
    Conv,
    Dropout,
    MaxPool,
    Reorg,
    Route,
    Shortcut,
    Upsample,
    stack,
)
from repro.weights.darknet import file_layers, read_weights, write_cfg, write_weights
from tests.parity.networks import fill
from tests.support.messages import one_line

SIZE = (128, 192)
WIDTH = 1 / 16
CLASSES = 3


def classifier(name, depth):
    return lambda **settings: (
        getattr(darknet, name)(variant="paper", depth=depth, **settings),
        darknet.classifier_rows(name, settings["num_classes"], depth),
    )


def yolo_v1_line(name, variant, depth):
    grid = {} if name == "extraction" else {"grid": (SIZE[0] // 64, SIZE[1] // 64)}
    return lambda **settings: (
        getattr(yolo_v1, name)(variant=variant, depth=depth, **settings),
        yolo_v1.rows(name, settings["num_classes"], variant=variant, depth=depth, **grid),
    )


def yolo(module, name, variant, depth):
    return lambda **settings: (
        getattr(module, name)(variant=variant, depth=depth, **settings),
        module.rows(settings["num_classes"], variant=variant, depth=depth),
    )


# case -> builds the network and gives its rows
CASES = {
    "darknet19": classifier("darknet19", 0.5),
    "darknet53": classifier("darknet53", 0.3),
    "extraction-paper": yolo_v1_line("extraction", "paper", 0.3),
    "extraction-released": yolo_v1_line("extraction", "released", 0.3),
    "yolo_v1": yolo_v1_line("yolo_v1", "paper", 0.3),
    "fast_yolo": yolo_v1_line("fast_yolo", "paper", 1.0),
    "yolo_v2-paper": yolo(yolo_v2, "yolo_v2", "paper", 0.01),
    "yolo_v2-released": yolo(yolo_v2, "yolo_v2", "released", 0.01),
    "yolo_v3": yolo(yolo_v3, "yolo_v3", "paper", 0.01),
}
SMALL = {"num_classes": CLASSES, "input_size": SIZE, "channels": 3, "width": WIDTH}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Small networks by case, none of their numbers those of a fresh one, their rows and their files."""
    made = {}

    def get(case):
        if case not in made:
            backend.set_precision("float32")
            model, rows = CASES[case](**SMALL)
            fill(model)
            path = tmp_path_factory.mktemp(case) / f"{case}.weights"
            write_weights(path, model, seen=12_800)
            made[case] = SimpleNamespace(model=model, rows=rows, path=path)
        return made[case]

    return get


def values_of(model):
    return {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.weights}


def differing(model, values):
    """Names of the layers whose variables are not these values."""
    found = values_of(model)
    return {path.partition("/")[0] for path, value in values.items() if (found[path] != value).any()}


def small(rows, size, channels=3, reorg=None):
    """A filled network of rows."""
    image = keras.Input((*size, channels), name="image")
    model = keras.Model(image, stack(darknet.normalise(image, channels), rows, reorg=reorg)["last"], name="small")
    fill(model)
    return model


# weights


@pytest.mark.parametrize("case", CASES)
def test_written_weights_are_read_back(networks, case):
    made = networks(case)
    fresh, _ = CASES[case](**SMALL)
    expected = values_of(made.model)
    weighted = {layer.name for layer in fresh.layers if layer.weights}
    assert differing(fresh, expected) == weighted
    assert read_weights(made.path, fresh) == sum(not name.startswith("bn") for name in weighted)
    assert not differing(fresh, expected)
    content = made.path.read_bytes()
    assert struct.unpack("<3iq", content[:20]) == (0, 2, 0, 12_800)
    assert len(content) == 20 + 4 * fresh.count_params()
    again = made.path.with_name("again.weights")
    write_weights(again, fresh, seen=12_800)
    assert again.read_bytes() == content
    assert sorted(file.name for file in made.path.parent.iterdir()) == ["again.weights", made.path.name]
    again.unlink()


def test_order_of_the_numbers(tmp_path):
    """As load_convolutional_weights and load_connected_weights read them, one by one."""
    rows = [Conv(2, 3), Conv(3, 1, norm=False), Connected(4), Connected(2, "linear", fixed=True)]
    model = small(rows, (2, 5))
    path = tmp_path / "a.weights"
    write_weights(path, model)
    numbers = iter(np.frombuffer(path.read_bytes()[20:], "<f4"))
    of = {layer.name: layer for layer in model.layers}
    for n, names in (("1", ("beta", "gamma", "moving_mean", "moving_variance")), ("2", ())):
        conv = of[f"conv{n}"]
        for variable in [getattr(of["bn1"], name) for name in names] or [conv.bias]:
            assert [next(numbers) for _ in range(conv.filters)] == np.asarray(variable).tolist()
        kernel = np.asarray(conv.kernel)
        for out in range(kernel.shape[3]):
            for channel in range(kernel.shape[2]):
                for row in range(kernel.shape[0]):
                    for column in range(kernel.shape[1]):
                        assert next(numbers) == kernel[row, column, channel, out]
    assert [next(numbers) for _ in range(4)] == np.asarray(of["fc1"].bias).tolist()
    kernel = np.asarray(of["fc1"].kernel)
    for out in range(4):
        for channel in range(3):
            for row in range(2):
                for column in range(5):
                    assert next(numbers) == kernel[(row * 5 + column) * 3 + channel, out]
    assert [next(numbers) for _ in range(2)] == np.asarray(of["fc2"].bias).tolist()
    kernel = np.asarray(of["fc2"].kernel)
    assert [next(numbers) for _ in range(8)] == kernel.T.ravel().tolist()
    assert not list(numbers)


HEADERS = {
    "0.1": struct.pack("<4i", 0, 1, 0, 64),
    "0.2": struct.pack("<3iq", 0, 2, 5, 1 << 40),
    "1.0": struct.pack("<3iq", 1, 0, 0, 64),
    "early": struct.pack("<3fi", 0.001, 0.9, 0.0005, 64),  # learning rate, momentum, decay
}


@pytest.mark.parametrize("header", HEADERS)
def test_headers_of_all_versions(tmp_path, header):
    """Files before versions have their fully connected weights inputs first."""
    source, target = (small([Conv(3, 1), Connected(4), Connected(2, "linear", fixed=True)], (2, 5)) for _ in range(2))
    for variable in target.variables:
        variable.assign(variable * 0)
    path = tmp_path / "a.weights"
    write_weights(path, source)
    numbers = np.frombuffer(path.read_bytes()[20:], "<f4")
    if header == "early":
        *rest, first, bias, second = np.split(numbers, np.cumsum([3 * 4 + 9 + 4, 4 * 30, 2]))
        numbers = np.concatenate([*rest, first.reshape(4, 30).T.ravel(), bias, second.reshape(2, 4).T.ravel()])
    path.write_bytes(HEADERS[header] + numbers.tobytes())
    assert read_weights(path, target) == 3
    assert not differing(target, values_of(source))


def test_backbones_fill_the_first_layers(networks, tmp_path):
    """darknet19_448.conv.23 and darknet53.conv.74 are their classifier's file, cut before its last layer."""
    for name, case in (("darknet19", "yolo_v2-released"), ("darknet53", "yolo_v3")):
        classifier, _ = CASES[case](**SMALL)
        backbone = darknet.darknet19_rows(0.01) if name == "darknet19" else darknet.darknet53_rows(0.01)
        image = keras.Input((*SIZE, 3), name="image")
        source = keras.Model(image, stack(darknet.normalise(image), backbone, WIDTH)["last"])
        fill(source)
        source.get_layer("conv2").kernel.assign(source.get_layer("conv2").kernel * 2)
        path = tmp_path / f"{name}.conv"
        write_weights(path, source)
        count = sum(isinstance(row, Conv) for row in backbone)
        detector, _ = CASES[case](**SMALL)
        before = values_of(detector)
        with pytest.raises(ReproError) as error:
            read_weights(path, detector)
        one_line(error, path, f"{source.count_params():,}", f"{detector.count_params():,}", f"first {count} layers")
        assert not differing(detector, before)
        assert read_weights(path, detector, partial=True) == count
        assert not differing(detector, values_of(source))
        weighted = {f"{kind}{n}" for n in range(1, count + 1) for kind in ("conv", "bn")}
        assert differing(detector, before) == weighted
        # and the classifier itself, whose file is that backbone and one layer more
        classifier = getattr(darknet, name)(variant="paper", depth=0.01, **SMALL)
        assert read_weights(path, classifier, partial=True) == count
        assert not differing(classifier, values_of(source))


def test_a_whole_file_is_a_partial_one_too(networks):
    made = networks("darknet19")
    fresh, _ = CASES["darknet19"](**SMALL)
    assert read_weights(made.path, fresh, partial=True) == 11
    assert not differing(fresh, values_of(made.model))


@pytest.fixture(scope="module")
def target():
    """A network that no file may change, and what it holds."""
    model = darknet.darknet19(variant="paper", depth=0.01, **SMALL)
    return model, values_of(model)


def broken(content):
    """Damage -> the file's content, and what its message says."""
    count, numbers = (len(content) - 20) // 4, np.frombuffer(content[20:], "<f4").copy()
    nan, negative = numbers.copy(), numbers.copy()
    nan[-1] = np.nan
    negative[3 * 2] = -1  # the first of conv1's variances
    return {
        "cut": (content[:-4], [f"{count - 1:,} numbers", f"{count:,}"]),
        "cut within a number": (content[:-3], [f"{count - 1:,} numbers and 1 of 4 bytes", f"{count:,}"]),
        "longer": (content + b"\0" * 4, [f"{count + 1:,} numbers", f"{count:,}"]),
        "one byte longer": (content + b"\0", [f"{count:,} numbers and 1 of 4 bytes", f"{count:,}"]),
        "empty": (b"", ["0 bytes", "header"]),
        "a web page": (b"<!DOCTYPE html>", ["15 bytes", "header"]),
        "header alone": (content[:20], ["0 numbers", f"{count:,}"]),
        "not finite": (content[:20] + nan.tobytes(), ["not finite", "conv7"]),
        "negative variances": (content[:20] + negative.tobytes(), ["negative variances", "conv1"]),
    }


def test_damaged_files_are_refused(target, tmp_path):
    model, values = target
    write_weights(tmp_path / "whole.weights", model)
    for damage, (content, parts) in broken((tmp_path / "whole.weights").read_bytes()).items():
        path = tmp_path / f"{damage}.weights"
        path.write_bytes(content)
        for partial in (False, True):
            with pytest.raises(ReproError) as error:
                read_weights(path, model, partial=partial)
            one_line(error, path, *(parts if not partial else parts[:1]))
        assert not differing(model, values)
    assert len(list(tmp_path.iterdir())) == 10


def test_partial_files_end_with_a_layer(networks, target, tmp_path):
    model, values = target
    layers = file_layers(model)
    ends = np.cumsum([layer.size for layer in layers])
    write_weights(tmp_path / "whole.weights", model)
    content = (tmp_path / "whole.weights").read_bytes()
    for numbers, parts in (
        (ends[3] + 7, [f"{ends[3] + 7:,}", f"{ends[3]:,} up to conv4", f"{ends[4]:,} up to conv5"]),
        (ends[0] - 1, [f"{ends[0] - 1:,}", "conv1", f"{ends[0]:,}"]),
        (ends[-1] + 1, [f"{ends[-1] + 1:,}", f"all 7 layers of darknet19 take {ends[-1]:,}"]),
    ):
        path = tmp_path / "part.weights"
        path.write_bytes((content + b"\0" * 4)[: 20 + 4 * numbers])
        with pytest.raises(ReproError) as error:
            read_weights(path, model, partial=True)
        one_line(error, path, *parts)
        assert not differing(model, values)


def test_files_of_others_are_refused(networks, target, tmp_path):
    model, values = target
    other = networks("darknet53")
    with pytest.raises(ReproError) as error:
        read_weights(other.path, model)
    one_line(error, other.path, f"{other.model.count_params():,}", f"darknet19 takes {model.count_params():,}", "width")
    for path, what in ((tmp_path / "none.weights", "No such file"), (tmp_path, "directory")):
        with pytest.raises(ReproError) as error:
            read_weights(path, model)
        one_line(error, path, what)
    assert not differing(model, values)
    classifier = vgg.vgg16(**SMALL | {"width": 1 / 64}, variant="paper", depth=0.01)
    for call in (lambda: read_weights(other.path, classifier), lambda: write_weights(tmp_path / "a", classifier)):
        with pytest.raises(ReproError) as error:
            call()
        one_line(error, "vgg16", "YOLO")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("case", "settings", "layers", "size", "backbone", "backbone_size"),
    [
        # bytes of the authors' files, whose headers are of 20 and 16 bytes
        ("yolo_v3", {"num_classes": 80}, 75, 248_007_048 - 20, 52, 162_482_580 - 20),
        ("yolo_v2-released", {"num_classes": 80}, 23, 203_934_260 - 16, 18, 79_327_120 - 16),
    ],
)
def test_sizes_of_the_authors_files(case, settings, layers, size, backbone, backbone_size):
    module, name = (yolo_v3, "yolo_v3") if case == "yolo_v3" else (yolo_v2, "yolo_v2")
    with keras.StatelessScope(initialize_variables=False):
        variant = "released" if "released" in case else "paper"
        common = {"input_size": (416, 416), "channels": 3, "width": 1.0, "depth": 1.0}
        model = getattr(module, name)(variant=variant, **common, **settings)
    sizes = [4 * layer.size for layer in file_layers(model)]
    keras.utils.clear_session(free_memory=False)
    assert len(sizes) == layers
    assert sum(sizes[:backbone]) == backbone_size
    assert sum(sizes) == size


# networks

ROWS = [
    Conv(32, label="a"),
    MaxPool(label="b"),
    Conv(16, 1, norm=False, activation="linear"),
    Conv(32, 3, 2, label="c"),
    Shortcut("b", label="d"),
    Route(("a",)),
    Reorg(label="e"),
    Route(("e", "d")),
    Upsample(),
    Connected(8),
    Dropout(),
    Conv(5, 1, norm=False, activation="linear", fixed=True),
    Answer("region", (("anchors", (1.5, 2, "3,4")), ("softmax", True), ("classes", 20)), label="f"),
    Route(("f", "d")),
    AveragePool(),
    Connected(7, "linear", fixed=True),
]
TEXT = """
[net] batch=1 subdivisions=1 width=96 height=64 channels=4
[convolutional] batch_normalize=1 filters=16 size=3 stride=1 pad=1 activation=leaky
[maxpool] size=2 stride=2
[convolutional] filters=8 size=1 stride=1 pad=1 activation=linear
[convolutional] batch_normalize=1 filters=16 size=3 stride=2 pad=1 activation=leaky
[shortcut] from=-3 activation=linear
[route] layers=-5
[reorg] stride=2
[route] layers=-1,-3
[upsample] stride=2
[connected] output=4 activation=leaky
[dropout] probability=0.5
[convolutional] filters=5 size=1 stride=1 pad=1 activation=linear
[region] anchors=1.5,2,3,4 softmax=1 classes=20
[route] layers=-1,-9
[avgpool]
[connected] output=7 activation=linear
"""


def sections(path):
    """[kind, setting, ...] of every section, with one space between them."""
    return [" ".join(part.split()) for part in path.read_text().split("\n\n")]


def test_cfg_of_every_row(tmp_path):
    path, expected = tmp_path / "a.cfg", TEXT.strip().split("\n")
    write_cfg(path, ROWS, (64, 96), 4, width=0.5)
    assert sections(path) == expected
    write_cfg(path, ROWS, (64, 96), 4, width=0.5, answers=False)
    assert sections(path) == [
        line.replace("-1,-9", "-1,-8") for line in expected if not line.startswith("[region]")
    ]  # fmt: skip
    write_cfg(path, [Conv(8), AveragePool()], (64, 96))
    assert sections(path)[-3:] == [
        "[convolutional] batch_normalize=1 filters=8 size=3 stride=1 pad=1 activation=leaky", "[avgpool]",
        "[softmax] groups=1",
    ]  # fmt: skip
    write_cfg(path, [Conv(8), AveragePool()], (64, 96), answers=False)
    assert sections(path)[-1] == "[avgpool]"


def absolute(path):
    """Section number -> sources of routes and shortcuts, counted from the first section."""
    found = {}
    for number, text in enumerate(sections(path)[1:]):
        for word in text.split():
            if word.startswith(("from=", "layers=")):
                found[number] = [number + int(index) for index in word.partition("=")[2].split(",")]
    return found


def test_indices_of_the_authors_cfgs(tmp_path):
    """cfg/yolov3.cfg has 107 sections, [yolo] at 82, 94 and 106; cfg/yolov2-voc.cfg 32."""
    path = tmp_path / "a.cfg"
    write_cfg(path, yolo_v3.rows(80), (416, 416))
    found, kinds = absolute(path), [text.partition(" ")[0] for text in sections(path)[1:]]
    assert len(kinds) == 107
    assert [n for n, kind in enumerate(kinds) if kind == "[yolo]"] == [82, 94, 106]
    assert {n: found[n] for n, kind in enumerate(kinds) if kind == "[route]"} == {
        83: [79], 86: [85, 61], 95: [91], 98: [97, 36]
    }  # fmt: skip
    shortcuts = {n: found[n] for n, kind in enumerate(kinds) if kind == "[shortcut]"}
    assert len(shortcuts) == 23
    assert all(sources == [n - 3] for n, sources in shortcuts.items())
    write_cfg(path, yolo_v2.rows(20, variant="released"), (416, 416))
    assert len(sections(path)) - 1 == 32
    assert absolute(path) == {25: [16], 28: [27, 24]}
    assert sections(path)[1 + 27] == "[reorg] stride=2"
    write_cfg(path, darknet.classifier_rows("darknet19", 1000), (256, 256))
    assert len(sections(path)) - 1 == 26
    assert sections(path)[-1].startswith("[softmax]")


# OpenCV


def opencv_network(path, rows, size, channels=3, **settings):
    """OpenCV's network of rows and the weights at `path`, and the numbers of its sections by row."""
    assert hasattr(cv2.dnn, "readNetFromDarknet"), f"OpenCV {cv2.__version__} has no importer of Darknet, 4.14 has"
    cfg = path.with_suffix(".cfg")
    write_cfg(cfg, rows, size, channels, **settings)
    return cv2.dnn.readNetFromDarknet(str(cfg), str(path))


def opencv_outputs(net, image, names):
    """Layers' outputs [B,h,w,C] or [B,C], of images in 0..255."""
    net.setInput(np.ascontiguousarray(image.transpose(0, 3, 1, 2) / np.float32(255)))
    found = net.forward(names)
    return [value.transpose(0, 2, 3, 1) if value.ndim == 4 else value for value in found]


def raw_outputs(rows):
    """(OpenCV's names, ours) of the layers before every answer, whose activations OpenCV applies itself."""
    theirs, ours, counts = [], [], {"conv": 0, "fc": 0}
    # without [detection], which OpenCV does not know, the numbers are the same
    for number, row in enumerate(rows):
        if isinstance(row, Conv | Connected):
            kind = "conv" if isinstance(row, Conv) else "fc"
            counts[kind] += 1
            last = (f"{'conv' if kind == 'conv' else 'fullyConnected'}_{number}", f"{kind}{counts[kind]}")
        if isinstance(row, AveragePool):
            last = f"avgpool_{number}", "avg_pool"
        if isinstance(row, Answer) or (number == len(rows) - 1 and not theirs):
            theirs.append(last[0])
            ours.append(last[1])
    return theirs, ours


def picture(size, count=2, channels=3):
    return np.random.default_rng(0).uniform(0, 255, (count, *size, channels)).astype("float32")


@pytest.mark.parametrize("case", CASES)
def test_opencv_computes_the_same(networks, case):
    made, image = networks(case), picture(SIZE)
    net = opencv_network(made.path, made.rows, SIZE, width=WIDTH, answers=case not in ("yolo_v1", "fast_yolo"))
    theirs, ours = raw_outputs(made.rows)
    assert len(theirs) == (3 if case == "yolo_v3" else 1)
    inner = keras.Model(made.model.inputs[0], [made.model.get_layer(name).output for name in ours])
    expected = opencv_outputs(net, image, theirs)
    for found, value in zip(keras.tree.flatten(inner(image)), expected, strict=True):
        assert tuple(found.shape) == value.shape
        assert np.std(value) > 0.01
        np.testing.assert_allclose(found, value, atol=1e-3 * np.abs(value).max())


def test_reorg_is_that_of_opencv(networks, tmp_path):
    """Alone, on numbers that are all different, also where the map is not square."""
    rows = [Conv(8, 1, norm=False, activation="linear"), Reorg(), Conv(32, 1, norm=False, activation="linear")]
    model = small(rows, (4, 6), reorg=yolo_v2.Reorg)
    model.get_layer("conv2").set_weights([np.eye(32, dtype="float32")[None, None], np.zeros(32, "float32")])
    path, image = tmp_path / "reorg.weights", picture((4, 6))
    write_weights(path, model)
    (expected,) = opencv_outputs(opencv_network(path, rows, (4, 6), answers=False), image, ["conv_2"])
    assert len(np.unique(expected)) == expected.size
    np.testing.assert_allclose(model(image), expected, atol=1e-4)
