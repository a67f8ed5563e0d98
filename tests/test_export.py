"""Exported networks: they compute what evaluation does, open elsewhere, and nothing is
kept of one that does not."""

import dataclasses
import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.exports import (
    EVERY_FORMAT,
    TF_FORMATS,
    check_against_evaluation,
    export_tiny,
    installed_formats,
    random_images,
    skip_unless_installed,
    write_train_rows,
)
from tests.images import image_bytes
from tests.promises import find_unsafe, read_trace, traced
from tests.tiny import TINY, train_and_evaluate
from tlperf import cli
from tlperf.core import files
from tlperf.core.choices import (
    Decode,
    Encoding,
    ExportFormat,
    Precision,
    Strategy,
)
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.locks import directory_lock
from tlperf.core.recipe import PixelRecipe
from tlperf.core.settings import DataConfig, DeviceConfig, InputConfig
from tlperf.dataset.payload import JPEG_QUALITY
from tlperf.device.setup import setup_compute
from tlperf.evaluation.folder import FilePixels, list_images
from tlperf.evaluation.samples import read_sample_images
from tlperf.job.deploy import (
    EXPORT_DEVICE,
    ExportRequest,
    export_job,
    find_trained,
    recipe_of,
)
from tlperf.latency.description import (
    ENDINGS,
    FILES_SIGNATURE,
    PIXELS_SIGNATURE,
    Description,
    description_path,
    read_description,
)
from tlperf.latency.export import export_network
from tlperf.latency.exported import open_exported
from tlperf.latency.parity import centred_logits, relative_difference
from tlperf.latency.publish import ParityCheck, export_checked
from tlperf.model.deploy import build_decode, with_preprocessing
from tlperf.model.trained import build_classify, load_trained

pytestmark = pytest.mark.usefixtures("two_cpus")


@pytest.fixture(scope="module")
def exports(tiny_workdir, tmp_path_factory):
    """The folder of an export in every format that this install has, and its rows."""
    folder = tmp_path_factory.mktemp("exports")
    rows = export_tiny(tiny_workdir, folder, formats=installed_formats())
    return folder, {ExportFormat(row["format"]): row for row in rows}


@pytest.fixture(scope="module")
def reference(tiny_workdir):
    """What evaluation computes of pixels, in float32."""
    config, trained = tiny_workdir
    compute = setup_compute(EXPORT_DEVICE)
    folder = config.backbone_path("tiny")
    return build_classify(load_trained(TINY, folder, trained, compute=compute))


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_a_file_computes_what_evaluation_does(exports, reference, kind):
    skip_unless_installed(kind)
    folder, rows = exports
    row = rows[kind]
    assert row["path"] == str(folder / f"tiny{ENDINGS[kind]}")
    assert row["parity"]["images"] == 8  # all that the split has
    assert row["parity"]["origin"] == "test split"
    assert 0 <= row["parity"]["max_relative_difference"] <= row["parity"]["limit"]
    assert row["parity"]["limit"] == 1e-4
    assert row["parity"]["largest_logit"] > 1e-3  # else there was nothing to compare
    classify = open_exported(folder / f"tiny{ENDINGS[kind]}", kind)
    for count in (1, 5, 2):  # any number of images
        images = random_images(count, seed=count)
        found = classify(images)
        assert (found.dtype, found.shape) == (np.float32, (count, 2))
        assert relative_difference(found, reference(images)) <= 1e-4


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_its_description_is_all_that_serving_needs(exports, tiny_workdir, kind):
    skip_unless_installed(kind)
    folder, rows = exports
    _, trained = tiny_workdir
    path = folder / f"tiny{ENDINGS[kind]}"
    text = json.loads(description_path(path).read_text())
    assert (text["backbone"], text["format"]) == ("tiny", kind.value)
    assert text["classes"] == trained["classes"] == rows[kind]["classes"]
    assert text["image_size"] == rows[kind]["image_size"] == 32
    assert (text["input"]["dtype"], text["output"]["dtype"]) == ("uint8", "float32")
    assert text["input"]["shape"] == [None, 32, 32, 3]
    assert text["output"]["shape"] == [None, 2]
    assert text["preprocess"] == "backbone"
    assert text["weights_sha256"] == trained["weights_sha256"]
    assert text["versions"]["keras"].startswith("3.15")
    assert text["parity"] == rows[kind]["parity"]
    # Every file there is has its hash, and nothing else is in the folder.
    sizes = 0
    for name, facts in text["files"].items():
        assert facts["sha256"] == files.sha256_file(folder / name)
        sizes += facts["bytes"]
    names = {name.partition("/")[0] for name in text["files"]}
    assert names == {one.name for one in folder.glob("tiny.*")} & names
    assert rows[kind]["bytes"] == sizes
    description = read_description(path)
    assert description.sha256 == rows[kind]["sha256"]
    if len(text["files"]) == 1:
        assert rows[kind]["sha256"] == files.sha256_file(path)


def test_nothing_else_is_left_in_the_folder(exports):
    folder, rows = exports
    expected = {f"tiny{ENDINGS[kind]}" for kind in rows}
    expected |= {f"{name}.json" for name in expected}
    expected |= {"tiny.bin"} if ExportFormat.OPENVINO in rows else set()
    assert {one.name for one in folder.iterdir()} == expected


OPEN_ELSEWHERE = """
import sys
sys.modules["tlperf"] = None  # whoever imports it fails
import keras, numpy
network = keras.models.load_model(sys.argv[1], safe_mode=True)
images = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], network.predict(images, verbose=0))
"""


def test_a_keras_file_opens_in_safe_mode_without_tlperf(exports, reference, tmp_path):
    folder, _ = exports
    images = random_images(3)
    np.save(tmp_path / "images.npy", images)
    arguments = [folder / "tiny.keras", tmp_path / "images.npy", tmp_path / "out.npy"]
    done = subprocess.run(
        [sys.executable, "-c", OPEN_ELSEWHERE, *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(found, reference(images), atol=1e-6)


def sample_files(folder):
    """JPEGs of several sizes, a PNG and a GIF of one frame."""
    folder.mkdir()
    for seed, size in enumerate([(32, 24), (120, 90), (64, 64), (200, 31)]):
        data = image_bytes(seed, size=size, quality=95)
        (folder / f"{seed}.jpg").write_bytes(data)
    (folder / "gray.png").write_bytes(image_bytes(7, "PNG", mode="L"))
    (folder / "one.gif").write_bytes(image_bytes(8, "GIF"))
    (folder / "palette.png").write_bytes(image_bytes(9, "PNG", mode="P"))
    return list_images(folder).items


@pytest.mark.parametrize(
    ("recipe", "most", "share"),
    [
        (PixelRecipe(32), 1, 0.02),
        # Pillow rounds between its two passes.
        (PixelRecipe(40, encoding=Encoding.RAW, stored_size=40), 1, 0.25),
        (PixelRecipe(32, encoding=Encoding.RAW, stored_size=48), 2, 0.25),
        # A pixel that is rounded otherwise changes what its block is encoded as.
        (PixelRecipe(40, encoding=Encoding.JPEG, stored_size=40), 12, 0.9),
        # Decoded exactly, where training took the fast way.
        (PixelRecipe(32, decode=Decode.FAST), 40, 0.9),
    ],
)
def test_files_are_decoded_in_the_graph_as_in_training(recipe, most, share, tmp_path):
    items = sample_files(tmp_path / "files")
    side = recipe.image_size
    expected = np.empty((len(items), side, side, 3), np.uint8)
    with FilePixels(recipe, data=DataConfig(), settings=InputConfig()) as pixels:
        for item, out in zip(items, expected, strict=True):
            assert pixels.load(item, out) is None
    data = [item.origin.read(max_bytes=1 << 20) for item in items]
    decode = tf.function(build_decode(recipe, jpeg_quality=JPEG_QUALITY))
    found = decode(tf.constant(data)).numpy()
    gap = np.abs(found.astype(int) - expected.astype(int))
    print(recipe, gap.max(), np.mean(gap > 0), gap.mean())
    assert gap.max() <= most
    assert np.mean(gap > 0) < share
    assert decode(tf.constant([], tf.string)).shape == (0, side, side, 3)


def test_a_saved_model_takes_pixels_and_files(exports, reference, tmp_path):
    folder, _ = exports
    loaded = tf.saved_model.load(str(folder / "tiny.saved_model"))
    names = {PIXELS_SIGNATURE, FILES_SIGNATURE, "serving_default"}
    assert set(loaded.signatures) == names
    items = sample_files(tmp_path / "files")
    data = [item.origin.read(max_bytes=1 << 20) for item in items]
    (found,) = loaded.signatures[FILES_SIGNATURE](files=tf.constant(data)).values()
    images = np.empty((len(items), 32, 32, 3), np.uint8)
    with FilePixels(
        PixelRecipe(32), data=DataConfig(), settings=InputConfig()
    ) as pixels:
        for item, out in zip(items, images, strict=True):
            pixels.load(item, out)
    np.testing.assert_allclose(found, reference(images), atol=1e-3)
    (served,) = loaded.signatures["serving_default"](images=images).values()
    np.testing.assert_allclose(served, reference(images), atol=1e-6)


@pytest.mark.parametrize(
    "precision", [Precision.MIXED_BFLOAT16, Precision.MIXED_FLOAT16]
)
def test_a_mixed_precision_training_exports_in_float32(photos_dir, tmp_path, precision):
    device = DeviceConfig(devices="cpu", precision=precision, strategy=Strategy.ONE)
    workdir = train_and_evaluate(
        TINY, photos_dir, tmp_path / "w", compute=setup_compute(device), epochs=1
    )
    assert workdir[1]["precision"] == precision
    rows = export_tiny(workdir, tmp_path / "out", formats=TF_FORMATS)
    assert max(row["parity"]["max_relative_difference"] for row in rows) <= 1e-4
    network = tf.keras.models.load_model(tmp_path / "out" / "tiny.keras")
    (inner,) = [one for one in network.layers if isinstance(one, tf.keras.Model)]
    assert {layer.compute_dtype for layer in inner.layers} == {"float32"}
    assert {one.dtype for one in network.weights} == {"float32"}


def test_a_saved_model_holds_each_weight_once(tmp_path):
    inputs = tf.keras.Input((8, 8, 3), dtype="uint8", name="images")
    x = tf.keras.layers.Flatten()(tf.keras.ops.cast(inputs, "float32"))
    x = tf.keras.layers.Dense(10_000)(x)
    network = tf.keras.Model(inputs, tf.keras.layers.Dense(2)(x))
    path = tmp_path / "m.saved_model"
    export_network(network, path, ExportFormat.SAVED_MODEL)
    size = sum(one.stat().st_size for one in (path / "variables").iterdir())
    assert 1 <= size / (4 * network.count_params()) < 1.1


def make_check(reference, *, spoil=0.0):
    """A check whose probabilities are off by `spoil` of the largest logit."""
    images = random_images(4)
    logits = centred_logits(reference(images))
    wrong = logits + spoil * np.abs(logits).max() * np.array([1, -1])
    weights = np.exp(wrong)
    probability = weights / weights.sum(axis=-1, keepdims=True)
    return ParityCheck(images, probability.astype(np.float32), "random numbers")


@pytest.fixture
def network(tiny_workdir):
    """The fine-tuned network with its preprocessing inside."""
    config, trained = tiny_workdir
    compute = setup_compute(EXPORT_DEVICE)
    folder = config.backbone_path("tiny")
    model = load_trained(TINY, folder, trained, compute=compute).model
    return with_preprocessing(model, TINY.normalisation)


def describe(**given):
    """The description of an export that no training is behind."""
    return Description(
        backbone="tiny",
        classes=("a", "b"),
        pixels=PixelRecipe(32),
        preprocess="backbone",
        weights_sha256="0" * 64,
        versions={},
        **given,
    )


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_of_a_network_that_computes_something_else_nothing_is_kept(
    network, reference, kind, tmp_path
):
    skip_unless_installed(kind)
    path = tmp_path / "out" / f"tiny{ENDINGS[kind]}"
    path.parent.mkdir()
    export = functools.partial(export_checked, network, path, kind, describe=describe)
    with pytest.raises(TlperfError, match=r"parity: .*tiny\S*: logits of 4") as caught:
        export(check=make_check(reference, spoil=2e-4))
    assert caught.value.code == ExitCode.INTEGRITY
    assert caught.value.path == str(path)
    assert "differ by 0.0002 of the largest, the limit is 0.0001" in caught.value.found
    assert list(path.parent.iterdir()) == []
    # What was there before stays as it is; what passes replaces it.
    export(check=make_check(reference))
    before = tree(path.parent)
    with pytest.raises(TlperfError, match="parity: "):
        export(check=make_check(reference, spoil=2e-4))
    assert tree(path.parent) == before
    export(check=make_check(reference, spoil=5e-5))
    assert read_description(path).parity["max_relative_difference"] > 1e-5
    assert tree(path.parent).keys() == before.keys()


def test_a_network_that_an_exporter_does_not_know(tmp_path):
    """Keras compiles grouped convolutions by XLA, which tf2onnx 1.17 leaves in a graph
    as a call; keras:ConvNeXt has them."""
    skip_unless_installed(ExportFormat.ONNX)
    inputs = tf.keras.Input((32, 32, 3), dtype="uint8", name="images")
    x = tf.keras.layers.Conv2D(6, 3, groups=3)(tf.keras.ops.cast(inputs, "float32"))
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    x = tf.keras.layers.Dense(2, activation="softmax")(x)
    grouped = tf.keras.Model(inputs, x, name="grouped")

    def classify(images):
        return grouped(images, training=False).numpy()

    path = tmp_path / "m.onnx"
    with pytest.raises(TlperfError, match="export_failed: grouped as onnx: ") as caught:
        export_checked(
            grouped,
            path,
            ExportFormat.ONNX,
            check=make_check(classify),
            describe=describe,
        )
    assert caught.value.code == ExitCode.CONFIG
    assert len(str(caught.value)) < 500
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("probability", "reference", "least", "most"),
    [
        ([[0.3, 0.7]], [[0.3, 0.7]], 0, 0),
        ([[0.3, 0.7], [0.5, 0.5]], [[0.3, 0.7]], np.inf, np.inf),
        ([[np.nan, 0.7]], [[0.3, 0.7]], np.inf, np.inf),
        # Logits of +-0.4236: a thousandth more.
        ([[0.2998221, 0.7001779]], [[0.3, 0.7]], 0.9e-3, 1.1e-3),
        # Probabilities that hide what is computed: 1e-9 and 2e-9.
        ([[1e-9, 1 - 1e-9]], [[2e-9, 1 - 2e-9]], 0.03, 0.04),
        # Rounding of float32 where all logits are near 0 is no difference.
        ([[0.5, 0.5]], [[0.5 + 6e-8, 0.5 - 6e-8]], 0, 2e-5),
        # Nor are the smallest numbers, which some runtimes make 0.
        ([[0.0, 1.0]], [[1e-40, 1.0]], 0, 0),
    ],
)
def test_differences_are_of_logits(probability, reference, least, most):
    found = relative_difference(np.array(probability), np.array(reference))
    assert least <= found <= most


def test_an_export_replaces_no_file_of_somebody_else(tiny_workdir, tmp_path):
    (tmp_path / "tiny.saved_model").mkdir()
    (tmp_path / "tiny.saved_model" / "mine.txt").write_text("kept")
    with pytest.raises(TlperfError, match=r"other_files: .*tiny\.saved_model") as error:
        export_tiny(tiny_workdir, tmp_path, formats=(ExportFormat.SAVED_MODEL,))
    assert error.value.code == ExitCode.EXISTS
    assert (tmp_path / "tiny.saved_model" / "mine.txt").read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tiny.keras.json", ExportFormat.KERAS),
        ("tiny.bin", ExportFormat.OPENVINO),
        ("tiny.xml.json", ExportFormat.OPENVINO),
    ],
)
def test_nor_what_would_stand_beside_it(tiny_workdir, tmp_path, name, kind):
    skip_unless_installed(kind)
    (tmp_path / name).write_text('{"mine": true}')
    with pytest.raises(TlperfError, match=f"other_files: .*{name}") as error:
        export_tiny(tiny_workdir, tmp_path, formats=(kind,))
    assert error.value.code == ExitCode.EXISTS
    assert [one.name for one in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"mine": true}'


def test_what_a_killed_export_left_is_cleared(tiny_workdir, tmp_path):
    left = tmp_path / ".partial-7-tiny.keras"
    other = tmp_path / ".partial-7-other.keras"
    for folder in (left, other):
        folder.mkdir()
        (folder / "half").write_bytes(b"0" * 100)
    export_tiny(tiny_workdir, tmp_path, formats=(ExportFormat.KERAS,))
    assert not left.exists()
    assert (other / "half").exists()


PUBLISH = """
import pathlib, sys
from tlperf.core import files
out = pathlib.Path(sys.argv[1])
with files.staging_folder(out / "m.saved_model") as staging:
    (staging / "m.saved_model" / "variables").mkdir(parents=True)
    (staging / "m.saved_model" / "variables" / "data").write_bytes(b"1" * 5000)
    (staging / "m.saved_model.json").write_text("{}")
    files.publish_all(["m.saved_model.json", "m.saved_model"], staging)
"""


@pytest.mark.D6
def test_an_export_is_on_disk_before_it_has_its_name(tmp_path):
    trace, out = tmp_path / "trace", tmp_path / "out"
    out.mkdir()
    subprocess.run(traced([sys.executable, "-c", PUBLISH, str(out)], trace), check=True)
    calls = list(read_trace(trace.read_text()))
    renamed = [one.paths[1] for one in calls if one.name.startswith("rename")]
    assert renamed == [str(out / "m.saved_model.json"), str(out / "m.saved_model")]
    assert list(find_unsafe(calls, str(out))) == []
    # Of a folder, what is in it.
    synced = {one.paths[0] for one in calls if one.name == "fsync"}
    assert any(path.endswith("variables/data") for path in synced)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_staging_folder_is_gone_whatever_happens(error, tmp_path):
    def fail():
        with files.staging_folder(tmp_path / "x.onnx") as staging:
            (staging / "x.onnx").write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_without_data_it_is_compared_on_sample_photos(tiny_workdir, tmp_path):
    config, trained = tiny_workdir
    moved = dataclasses.replace(config, data_dir=str(tmp_path / "gone"))
    (row,) = export_tiny(
        (moved, trained), tmp_path / "out", formats=(ExportFormat.KERAS,)
    )
    assert row["parity"]["images"] == 16
    assert "sample photographs" in row["parity"]["origin"]
    images = read_sample_images(PixelRecipe(32), count=16)
    assert len({image.tobytes() for image in images}) == 16  # of both photographs
    assert images.mean(axis=(1, 2, 3)).std() > 1


def test_a_recipe_of_an_older_training_is_that_of_the_workdir(tiny_workdir):
    config, trained = tiny_workdir
    assert recipe_of(config, trained) == PixelRecipe(32)
    raw = {"encoding": "raw", "image_size": 40, "exif": "apply"}
    older = {
        key: value
        for key, value in trained.items()
        if key not in ("exif", "encoding", "stored_size")
    }
    plain = config.to_dict()
    sharded = type(config).from_dict({**plain, "data": {**plain["data"], **raw}})
    found = recipe_of(sharded, older)
    assert (found.encoding, found.stored_size, found.exif) == ("raw", 40, "apply")
    assert recipe_of(sharded, trained) == PixelRecipe(32)


@pytest.mark.parametrize(
    ("kind", "package"),
    [("onnx", "tf2onnx"), ("onnx", "onnxruntime"), ("openvino", "openvino")],
)
def test_a_missing_package_is_told_before_any_work(
    kind, package, tmp_path, capsys, monkeypatch
):
    """The workdir is not even there."""
    monkeypatch.setitem(sys.modules, "tf2onnx", sys)  # as if it were
    monkeypatch.setitem(sys.modules, package, None)
    workdir = f"--workdir={tmp_path / 'w'}"
    code = cli.main(["export", workdir, f"--export_format=saved_model,{kind}"])
    line = capsys.readouterr().err
    assert code == ExitCode.UNAVAILABLE
    assert f"not_installed: no package {package}" in line
    assert (
        f"pip install 'tlperf[runtimes]', or leave {kind} out of --export_format: "
        "nothing was written" in line
    )
    assert not (tmp_path / "w").exists()
    cli.main(["export", workdir, f"--export_format={kind}"])
    assert "or leave" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--export_format=h5"], 64, "'h5' is no ExportFormat; use keras, saved_model"),
        (["--export_format=keras,keras"], 64, "name one or more, each once"),
        ([], 66, "not_trained: {tmp}: no training of any backbone in this workdir"),
        (["--backbones=vgg16"], 66, "no training of vgg16 in this workdir"),
    ],
)
def test_a_bad_call_is_refused(arguments, code, text, tmp_path, capsys):
    assert cli.main(["export", f"--workdir={tmp_path}", *arguments]) == code
    assert text.format(tmp=tmp_path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_all_that_are_trained_are_exported_where_none_is_named(tmp_path, tiny_workdir):
    config = dataclasses.replace(
        tiny_workdir[0], workdir=str(tmp_path), backbones="vgg16"
    )
    write_train_rows(tmp_path, "xception", "keras-mobilenetv2", "xception")
    names = [spec.name for spec, _ in find_trained(config, None)]
    assert names == ["xception", "keras-mobilenetv2"]
    ((spec, trained),) = find_trained(config, "xception")
    assert (spec.name, trained) == ("xception", {"backbone": "xception"})
    with pytest.raises(TlperfError, match="no training of vgg16"):
        find_trained(config, "xception,vgg16")


def test_one_process_exports_into_a_folder(tmp_path, tiny_workdir):
    config = dataclasses.replace(tiny_workdir[0], workdir=str(tmp_path))
    write_train_rows(tmp_path, "xception")
    with directory_lock(tmp_path / "export"):
        with pytest.raises(TlperfError, match="locked: ") as caught:
            export_job(config, ExportRequest())
    assert caught.value.code == ExitCode.RETRY


def test_no_format_is_asked_for():
    with pytest.raises(SettingsError, match="export_format is ''"):
        ExportRequest(())


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone", ["efficientnetb0", "resnet50", "keras:MobileNetV2"]
)
def test_a_real_network_goes_all_the_way(backbone, tmp_path):
    """Trained, evaluated, exported in every format that is installed, and each file's
    predictions of the test images are those of the evaluation."""
    command = [sys.executable, "-m", "tlperf"]
    workdir = f"--workdir={tmp_path / 'w'}"
    quick = ["--preset=quick", "--image_size=64", "--limit=80", "--epochs=2"]
    steps = [
        ["shard", *quick[:1], *quick[2:3]],
        ["train", *quick[:2], quick[3], "--batch_size=8", f"--backbones={backbone}"],
        ["evaluate", f"--backbones={backbone}"],
        ["export", f"--export_format={','.join(installed_formats())}", "--json"],
    ]
    for words in steps:
        done = subprocess.run(
            [*command, *words, workdir], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["exports"]
    print([(row["format"], row["parity"]["max_relative_difference"]) for row in rows])
    assert [row["format"] for row in rows] == list(installed_formats())
    models = [[workdir], *([f"--model={row['path']}", "--trust_model"] for row in rows)]
    for words in models:
        check_against_evaluation(tmp_path / "w", rows[0]["backbone"], words, tmp_path)
