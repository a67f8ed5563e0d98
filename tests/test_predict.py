"""Predictions of image files are evaluation's, by each way to a network; bad files are
told of and cost nobody else, and memory does not grow with the folder."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import bombs
from tests.exports import (
    EVERY_FORMAT,
    by_id,
    compare,
    export_tiny,
    installed_formats,
    read_evaluation,
    skip_unless_installed,
    write_test_images,
    write_train_rows,
)
from tests.images import exif_bytes, image_bytes, make_folder
from tests.promises import ROOT, environment
from tests.tiny import TINY, train_and_evaluate
from tlperf import cli
from tlperf.core.choices import ExportFormat
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.recipe import PixelRecipe
from tlperf.core.resolve import resolve_config
from tlperf.core.settings import DataConfig, InputConfig, RunConfig, from_plain
from tlperf.dataset.shard import write_dataset
from tlperf.dataset.store import open_dataset
from tlperf.evaluation.folder import (
    FilePixels,
    Problem,
    check_probabilities,
    list_images,
    plan_memory,
    predict_files,
)
from tlperf.job.predict import (
    PredictRequest,
    open_file,
    predict_images,
    trained_predictor,
)
from tlperf.job.sweep import write_settings
from tlperf.latency.description import ENDINGS, description_path

pytestmark = pytest.mark.usefixtures("two_cpus")


@pytest.fixture(scope="module")
def exported(tiny_workdir, tmp_path_factory):
    """The folder of an export in every format that this install has."""
    folder = tmp_path_factory.mktemp("exported")
    export_tiny(tiny_workdir, folder, formats=installed_formats())
    return folder


@pytest.fixture(scope="module")
def image_files(photos_dir, tmp_path_factory):
    """The test split's images as files."""
    folder = tmp_path_factory.mktemp("files")
    write_test_images(photos_dir, folder)
    return folder


def predict(config, predictor, folder, **request):
    """The JSON of a prediction by an opened network."""
    wanted = PredictRequest(folder, **request)
    return predict_images(config, wanted, predictor, found=list_images(folder))


def test_a_workdir_predicts_what_it_evaluated(tiny_workdir, image_files, two_cpus):
    config, trained = tiny_workdir
    predictor = trained_predictor(TINY, config, trained=trained, compute=two_cpus)
    result = predict(config, predictor, image_files)
    expected, classes = read_evaluation(config.backbone_path("tiny"))
    compare(by_id(result, image_files), expected, atol=1e-6)
    assert (result["images"], result["ignored"], result["problems"]) == (8, 0, [])
    assert result["images_per_sec"] == pytest.approx(8 / result["seconds"])
    assert result["model"]["weights_sha256"] == trained["weights_sha256"]
    for row in result["predictions"]:
        assert list(row["probabilities"]) == classes == trained["classes"]
        assert row["probability"] == max(row["probabilities"].values())
        assert row["probabilities"][row["class"]] == row["probability"]
    paths = [row["path"] for row in result["predictions"]]
    assert paths == sorted(paths)


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_an_exported_file_predicts_the_same(tiny_workdir, exported, image_files, kind):
    skip_unless_installed(kind)
    config, _ = tiny_workdir
    path = exported / f"tiny{ENDINGS[kind]}"
    predictor = open_file(config, path, is_trusted=True)
    # 3 does not divide the 8 images; and all in one.
    for batch_size in (3, 32):
        settings = InputConfig(batch_size=batch_size)
        own = dataclasses.replace(config, input=settings)
        result = predict(own, predictor, image_files)
        expected, _ = read_evaluation(config.backbone_path("tiny"))
        compare(by_id(result, image_files), expected, atol=1e-4)
    assert (result["model"]["format"], result["model"]["backbone"]) == (kind, "tiny")


@pytest.mark.parametrize(
    "stored",
    [
        {"exif": "apply"},
        {"encoding": "raw", "image_size": 40, "exif": "apply"},
        {"encoding": "jpeg", "image_size": 40, "exif": "ignore"},
        {"decode": "fast"},
    ],
)
def test_image_files_become_the_pixels_that_training_had(stored, two_cpus, tmp_path):
    """From the files that were sharded, turned ones among them: no pixel is another."""
    source = make_folder(tmp_path / "pets", {"cats": 10, "dogs": 10})
    for number in range(2, 9):
        name = f"{number:03d}.jpg"
        data = image_bytes(number, size=(90, 70), exif=exif_bytes(number))
        (source / "cats" / name).write_bytes(data)
    stored = dict(stored)
    decode = stored.pop("decode", "exact")
    plain = {**dataclasses.asdict(DataConfig(source=str(source), workers=1)), **stored}
    data_dir = tmp_path / "data"
    write_dataset(from_plain(DataConfig, plain), data_dir)
    config, trained = train_and_evaluate(
        TINY,
        data_dir,
        tmp_path / "w",
        compute=two_cpus,
        inputs={"decode": decode, "batch_size": 4},
        epochs=1,
    )
    assert trained["encoding"] == stored.get("encoding", "source")
    expected, _ = read_evaluation(config.backbone_path("tiny"))
    predictor = trained_predictor(TINY, config, trained=trained, compute=two_cpus)
    found = by_id(predict(config, predictor, source), source)
    tested = {name: found[name] for name in expected}
    compare(tested, expected, atol=1e-6)
    with open_dataset(data_dir) as dataset:
        ids = {one.filename for one in dataset.split("test").read(range(4))}
    assert ids <= expected.keys()


def touch_images(folder, *names):
    """Small images of those names in a folder."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(seed))


def listed(path, **options):
    found = list_images(path, **options)
    return [os.path.relpath(item.id, path) for item in found.items], found.ignored


def test_a_folder_is_read_whole_and_in_order(tmp_path):
    touch_images(tmp_path, "b/2.JPG", "b/10.jpeg", "a.png", "c/d/e/f.gif", "Z.jpg")
    for name in ("notes.txt", "paper.pdf", "b/Thumbs.db", ".hidden.jpg", "none"):
        (tmp_path / name).write_bytes(b"x")
    names = ["Z.jpg", "a.png", "b/10.jpeg", "b/2.JPG", "c/d/e/f.gif"]
    assert listed(tmp_path) == (names, 5)


def test_a_file_is_taken_whatever_it_is_called(tmp_path):
    touch_images(tmp_path, "photo")
    (tmp_path / "link").symlink_to("photo")
    for name in ("photo", "link"):
        (item,) = list_images(tmp_path / name).items
        assert item.id == str(tmp_path / name)
        with pixels_of() as pixels:
            assert pixels.load(item, np.empty((32, 32, 3), np.uint8)) is None


def test_links_in_a_folder_are_followed_where_it_is_asked_for(tmp_path):
    touch_images(tmp_path / "in", "a.jpg")
    touch_images(tmp_path / "out", "c.jpg")
    (tmp_path / "in" / "b.jpg").symlink_to("a.jpg")
    (tmp_path / "in" / "c.jpg").symlink_to(tmp_path / "out" / "c.jpg")
    out = np.empty((32, 32, 3), np.uint8)
    for follow_links, good in ((False, "a.jpg"), (True, "a.jpg b.jpg")):
        found = list_images(tmp_path / "in", follow_links=follow_links)
        with pixels_of() as pixels:
            loaded = {
                os.path.basename(item.id): pixels.load(item, out)
                for item in found.items
            }
        assert " ".join(name for name, bad in loaded.items() if not bad) == good
        problem = loaded["c.jpg"]
        assert problem is not None
        assert problem.reason == "special_file"


@pytest.mark.parametrize(
    ("name", "reason"), [("none", "missing_images"), ("texts", "no_images")]
)
def test_nothing_to_predict(name, reason, tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    images = f"--images={tmp_path / name}"
    assert cli.main(["predict", images, f"--workdir={tmp_path}"]) == ExitCode.NO_INPUT
    assert f"E66 {reason}: {tmp_path / name}: " in capsys.readouterr().err


def pixels_of(side=32, *, batch_size=8, **data):
    return FilePixels(
        PixelRecipe(side),
        data=DataConfig(**data),
        settings=InputConfig(batch_size=batch_size),
    )


BAD = {
    "empty.jpg": (lambda: b"", "empty"),
    "cut.jpg": (lambda: image_bytes(1, size=(90, 90))[:600], "truncated"),
    "page.jpg": (lambda: b"<!DOCTYPE html><html></html>", "not_image:html"),
    "text.png": (lambda: b"hello", "not_image:text"),
    "bomb.png": (
        lambda: bombs.png_file(46_340, 46_340, bits=1, color=0),
        "bomb:pixels",
    ),
    "film.gif": (lambda: bombs.gif_file(16, 16, frames=3), "animated"),
    "other.bmp": (lambda: image_bytes(2, "BMP"), "format_not_allowed"),
    "dot.png": (lambda: image_bytes(3, "PNG", size=(3, 3)), "too_small"),
}


@pytest.fixture
def mixed(tmp_path):
    """A folder of two good files and every bad one."""
    folder = tmp_path / "mixed"
    touch_images(folder, "a.jpg", "z.jpg")
    for name, (make, _) in BAD.items():
        (folder / name).write_bytes(make())
    return folder


def run_predict(*arguments):
    return cli.main(["predict", *map(str, arguments)])


def test_bad_files_are_told_of_and_the_others_predicted(mixed, exported, capsys):
    model = exported / "tiny.saved_model"
    arguments = (f"--images={mixed}", f"--model={model}", "--trust_model")
    assert run_predict(*arguments, "--json") == ExitCode.DATA
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    result = json.loads(out)
    names = [os.path.basename(row["path"]) for row in result["predictions"]]
    assert names == ["a.jpg", "z.jpg"]
    found = {os.path.basename(row["path"]): row["reason"] for row in result["problems"]}
    assert found == {name: reason for name, (_, reason) in BAD.items()}
    assert list(found) == sorted(found)
    lines = [line for line in err.splitlines() if ": E65 " in line]
    assert len(lines) == len(BAD)
    for line, (name, reason) in zip(lines, found.items(), strict=True):
        pattern = (
            rf"tlperf predict: E65 {reason}: {mixed / name}: .+; mend or remove it"
        )
        assert re.fullmatch(pattern, line)
    # And as a table.
    assert run_predict(*arguments) == ExitCode.DATA
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:3]] == [
        "path",
        str(mixed / "a.jpg"),
        str(mixed / "z.jpg"),
    ]
    assert "2 images in " in out
    assert "8 could not be used, 0 files are no images" in out


def test_where_no_file_can_be_used(mixed, exported, capsys):
    for name in ("a.jpg", "z.jpg"):
        (mixed / name).unlink()
    model = f"--model={exported / 'tiny.saved_model'}"
    code = run_predict(f"--images={mixed}", model, "--trust_model")
    assert code == ExitCode.NO_INPUT
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count(": E65 ") == len(BAD)
    assert f"E66 no_images: {mixed}: none of 8 image files can be used; see" in err


def test_limits_are_given_as_to_shard(mixed, exported, capsys):
    model = f"--model={exported / 'tiny.saved_model'}"
    photo = mixed / "a.jpg"
    for flag, reason in (
        ("--max_pixels=100", "bomb:pixels"),
        ("--min_side=25", "too_small"),
        ("--max_file_bytes=50", "bomb:bytes"),
    ):
        code = run_predict(f"--images={photo}", model, "--trust_model", flag)
        assert code == ExitCode.NO_INPUT
        assert f"E65 {reason}: {photo}" in capsys.readouterr().err


def test_a_file_larger_than_all_memory_is_a_problem_of_its_own(tmp_path):
    touch_images(tmp_path, "a.jpg")
    Image.new("RGB", (3000, 3000)).save(tmp_path / "big.png")
    small = InputConfig(batch_size=2, ram_budget=20_000_000)
    problems: list[Problem] = []
    with FilePixels(PixelRecipe(32), data=DataConfig(), settings=small) as pixels:
        found = predict_files(
            list_images(tmp_path).items,
            fair,
            pixels,
            classes=("a", "b"),
            on_problem=problems.append,
        )
    assert [os.path.basename(one.path) for one in found] == ["a.jpg"]
    assert [(one.reason, one.path[-7:]) for one in problems] == [
        ("ram_budget", "big.png")
    ]
    with pytest.raises(TlperfError, match="ram_budget: batches take") as caught:
        plan_memory(dataclasses.replace(small, ram_budget=1000), image_size=32)
    assert caught.value.code == ExitCode.MEMORY


def fair(images):
    """The same probabilities for all."""
    return np.full((len(images), 2), 0.5, np.float32)


def test_a_batch_has_its_files_and_black_rows(tmp_path):
    """7 files in batches of 3, one of them bad: rows stay with their files."""
    touch_images(tmp_path, *(f"{number}.jpg" for number in range(7)))
    (tmp_path / "4.jpg").write_bytes(b"")
    with pixels_of(batch_size=3) as pixels:
        batches = list(pixels.batches(list_images(tmp_path).items))
        alone = {}
        for item in list_images(tmp_path).items:
            out = np.zeros((32, 32, 3), np.uint8)
            if pixels.load(item, out) is None:
                alone[item.id] = out
    assert [len(batch.items) for batch in batches] == [3, 3, 1]
    assert {batch.images.shape for batch in batches} == {(3, 32, 32, 3)}
    for batch in batches:
        for row, item in enumerate(batch.items):
            expected = alone.get(item.id, np.zeros((32, 32, 3), np.uint8))
            np.testing.assert_array_equal(batch.images[row], expected)
        assert not batch.images[len(batch.items) :].any()
    assert len(alone) == 6


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (np.zeros((2, 3), np.float32), "expected shape (2, 2), got (2, 3)"),
        (np.full((2, 2), np.nan, np.float32), "some are not finite"),
    ],
)
def test_what_are_no_probabilities(probability, text):
    with pytest.raises(TlperfError, match="bad_probabilities: ") as caught:
        check_probabilities(probability, (2, 2))
    assert text in caught.value.found
    assert caught.value.code == ExitCode.DATA


HOSTILE = ("=cmd().jpg", "-1.jpg", "@x.jpg", "a\nb.jpg", "\x1b[2J.jpg", "ok.jpg")


def test_hostile_names_are_inert(tmp_path, exported, capsys, monkeypatch):
    """In a spreadsheet and on a terminal; given from inside the folder, so that a path
    begins as the name does."""
    touch_images(tmp_path / "in", *HOSTILE)
    (tmp_path / "in" / "\x1b]0;bad.jpg").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "in")
    table = tmp_path / "out.csv"
    model = f"--model={exported / 'tiny.saved_model'}"
    for name in HOSTILE:
        run_predict(f"--images={name}", model, "--trust_model", f"--csv={table}")
        with open(table, newline="") as stream:
            (row,) = csv.DictReader(stream)
        assert row["path"][0] not in "=+-@"
        assert row["path"].isprintable()
        assert set(row) == {
            *("path", "class", "probability"),
            *("probability china", "probability flower"),
        }
        assert float(row["probability"]) == max(
            float(row["probability china"]), float(row["probability flower"])
        )
    capsys.readouterr()
    code = run_predict("--images=.", model, "--trust_model", f"--csv={table}")
    assert code == ExitCode.DATA
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err + table.read_text()
    assert len(table.read_text().splitlines()) == 1 + len(HOSTILE)
    assert len([line for line in out.splitlines() if ".jpg" in line]) == len(HOSTILE)


MEASURE = """
import json, pathlib, resource, sys
from tlperf.core.recipe import PixelRecipe
from tlperf.core.resolve import resolve_config
from tlperf.core.settings import DataConfig, InputConfig, RunConfig, from_plain
from tlperf.evaluation.folder import FilePixels, list_images, predict_files
import numpy as np
settings = InputConfig(batch_size=4, ram_budget=400 << 20)
def classify(images):
    return np.full((len(images), 2), 0.5, np.float32)
with FilePixels(PixelRecipe(224), data=DataConfig(), settings=settings) as pixels:
    items = list_images(pathlib.Path(sys.argv[1])).items
    found = predict_files(items, classify, pixels, classes="ab", on_problem=print)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
print(json.dumps([len(found), peak, "tensorflow" in sys.modules]))
"""


def test_memory_does_not_grow_with_the_folder(tmp_path):
    """4 and 60 photos of 12 megapixels, 36 MB each when decoded: no copy is kept. And
    nothing of it needs TensorFlow."""
    photo = tmp_path / "photo.jpg"
    image_of_noise().save(photo, quality=60)
    peaks = {}
    for count in (4, 60):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            os.link(photo, folder / f"{number:03d}.jpg")
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(folder)],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        images, peak, has_tensorflow = json.loads(done.stdout)
        assert (images, has_tensorflow) == (count, False)
        peaks[count] = peak
    assert peaks[60] - peaks[4] < 64 << 20


def image_of_noise():
    """Of 4000 x 3000 pixels."""
    small = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    return Image.fromarray(small).resize((4000, 3000), Image.Resampling.BILINEAR)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 64, "images is not given; give an image file or a folder"),
        (["--images=x", "--model=m.onnx", "--backbones=vgg16"], 64, "both given"),
        (["--images=x", "--model=m.onnx", "--workdir=w"], 64, "both given"),
        (["--images=x", "--csv={tmp}"], 64, "csv is '{tmp}', a folder"),
        (["--images={tmp}/a.jpg", "--workdir={tmp}/w"], 66, "not_trained: {tmp}/w: "),
        (
            ["--images={tmp}/a.jpg", "--workdir={tmp}"],
            64,
            "several_backbones: predictions are one backbone's, here are xception, "
            "keras-vgg19; name one with --backbones",
        ),
        (
            ["--images={tmp}/a.jpg", "--workdir={tmp}", "--backbones=vgg16"],
            66,
            "no training of vgg16",
        ),
    ],
)
def test_a_bad_call_is_refused(arguments, code, text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch_images(tmp_path, "a.jpg")
    write_train_rows(tmp_path, "xception", "keras-vgg19")
    assert run_predict(*(one.format(tmp=tmp_path) for one in arguments)) == code
    assert text.format(tmp=tmp_path) in capsys.readouterr().err


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the export, to spoil."""
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    return folder


def flip_byte(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", EVERY_FORMAT)
def test_another_byte_is_found_before_a_file_is_opened(copied, tiny_workdir, kind):
    skip_unless_installed(kind)
    path = copied / f"tiny{ENDINGS[kind]}"
    names = json.loads(description_path(path).read_text())["files"]
    for name in names:
        for at in (0, (copied / name).stat().st_size // 2, -1):
            flip_byte(copied / name, at)
            with pytest.raises(TlperfError, match=r"model_hash: .*sha256 of") as caught:
                open_file(tiny_workdir[0], path, is_trusted=True)
            assert name in caught.value.found
            assert caught.value.code == ExitCode.INTEGRITY
            flip_byte(copied / name, at)
    open_file(tiny_workdir[0], path, is_trusted=True)


def spoil_json(path, **changes):
    beside = description_path(path)
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "code", "text"),
    [
        (lambda path: shutil.rmtree(path), 66, "missing_model: "),
        (lambda path: description_path(path).unlink(), 66, "no_description: "),
        (lambda path: description_path(path).write_text("{"), 76, "damaged_file: "),
        (lambda path: spoil_json(path, classes=3), 76, "damaged_description: "),
        (lambda path: spoil_json(path, schema_version=9), 76, "schema version 9"),
        (lambda path: spoil_json(path, pixels={"a": 1}), 76, "damaged_description: "),
        (lambda path: spoil_json(path, files=["a"]), 76, "damaged_description: "),
        (lambda path: spoil_json(path, pixels={"image_size": 0}), 76, "image_size is"),
        (lambda path: spoil_json(path, format="keras"), 76, "described as keras"),
        (lambda path: (path / "assets" / "x").write_text("x"), 76, "not in its descr"),
        (lambda path: (path / "saved_model.pb").unlink(), 76, "saved_model.pb is miss"),
    ],
)
def test_what_is_no_whole_export_is_refused(copied, tiny_workdir, spoil, code, text):
    path = copied / "tiny.saved_model"
    (path / "assets").mkdir(exist_ok=True)
    spoil(path)
    with pytest.raises(TlperfError, match=text) as caught:
        open_file(tiny_workdir[0], path, is_trusted=True)
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["m.h5", "m.weights.h5", "folder", "m.pb", "m.onnx.x"])
def test_other_formats_are_refused_by_their_names(name, tmp_path, tiny_workdir):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SettingsError, match="no file of tlperf export; give one that"):
        open_file(tiny_workdir[0], tmp_path / name, is_trusted=True)


def test_a_gpu_is_never_a_cpu(exported, tiny_workdir):
    config, _ = tiny_workdir
    device = dataclasses.replace(config.device, devices="gpu")
    for kind in (ExportFormat.ONNX, ExportFormat.OPENVINO):
        path = exported / f"tiny{ENDINGS[kind]}"
        if not path.exists():
            pytest.skip("the extra runtimes is not installed")
        with pytest.raises(TlperfError, match="no_gpu_runtime: --devices=gpu"):
            open_file(
                dataclasses.replace(config, device=device), path, is_trusted=False
            )


WITHOUT_TENSORFLOW = (
    "import sys; from tlperf import cli; code = cli.main(sys.argv[1:]);"
    "assert not {'tensorflow', 'keras'} & set(sys.modules); sys.exit(code)"
)


@pytest.mark.parametrize("kind", [ExportFormat.ONNX, ExportFormat.OPENVINO])
def test_other_runtimes_need_no_tensorflow(kind, exported, image_files, tiny_workdir):
    skip_unless_installed(kind)
    path = exported / f"tiny{ENDINGS[kind]}"
    words = ["predict", f"--images={image_files}", f"--model={path}", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected, _ = read_evaluation(tiny_workdir[0].backbone_path("tiny"))
    compare(by_id(json.loads(done.stdout), image_files), expected, atol=1e-4)


def test_a_model_does_not_read_the_workdir(
    exported, image_files, tmp_path, monkeypatch
):
    """Not even the default one, whose settings are another network's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tlperf-work").mkdir()
    (tmp_path / "tlperf-work" / "config.json").write_text("{")
    model = f"--model={exported / 'tiny.saved_model'}"
    assert run_predict(f"--images={image_files}", model, "--trust_model") == 0


def test_it_goes_on_under_the_settings_of_the_workdir(tmp_path):
    """What was refused at sharding is, unless a flag says otherwise."""
    stored = RunConfig(
        workdir=str(tmp_path),
        data_dir="d",
        data=DataConfig(max_pixels=5000, min_side=9, seed=3),
        input=InputConfig(batch_size=7, ram_budget=1 << 30),
    )
    write_settings(stored)
    words = ["--images=x", "--min_side=3", "--batch_size=5"]
    values = cli.parse_values("predict", [*words, f"--workdir={tmp_path}"])
    found = resolve_config("predict", values)
    assert found.data == dataclasses.replace(stored.data, min_side=3)
    assert found.input == dataclasses.replace(stored.input, batch_size=5)
    assert found.data_dir == "d"
    values = cli.parse_values("export", [f"--workdir={tmp_path}", "--data_dir=e"])
    assert resolve_config("export", values) == dataclasses.replace(
        stored, data_dir="e", latency=resolve_config("export", values).latency
    )
    # An exported model has all that is needed.
    values = cli.parse_values("predict", [*words, "--model=m.onnx"])
    values["workdir"] = str(tmp_path)
    found = resolve_config("predict", values)
    assert (found.data.max_pixels, found.data.min_side) == (DataConfig.max_pixels, 3)
    assert found.input.batch_size == 5


def test_a_csv_that_cannot_be_written_is_told_before_the_work(
    exported, image_files, tmp_path, capsys
):
    (tmp_path / "file").write_text("no folder")
    model = f"--model={exported / 'tiny.keras'}"
    table = tmp_path / "file" / "out.csv"
    code = run_predict(
        f"--images={image_files}", model, "--trust_model", f"--csv={table}"
    )
    assert code == ExitCode.IO
    out, err = capsys.readouterr()
    assert "tlperf predict: E74 io_error: " in err
    assert out == ""
