"""The images of `tools.gpu_matrix`: photos of common sizes, or one's own, in shards.

prepare_data(settings, out=out, child=child, stop=stop)     # OUT/data
"""

import pathlib
import shutil
import sys

from tlperf.core.errors import TlperfError
from tlperf.core.progress import log
from tlperf.core.stopping import Stop
from tlperf.dataset.manifest import COMPLETE
from tools.gpu_cells import Settings
from tools.gpu_child import Child, find_reason, known_code

# Images of the other splits where the photos are made here.
_HELD_OUT = 64


def write_photos(folder: pathlib.Path, count: int) -> None:
    """Crops of two real photographs as JPEG files of common sizes, split by folder; for
    speed alone: a split's pixels are in the others too.

    Args:
        folder: where to; as a source of `tlperf shard`.
        count: of training images.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_image

    generator = np.random.default_rng(0)
    for name in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{name}.jpg"))
        splits = {"train": (count + 1) // 2, "validation": _HELD_OUT // 2}
        for split, images in {**splits, "test": 2}.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(images):
                size = generator.integers((320, 214), (photo.width, photo.height))
                left, top = generator.integers((photo.width, photo.height) - size + 1)
                crop = photo.crop((left, top, left + size[0], top + size[1]))
                crop.save(folder / split / name / f"{number:05d}.jpg", quality=90)


def prepare_data(
    settings: Settings, *, out: pathlib.Path, child: Child, stop: Stop
) -> None:
    """OUT/data, where it is not there yet.

    Raises:
        TlperfError: with the exit code of `tlperf shard` where that failed.
    """
    data_dir = out / "data"
    if (data_dir / COMPLETE).exists():
        return
    source = settings.source
    if not source:
        source = str(out / "photos")
        shutil.rmtree(source, ignore_errors=True)
        log(f"makes {settings.images} photos")
        write_photos(pathlib.Path(source), settings.images)
    command = [sys.executable, "-m", "tlperf", "shard", "--json", f"--source={source}"]
    command += [f"--data_dir={data_dir}", f"--workdir={out / 'shard'}"]
    done = child.run(command, stop=stop)
    if done.exit_code and not stop.wanted:
        raise TlperfError(
            known_code(done.exit_code),
            "no_data",
            found=find_reason(done, most_secs=child.most_secs),
            remedy="give another --source",
        )
