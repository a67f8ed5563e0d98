"""Where images come from: a source lists items; an item can read its bytes.

listing = open_source(DataConfig(source="catsdogs")).read_listing()
listing.items[0].id, listing.items[0].class_name    # 'cats/cat.1.jpg', 'cats'
"""

import pathlib

from tlperf.core.settings import DataConfig
from tlperf.dataset.sources.folder import FolderSource
from tlperf.dataset.sources.listing import PHOTOS, Source


def open_source(config: DataConfig) -> Source:
    """The source that `--source` names: `photos` (then `./photos` is the folder), or a
    folder with one sub-folder a class."""
    if config.source == PHOTOS:
        from tlperf.dataset.sources.photos import PhotosSource  # imports Pillow

        return PhotosSource()
    return FolderSource(pathlib.Path(config.source))
