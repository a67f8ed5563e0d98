"""The flags of the command line, each defined once, and which belong together.

FLAGS["epochs"].define(values); FLAGS["epochs"].usage()
"""

import dataclasses
import enum

from absl import flags

from tlperf.core import choices, settings
from tlperf.core.choices import Preset


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag: its name, default, help, and the words it takes if it is a choice."""

    name: str
    default: str | int | float | bool | None
    help: str
    kind: type = str

    def define(self, values: flags.FlagValues) -> None:
        """Adds the flag to `values`."""
        if issubclass(self.kind, enum.StrEnum):
            words = [member.value for member in self.kind]
            flags.DEFINE_enum(
                self.name, self.default, words, self.help, flag_values=values
            )
            return
        makers = {
            str: flags.DEFINE_string,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            bool: flags.DEFINE_bool,
        }
        makers[self.kind](self.name, self.default, self.help, flag_values=values)

    def usage(self) -> str:
        """One line of help."""
        words = ""
        if issubclass(self.kind, enum.StrEnum):
            words = "|".join(member.value for member in self.kind) + ": "
        shown = "" if self.default is None else f" (default {self.default})"
        if self.kind is bool:
            shown = f" (default {str(self.default).lower()})"
        return f"  --{self.name:<19} {words}{self.help}{shown}"


_DATA = settings.DataConfig()
_LATENCY = settings.LatencyConfig()
FLAGS = {
    flag.name: flag
    for flag in (
        Flag("workdir", "tlperf-work", "folder for results"),
        Flag("data_dir", None, "folder of the shards (default WORKDIR/data)"),
        Flag("preset", "paper", "set of defaults", Preset),
        Flag("source", "photos", "photos, a folder with a sub-folder a class, a .zip "
             "or .tar[.gz] of one or its URL, a .csv, or tfds:NAME"),
        Flag("source_sha256", None, "of an archive; a URL needs it"),
        Flag("keep_splits", True, "splits that the source gives win over --split",
             bool),
        Flag("follow_links", False, "read symbolic links to files inside the source",
             bool),
        Flag("name", None, "dataset name in file names (default: the source's)"),
        Flag("format", "tfrecord", "container", choices.Format),
        Flag("encoding", "source", "what is stored", choices.Encoding),
        Flag("split", "60/20/20", "percentages of train/validation/test"),
        Flag("split_mode", "stratified", "how images are dealt", choices.SplitMode),
        Flag("seed", 0, "of split, order, head weights and dropout", int),
        Flag("limit", 0, "at most this many images; 0 takes all", int),
        Flag("shard_bytes", _DATA.shard_bytes, "about the size of a TFRecord shard",
             int),
        Flag("workers", 0, "processes that write shards; 0 takes one a core", int),
        Flag("max_pixels", _DATA.max_pixels, "refuse larger images", int),
        Flag("min_side", _DATA.min_side, "refuse images with a shorter side", int),
        Flag("max_file_bytes", _DATA.max_file_bytes, "refuse larger files", int),
        Flag("max_jpeg_scans", _DATA.max_jpeg_scans, "refuse JPEGs of more", int),
        Flag("image_check", "decode", "before storing", choices.ImageCheck),
        Flag("on_warning", "accept", "JPEGs decoded with warnings", choices.OnWarning),
        Flag("tfds_compat", False, "leave out JPEGs without JFIF, as tfds does", bool),
        Flag("on_bad", "quarantine", "unusable files", choices.OnBad),
        Flag("max_bad", None, "most unusable files (default max(5, 1 %))", int),
        Flag("exif", "ignore", "EXIF orientation", choices.Exif),
        Flag("image_size", None, "side in pixels (default: native)", int),
        Flag("preprocess", "backbone", "pixel normalisation", choices.Preprocess),
        Flag("batch_size", 32, "images a step, over all replicas", int),
        Flag("augment", "none", "training images, on the device", choices.Augment),
        Flag("decode", "exact", "JPEG files to pixels", choices.Decode),
        Flag("cache", "none", "kept in memory from epoch 1 on", choices.Cache),
        Flag("ram_budget", 0, "bytes for batches, decoding and cache (default: a "
             "quarter of the memory there is)", int),
        Flag("on_bad_record", "fail", "records that cannot be used",
             choices.OnBadRecord),
        Flag("deterministic", True, "batches in the order of the plan", bool),
        Flag("data_service", None, "grpc://HOST:PORT of tlperf serve, whose workers "
             "make training batches (default: made here)"),
        Flag("dispatcher", None, "HOST:PORT that a worker is for (default: this is "
             "the dispatcher)"),
        Flag("port", 0, "to listen on; 0 takes a free one", int),
        Flag("worker_host", "localhost", "name by which others reach this machine"),
        Flag("journal_dir", None, "where a dispatcher keeps what it needs to go on "
             "after a restart (default: nowhere)"),
        Flag("allow_public_bind", False, "listen although other machines can reach "
             "this one, and run programs through it", bool),
        Flag("backbones", "all", "all, or a comma list of backbones and keras:NAME"),
        Flag("weights", "imagenet", "imagenet, none, DIR, FILE, or NAME:one,NAME:two"),
        Flag("freeze", "paper", "paper, all, none, or the first active layer; for "
             "keras:NAME paper is all"),
        Flag("epochs", 10, "passes over the training split", int),
        Flag("learning_rate", None, "(default: Table 4; of keras:NAME 0.001)", float),
        Flag("optimizer", None, "(default: Table 4; of keras:NAME adam)",
             choices.Optimizer),
        Flag("schedule", "constant", "of the learning rate", choices.Schedule),
        Flag("warmup_steps", 0, "over which the learning rate rises", int),
        Flag("accumulate", 1, "parts of a batch, one after the other", int),
        Flag("class_weights", "none", "of the loss", choices.ClassWeights),
        Flag("early_stopping", 0, "epochs without a better one; 0 never", int),
        Flag("head_epochs", 0, "first epochs that train the head alone", int),
        Flag("head_learning_rate", None, "of those (default: that of the others)",
             float),
        Flag("ema", 0.0, "share of a moving average of weights that a step keeps; 0 "
             "for no average", float),
        Flag("steps_per_call", 1, "train steps that the host starts at once", int),
        Flag("batch_norm", "update", "after the boundary", choices.BatchNorm),
        Flag("resume", False, "go on from the newest checkpoint in the workdir", bool),
        Flag("save_every", 0, "steps between checkpoints (default: each epoch)", int),
        Flag("feature_cache", "auto", "compute the frozen part once an image",
             choices.FeatureCache),
        Flag("feature_dtype", "computed", "of what is kept", choices.FeatureDtype),
        Flag("feature_views", 0, "augmented views of an image to keep", int),
        Flag("feature_dir", None, "where to keep them (default WORKDIR/features)"),
        Flag("feature_budget", 0, "most bytes there (default: half of the disk's "
             "free space)", int),
        Flag("devices", "auto", "auto, cpu, gpu or gpu:0,1"),
        Flag("logical_devices", 0, "split the CPU into so many, for tests", int),
        Flag("strategy", "auto", "replicas", choices.Strategy),
        Flag("precision", "auto", "of the backbone", choices.Precision),
        Flag("xla", "auto", "compile steps by XLA", choices.Xla),
        Flag("tf32", True, "let GPUs take TensorFloat-32 for float32 products", bool),
        Flag("op_determinism", False, "operations that give the same bits each time "
             "only; without XLA", bool),
        Flag("startup_timeout", settings.DeviceConfig().startup_timeout, "seconds that "
             "a worker of TF_CONFIG waits for the others", float),
        Flag("profile_steps", None, "FIRST:LAST, steps to trace for TensorBoard"),
        Flag("protocol", None, "comma list of keras_predict, compiled, transfer, "
             "stream, train_step (default the first two)"),
        Flag("runtime", "tf", "comma list of tf, onnxruntime, openvino"),
        Flag("latency_secs", None, "stop a row after (default 60 in run, else never)",
             float),
        Flag("min_secs", _LATENCY.min_secs, "least seconds of timed steps a row",
             float),
        Flag("processes", _LATENCY.processes, "fresh ones that share a row", int),
        Flag("sweep", None, "comma list of batch_size, precision, xla, tf32: what else "
             "is varied"),
        Flag("latency_batch_size", None, "images a timed step (default 32)", int),
        Flag("images", None, "an image file, or a folder of them and of folders"),
        Flag("model", None, "an exported file with its .json beside it (default: the "
             "trained backbone of the workdir)"),
        Flag("trust_model", False, "open a .keras file or a SavedModel, which can run "
             "code", bool),
        Flag("csv", None, "write the predictions to this file too"),
        Flag("export_format", "saved_model", "comma list of keras, saved_model, onnx, "
             "openvino"),
        Flag("compare", None, "comma list of workdirs: a page of each beside the "
             "first, instead of a report"),
        Flag("out", None, "folder to write to (default WORKDIR/export; of a comparison "
             "WORKDIR/report)"),
        Flag("fast", False, "manifest and sizes only", bool),
        Flag("png", None, "write a contact sheet to this file"),
        Flag("near_duplicates", None, "report images whose perceptual hashes differ by "
             "at most so many of 64 bits", int),
        Flag("secs", 3.0, "seconds to measure the whole; a part takes a quarter",
             float),
        Flag("demand", None, "images a second that a step would take", float),
        Flag("plot", None, "draw the rates to this .svg or .png file"),
        Flag("dry_run", False, "print the plan, do nothing", bool),
        Flag("json", False, "print one JSON object on stdout", bool),
        Flag("verbose", False, "tracebacks and TensorFlow's own log", bool),
    )
}  # fmt: skip

COMMON = ("workdir", "preset", "dry_run", "json", "verbose")
SOURCE_FLAGS = (
    *("source", "source_sha256", "keep_splits", "follow_links", "name", "format"),
    *("encoding", "split", "split_mode", "seed", "limit", "shard_bytes", "workers"),
    *(
        "max_pixels",
        "min_side",
        "max_file_bytes",
        "max_jpeg_scans",
        "image_check",
        "on_warning",
    ),
    *("tfds_compat", "on_bad", "max_bad", "exif"),
)
DEVICE_FLAGS = (
    *("devices", "logical_devices", "strategy", "precision", "xla"),
    *("tf32", "op_determinism"),
)
PIPELINE_FLAGS = (
    *("augment", "decode", "cache", "ram_budget", "on_bad_record", "deterministic"),
    "data_service",
)
TRAIN_FLAGS = (
    *("backbones", "weights", "freeze", "image_size", "preprocess", "batch_size"),
    *PIPELINE_FLAGS,
    *("epochs", "learning_rate", "optimizer", "schedule", "warmup_steps"),
    *("accumulate", "class_weights", "early_stopping", "batch_norm"),
    *("head_epochs", "head_learning_rate", "ema", "steps_per_call"),
    *("resume", "save_every", "profile_steps"),
    *("feature_cache", "feature_dtype", "feature_views", "feature_dir"),
    "feature_budget",
)
INPUT_FLAGS = (
    *("secs", "demand", "plot", "backbones", "image_size", "preprocess"),
    *("batch_size", "seed", *PIPELINE_FLAGS),
)
PREDICT_FLAGS = (
    *("images", "backbones", "model", "trust_model", "csv", "batch_size"),
    *("ram_budget", "follow_links", "max_pixels", "min_side", "max_file_bytes"),
    *("max_jpeg_scans", "image_check", "devices", "precision", "xla", "tf32"),
)
LATENCY_FLAGS = ("latency_batch_size", "protocol", "latency_secs")
RUN_FLAGS = (
    *(*COMMON, "data_dir", *SOURCE_FLAGS),
    *(*TRAIN_FLAGS, *DEVICE_FLAGS, *LATENCY_FLAGS),
)
