"""Trained networks as files for use elsewhere: `tlperf export`.

    export_job(config, ExportRequest(formats=(ExportFormat.ONNX,)))
    find_trained(config, "xception"); recipe_of(config, trained)

TensorFlow is imported once it is known that all that is needed is there.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from tlperf.core import files
from tlperf.core.choices import (
    Decode,
    Encoding,
    Exif,
    ExportFormat,
    Precision,
    Preprocess,
    Strategy,
    Xla,
    parse_choice,
)
from tlperf.core.errors import ExitCode, SettingsError, TlperfError
from tlperf.core.locks import directory_lock
from tlperf.core.machine import package_versions
from tlperf.core.progress import log
from tlperf.core.quiet import quiet_stderr
from tlperf.core.recipe import PixelRecipe
from tlperf.core.results import latest, read_results
from tlperf.core.settings import DeviceConfig, RunConfig
from tlperf.dataset.payload import JPEG_QUALITY
from tlperf.dataset.store import open_dataset
from tlperf.evaluation.samples import read_sample_images, read_test_images
from tlperf.job.workers import refuse_workers
from tlperf.latency.description import ENDINGS, Description, description_path
from tlperf.latency.packages import check_exporter, check_opener
from tlperf.model.weights import WEIGHTS_NAME
from tlperf.reference.backbones import BackboneSpec, find_backbone, parse_backbones

# Exports are computed by any machine, so they are compared on the one kind of device
# that every machine has, in the numbers that the files hold.
EXPORT_DEVICE = DeviceConfig(
    devices="cpu",
    strategy=Strategy.ONE,
    precision=Precision.FLOAT32,
    xla=Xla.OFF,
    tf32=False,
)
# Photos whose outputs are compared.
_PARITY_IMAGES = 16
# Of a file of weights: a network's graph beside them, and what is being written.
_SPACE_FACTOR = 1.5
_MORE_VERSIONS = ("onnx", "onnxruntime", "openvino", "tf2onnx")

Trained = tuple[BackboneSpec, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes:
        formats: of each network, in this order.
        folder: for the files; None takes WORKDIR/export.
        backbones: a comma list; None takes all that are trained.
    """

    formats: tuple[ExportFormat, ...] = (ExportFormat.SAVED_MODEL,)
    folder: pathlib.Path | None = None
    backbones: str | None = None

    def __post_init__(self) -> None:
        if not self.formats or len(set(self.formats)) < len(self.formats):
            words = ",".join(self.formats)
            raise SettingsError(
                f"export_format is {words!r}", "name one or more, each once"
            )

    @classmethod
    def from_flags(cls, values: dict[str, Any]) -> Self:
        """What the command line asks for; `given` names the flags that were set."""
        words = values["export_format"].split(",")
        return cls(
            tuple(parse_choice(ExportFormat, word.strip()) for word in words),
            folder=pathlib.Path(values["out"]) if values["out"] else None,
            backbones=values["backbones"] if "backbones" in values["given"] else None,
        )


def find_trained(config: RunConfig, backbones: str | None) -> list[Trained]:
    """Backbones of the workdir with the results of their `train` rows.

    Args:
        config: whose workdir.
        backbones: a comma list, or None for all that are trained.

    Raises:
        TlperfError: 66 where one is not trained, or none is.
    """
    rows = latest(read_results(config.workdir), "train")
    if backbones is None:
        specs: Sequence[BackboneSpec] = [find_backbone(name) for name in rows]
    else:
        specs = parse_backbones(backbones)
    missing = [spec.name for spec in specs if spec.name not in rows]
    if missing or not specs:
        what = ", ".join(missing) or "any backbone"
        raise TlperfError(
            ExitCode.NO_INPUT,
            "not_trained",
            path=config.workdir,
            found=f"no training of {what} in this workdir",
            remedy=f"run tlperf train --workdir={config.workdir}",
        )
    return [(spec, rows[spec.name]["result"]) for spec in specs]


def recipe_of(config: RunConfig, trained: dict[str, Any]) -> PixelRecipe:
    """How a training's image files became pixels.

    Args:
        config: of the workdir: trainings of before the result said it all took its
            data as they were sharded.
        trained: result of the `train` row.
    """
    data = config.data
    encoding = Encoding(trained.get("encoding", data.encoding))
    stored_size = trained.get("stored_size", data.image_size)
    return PixelRecipe(
        image_size=trained["image_size"],
        decode=Decode(trained.get("decode", Decode.EXACT)),
        exif=Exif(trained.get("exif", data.exif)),
        encoding=encoding,
        stored_size=None if encoding is Encoding.SOURCE else stored_size,
    )


def export_job(config: RunConfig, request: ExportRequest) -> dict[str, Any]:
    """Exports trained backbones; returns the JSON of `export`.

    Raises:
        TlperfError: 66 where one is not trained, 69 where an exporter or runtime is
            missing, 73 where something else is in the place of a file, 75 where another
            process exports there, 76 where an export computes something else.
    """
    start = time.perf_counter()
    refuse_workers("export")
    for kind in request.formats:  # before TensorFlow is imported
        without = f", or leave {kind} out of --export_format: nothing was written"
        without = without if len(request.formats) > 1 else ""
        check_exporter(kind, otherwise=without)
        check_opener(kind, otherwise=without)
    chosen = find_trained(config, request.backbones)
    folder = request.folder or pathlib.Path(config.workdir) / "export"
    with directory_lock(folder):
        _check_space(config, chosen, request.formats, folder)
        with quiet_stderr():
            import keras

            from tlperf.device.setup import setup_compute

        compute = setup_compute(EXPORT_DEVICE)
        exports = []
        for spec, trained in chosen:
            exports += export_backbone(
                spec,
                config,
                trained=trained,
                formats=request.formats,
                folder=folder,
                compute=compute,
            )
            keras.utils.clear_session()
    return {
        "exports": exports,
        "out": str(folder),
        "seconds": time.perf_counter() - start,
    }


def _check_space(
    config: RunConfig,
    chosen: Sequence[Trained],
    formats: Sequence[ExportFormat],
    folder: pathlib.Path,
) -> None:
    paths = [config.backbone_path(spec.name) / WEIGHTS_NAME for spec, _ in chosen]
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    files.check_free_space(
        folder,
        int(_SPACE_FACTOR * len(formats) * sum(sizes)),
        remedy="free space, or give an --out on another disk",
    )


def export_backbone(
    spec: BackboneSpec,
    config: RunConfig,
    *,
    trained: dict[str, Any],
    formats: Sequence[ExportFormat],
    folder: pathlib.Path,
    compute: Any,
) -> list[dict[str, Any]]:
    """One network in each format; a dict a file, as of `export`'s JSON.

    Args:
        spec: row of the backbone table.
        config: whose workdir holds the weights, and where its data are.
        trained: result of its `train` row.
        formats: to write.
        folder: for the files; it is there, and no other process writes into it.
        compute: of `EXPORT_DEVICE`: whatever precision the training had, its weights
            are float32, and so is the export.

    Raises:
        TlperfError: as of `export_job`.
    """
    from tlperf.latency.publish import ParityCheck, clear_partials, export_checked
    from tlperf.model.deploy import build_decode, with_preprocessing
    from tlperf.model.preprocess import normalisation_for
    from tlperf.model.trained import build_classify, load_trained

    recipe = recipe_of(config, trained)
    backbone_path = config.backbone_path(spec.name)
    network = load_trained(spec, backbone_path, trained, compute=compute)
    images, origin = _parity_images(config, recipe)
    with quiet_stderr():  # TensorFlow warns of a step that is traced for each network
        probability = build_classify(network)(images)
    check = ParityCheck(images, probability, origin)
    normalisation = normalisation_for(spec, Preprocess(trained["preprocess"]))
    deployed = with_preprocessing(network.model, normalisation)
    describe = functools.partial(
        Description,
        backbone=spec.name,
        classes=tuple(trained["classes"]),
        pixels=recipe,
        preprocess=trained["preprocess"],
        weights_sha256=trained["weights_sha256"],
        versions=package_versions(*_MORE_VERSIONS),
    )
    exports = []
    for kind in formats:
        path = folder / f"{spec.name}{ENDINGS[kind]}"
        clear_partials(path)
        description = export_checked(
            deployed,
            path,
            kind,
            check=check,
            describe=describe,
            decode=build_decode(recipe, jpeg_quality=JPEG_QUALITY),
        )
        exports.append(_export_facts(path, description))
        log(f"{spec.name}: {path}, {_parity_text(description.parity)}")
    return exports


def _parity_text(parity: dict[str, Any]) -> str:
    return (
        f"logits of {parity['images']} photos within "
        f"{parity['max_relative_difference']:.1e} of the largest, "
        f"{parity['largest_logit']:.2g}"
    )


def _export_facts(path: pathlib.Path, description: Description) -> dict[str, Any]:
    return {
        "backbone": description.backbone,
        "format": description.format.value,
        "path": str(path),
        "description": str(description_path(path)),
        "bytes": description.bytes,
        "sha256": description.sha256,
        "image_size": description.pixels.image_size,
        "classes": list(description.classes),
        "parity": description.parity,
    }


def _parity_images(config: RunConfig, recipe: PixelRecipe) -> tuple[np.ndarray, str]:
    """Photos as the network takes them, uint8 [N, S, S, 3], and where they are from."""
    try:
        dataset = open_dataset(config.data_path)
    except TlperfError as error:
        if error.code != ExitCode.NO_INPUT:
            raise
        images = read_sample_images(recipe, count=_PARITY_IMAGES)
        return images, "crops of scikit-learn's sample photographs"
    with dataset:
        images = read_test_images(
            dataset,
            decode=recipe.decode,
            image_size=recipe.image_size,
            count=_PARITY_IMAGES,
        )
    return images, "test split"
