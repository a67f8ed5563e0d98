"""New images through a trained network, or an exported one: `tlperf predict`.

    predict_job(config, PredictRequest(pathlib.Path("photos")))

An exported file is computed by its own runtime: for an ONNX or OpenVINO one TensorFlow
is not even imported.
"""

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from tlperf.core import files
from tlperf.core.choices import ExportFormat, Strategy
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.progress import log_above_bars
from tlperf.core.quiet import quiet_stderr
from tlperf.core.recipe import Classify, PixelRecipe
from tlperf.core.settings import DeviceConfig, RunConfig
from tlperf.evaluation.folder import (
    FilePixels,
    ImageFiles,
    Prediction,
    Problem,
    list_images,
    predict_files,
)
from tlperf.evaluation.table import (
    format_probabilities,
    inert_cell,
    probability_columns,
    write_table,
)
from tlperf.job.deploy import find_trained, recipe_of
from tlperf.job.workers import refuse_workers
from tlperf.latency.description import find_format, read_description
from tlperf.latency.exported import check_trust, open_exported
from tlperf.latency.packages import check_opener
from tlperf.reference.backbones import BackboneSpec

# Formats that TensorFlow computes.
_OF_TENSORFLOW = (ExportFormat.KERAS, ExportFormat.SAVED_MODEL)


@dataclasses.dataclass(frozen=True)
class PredictRequest:
    """What to predict, and by which network.

    Attributes:
        images: a file or a folder.
        backbones: the trained backbone; None takes the only one.
        model: an exported file instead.
        is_trusted: whether that file may run code.
        csv: where predictions are written, too.
    """

    images: pathlib.Path
    backbones: str | None = None
    model: pathlib.Path | None = None
    is_trusted: bool = False
    csv: pathlib.Path | None = None

    def __post_init__(self) -> None:
        if self.model is not None and self.backbones is not None:
            raise SettingsError(
                "model and backbones are both given",
                "give the file, or a backbone of the workdir",
            )
        if self.csv is not None and self.csv.is_dir():
            raise SettingsError(f"csv is {str(self.csv)!r}, a folder", "give a file")

    @classmethod
    def from_flags(cls, values: dict[str, Any]) -> Self:
        """What the command line asks for; `given` names the flags that were set."""
        given = values["given"]
        if not values["images"]:
            raise SettingsError("images is not given", "give an image file or a folder")
        if values["model"] and "workdir" in given:
            raise SettingsError(
                "model and workdir are both given", "give one: each has its network"
            )
        return cls(
            pathlib.Path(values["images"]),
            backbones=values["backbones"] if "backbones" in given else None,
            model=pathlib.Path(values["model"]) if values["model"] else None,
            is_trusted=values["trust_model"],
            csv=pathlib.Path(values["csv"]) if values["csv"] else None,
        )


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A network, opened.

    Attributes:
        classify: images uint8 [B, S, S, 3], RGB, to probabilities float32 [B, C].
        recipe: how files become such images.
        classes: C names.
        facts: which network it is.
    """

    classify: Classify
    recipe: PixelRecipe
    classes: Sequence[str]
    facts: dict[str, Any]


def predict_job(config: RunConfig, request: PredictRequest) -> dict[str, Any]:
    """Predicts image files; returns the JSON of `predict`.

    A file that cannot be used is told of at once, in one line on stderr, and is among
    the `problems`.

    Raises:
        TlperfError: 64 where it is not clear which backbone is meant, 66 where there is
            no network or no usable image, 69 where a runtime is missing, 76 where an
            exported file is not what was exported, 78 where one would have to be
            trusted.
    """
    refuse_workers("predict")
    found = list_images(request.images, follow_links=config.data.follow_links)
    start = time.perf_counter()
    if request.model is None:
        predictor = open_trained(config, request.backbones)
    else:
        predictor = open_file(config, request.model, is_trusted=request.is_trusted)
    open_secs = time.perf_counter() - start
    result = predict_images(config, request, predictor, found=found)
    return {**result, "open_secs": open_secs}


def predict_images(
    config: RunConfig,
    request: PredictRequest,
    predictor: Predictor,
    *,
    found: ImageFiles,
) -> dict[str, Any]:
    """Predicts files by an opened network; the JSON of `predict`.

    Args:
        config: limits, batch size and memory.
        request: where predictions are written, too.
        predictor: the network.
        found: the files.

    Raises:
        TlperfError: 66 where none can be used, 74 where the CSV cannot be written.
    """
    if request.csv is not None:  # told now, and not after the work
        files.check_writable(request.csv.parent)
    start = time.perf_counter()
    problems: list[Problem] = []

    def tell(problem: Problem) -> None:
        problems.append(problem)
        log_above_bars(problem.error().line("predict"))

    recipe, settings = predictor.recipe, config.input
    with FilePixels(recipe, data=config.data, settings=settings) as pixels:
        predictions = predict_files(
            found.items,
            predictor.classify,
            pixels,
            classes=predictor.classes,
            on_problem=tell,
        )
    secs = time.perf_counter() - start
    if not predictions:
        raise TlperfError(
            ExitCode.NO_INPUT,
            "no_images",
            path=request.images,
            found=f"none of {len(found.items)} image files can be used",
            remedy="see the lines above",
        )
    if request.csv is not None:
        write_predictions(request.csv, predictions, predictor.classes)
    return {
        "model": predictor.facts,
        "images": len(predictions),
        "ignored": found.ignored,
        "predictions": [_plain(one, predictor.classes) for one in predictions],
        "problems": [problem._asdict() for problem in problems],
        "seconds": secs,
        "images_per_sec": len(predictions) / secs,
    }


def _plain(prediction: Prediction, classes: Sequence[str]) -> dict[str, Any]:
    best = int(np.argmax(prediction.probability))
    probabilities = [float(value) for value in prediction.probability]
    return {
        "path": prediction.path,
        "class": classes[best],
        "probability": probabilities[best],
        "probabilities": dict(zip(classes, probabilities, strict=True)),
    }


def write_predictions(
    path: pathlib.Path, predictions: Sequence[Prediction], classes: Sequence[str]
) -> None:
    """Predictions as CSV, inert in a spreadsheet."""
    rows = []
    for one in predictions:
        best = int(np.argmax(one.probability))
        cells = format_probabilities(one.probability)
        rows.append(
            [inert_cell(one.path), inert_cell(classes[best]), cells[best], *cells]
        )
    columns = ["path", "class", "probability", *probability_columns(classes)]
    write_table(path, columns, rows)


def open_trained(config: RunConfig, backbones: str | None) -> Predictor:
    """The trained backbone of a workdir, on the first of the devices asked for.

    Raises:
        TlperfError: 64 where several are trained and none is named, or several are
            named; 66 where none is trained.
    """
    chosen = find_trained(config, backbones)
    if len(chosen) > 1:
        names = ", ".join(spec.name for spec, _ in chosen)
        raise SettingsError(
            f"predictions are one backbone's, here are {names}",
            "name one with --backbones",
            reason="several_backbones",
        )
    ((spec, trained),) = chosen
    with quiet_stderr():
        from tlperf.device.setup import setup_compute
    return trained_predictor(
        spec, config, trained=trained, compute=setup_compute(_one_device(config))
    )


def _one_device(config: RunConfig) -> DeviceConfig:
    return dataclasses.replace(config.device, strategy=Strategy.ONE, logical_devices=0)


def trained_predictor(
    spec: BackboneSpec, config: RunConfig, *, trained: dict[str, Any], compute: Any
) -> Predictor:
    """A trained backbone on one device; arguments as of `export_backbone`."""
    from tlperf.model.trained import build_classify, load_trained

    network = load_trained(
        spec, config.backbone_path(spec.name), trained, compute=compute
    )
    return Predictor(
        classify=build_classify(network),
        recipe=recipe_of(config, trained),
        classes=trained["classes"],
        facts={
            "workdir": config.workdir,
            "backbone": spec.name,
            "weights_sha256": trained["weights_sha256"],
            "image_size": trained["image_size"],
            "precision": compute.precision,
            "device": compute.texts[0],
        },
    )


def open_file(config: RunConfig, path: pathlib.Path, *, is_trusted: bool) -> Predictor:
    """An exported network.

    Args:
        config: whose devices TensorFlow takes for the formats that it computes; the
            others are computed on the CPU.
        path: of the file, with its description beside it.
        is_trusted: whether a file that can run code may be opened.

    Raises:
        TlperfError: as of `predict_job`.
    """
    kind = find_format(path)
    check_trust(path, kind, is_trusted=is_trusted)
    check_opener(kind)
    description = read_description(path)
    _choose_device(config, kind)
    with quiet_stderr():
        classify = open_exported(path, kind)
    return Predictor(
        classify=classify,
        recipe=description.pixels,
        classes=description.classes,
        facts={
            "path": str(path),
            "format": kind.value,
            "sha256": description.sha256,
            "backbone": description.backbone,
            "weights_sha256": description.weights_sha256,
            "image_size": description.pixels.image_size,
        },
    )


def _choose_device(config: RunConfig, kind: ExportFormat) -> None:
    if kind in _OF_TENSORFLOW:
        with quiet_stderr():
            from tlperf.device.setup import setup_compute
        setup_compute(_one_device(config))
    elif config.device.devices.startswith("gpu"):
        raise TlperfError(
            ExitCode.CONFIG,
            "no_gpu_runtime",
            found=f"--devices={config.device.devices} with a model of {kind}, which is "
            "computed on the CPU here",
            remedy="use --devices=auto, or a workdir",
        )
