"""What a report says of the data: counts, refused files, a few pictures.

section = data_section(run, evidence)
"""

from tlperf.core.units import NOT_AVAILABLE
from tlperf.reporting import facts
from tlperf.reporting.document import Block, Paragraph, Photo, Photos, Section, Table
from tlperf.reporting.evidence import ALBUM_NAME, Evidence
from tlperf.reporting.readings import STUDY_TEST_IMAGES
from tlperf.reporting.rows import Row, RunRows, child
from tlperf.reporting.sources import Source

_ALBUM = (Source(ALBUM_NAME),)
_STUDY = (
    "The study: 4,000 photos of cats and dogs, split at random into 2,400 for "
    f"training, 800 for validation and {STUDY_TEST_IMAGES} for the test (395 of "
    "class 0, 405 of class 1). It names no files, so no other set of images is "
    "known to be the same, and its scores carry the noise of its own 800."
)


def data_section(run: RunRows, evidence: Evidence) -> Section:
    """Splits, what became of the files, and what they look like."""
    blocks: list[Block] = []
    album = evidence.album
    if album and not _is_of_run(album, run):
        blocks.append(
            Paragraph("The examples in the workdir are of other data than the rows.")
        )
        album = {}
    shard = run.shard or {**album, **child(album, "counts")}
    sources = run.shard_sources if run.shard else _ALBUM
    if shard:
        blocks += [
            facts.split_table(shard, sources),
            facts.shard_table(shard, sources),
        ]
    else:
        blocks.append(Paragraph("Stored data: not measured."))
    refused = _refused_table(album)
    if refused.rows:
        blocks.append(refused)
    if album.get("pictures"):
        blocks.append(_examples(album, evidence))
    return Section("Data", (*blocks, Paragraph(_STUDY)))


def _is_of_run(album: Row, run: RunRows) -> bool:
    """Whether the album shows the data that the rows are about."""
    digests = {run.shard.get("digest")}
    digests |= {results.evaluate.get("data_digest") for results in run.backbones}
    digests |= {results.train.get("data_digest") for results in run.backbones}
    digests.discard(None)
    return not digests or album.get("digest") in digests


def _refused_table(album: Row) -> Table:
    rows = tuple(
        tuple(str(one.get(key, NOT_AVAILABLE)) for key in ("path", "reason", "detail"))
        for one in album.get("quarantine") or ()
    )
    count = child(album, "counts").get("quarantined", len(rows))
    left_out = count - len(rows)
    notes = [f"{left_out} more are in quarantine.jsonl."] if left_out > 0 else []
    return Table(
        "Files that are not used",
        ("file", "reason", "what was found"),
        rows,
        (*notes,),
        _ALBUM,
    )


def _examples(album: Row, evidence: Evidence) -> Photos:
    classes = len(album.get("classes") or ())
    shown = len({facts.get("class") for facts in album["pictures"]})
    rest = f"; {classes - shown} more classes" if classes > shown else ""
    unreadable = len(album.get("unreadable") or ())
    bad = f"; {unreadable} records gave no picture" if unreadable else ""
    return Photos(
        f"Examples of the {album.get('split', NOT_AVAILABLE)} split{rest}{bad}",
        tuple(
            _example(facts, number, evidence)
            for number, facts in enumerate(album["pictures"], 1)
        ),
        _ALBUM,
    )


def _example(facts: Row, number: int, evidence: Evidence) -> Photo:
    name, image, width, height = (
        facts.get(key, NOT_AVAILABLE) for key in ("class", "id", "width", "height")
    )
    return Photo(
        name=f"example-{number:02d}",
        caption=f"{name}: {image}, {width} × {height}",
        alt=f"A training image of class {name}",
        jpeg=evidence.find(facts),
    )
