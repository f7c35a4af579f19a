"""Texts, histograms and files of rows as W&B's SDK takes them.

The SDK copies a file into the run's folder under a name that holds the metric's; so it is given a
name that leads nowhere else, and a link to the blob that ends as W&B expects it. What the SDK does
not take stands in the row as a text, so that the row and all else of it are kept.
"""

import json
import logging
import re
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pillion_sidecar.blobs import Blobs
from pillion_sidecar.columns import Histogram, Media
from pillion_sidecar.errors import PeerError
from pillion_sidecar.records import BlobChunk

BINS_MAX = 512
"""Of a histogram that the SDK takes; of more, two and two are put together."""
NAME_LENGTH_MAX = 80
"""Of a metric's name in a file's."""
INCOMPLETE_MAX = 16
"""Files of which pieces wait; then those of the oldest go."""
TABLE = "application/vnd.pillion.table+json"

_SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/webp": ".webp",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/flac": ".flac",
    "audio/mpeg": ".mp3",
    "audio/ogg": ".ogg",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "video/ogg": ".ogg",
    "text/html": ".html",
}
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")

log = logging.getLogger(__name__)


class WandbValues:
    """Makes the SDK's values. One thread."""

    def __init__(self, wandb: Any, blobs: Blobs) -> None:
        """Take the SDK itself, and where the files are."""
        self._wandb, self._blobs = wandb, blobs
        self._pieces: OrderedDict[str, list[BlobChunk]] = OrderedDict()

    def take(self, chunk: BlobChunk) -> None:
        """Take a piece of a file; with the last one the file is kept."""
        digest = bytes.fromhex(chunk.sha256)
        pieces = self._pieces.setdefault(chunk.sha256, [])
        if not chunk.offset_bytes:
            pieces.clear()
        if chunk.offset_bytes == sum(len(piece.data) for piece in pieces):
            pieces.append(chunk)
        self._pieces.move_to_end(chunk.sha256)
        if sum(len(piece.data) for piece in pieces) == chunk.size_bytes:
            del self._pieces[chunk.sha256]
            if not self._blobs.has(digest):
                try:
                    self._blobs.put(digest, b"".join(piece.data for piece in pieces))
                except PeerError as error:
                    log.warning("a file is not what it was announced", extra={"error": error})
        elif len(self._pieces) > INCOMPLETE_MAX:
            self._pieces.popitem(last=False)

    def of_row(self, sdk_run: Any, ordinal: int, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row as the SDK takes it; its files are in the run's folder then."""
        return {
            key: self._of(sdk_run, ordinal, key, value)
            if isinstance(value, Histogram | tuple)
            else value
            for key, value in row.items()
        }

    def _of(
        self, sdk_run: Any, ordinal: int, key: str, value: Histogram | tuple[Media, ...]
    ) -> Any:
        try:
            if isinstance(value, Histogram):
                return self._wandb.Histogram(np_histogram=_folded(value))
            with tempfile.TemporaryDirectory(prefix="pillion-media-") as links:
                return self._of_files(sdk_run, ordinal, key, value, Path(links))
        except Exception as error:  # noqa: BLE001 - the SDK raises whatever happens to it
            where = {"run_id": sdk_run.id, "ordinal": ordinal, "error": error}
            log.warning("W&B does not take a value", extra=where)
            what = [file.media_type for file in value] if isinstance(value, tuple) else "histogram"
            return f"(W&B does not take this: {what})"

    def _of_files(
        self, sdk_run: Any, ordinal: int, key: str, files: Sequence[Media], links: Path
    ) -> Any:
        items = []
        name = _UNSAFE.sub("_", key)[:NAME_LENGTH_MAX]
        for index, file in enumerate(files):
            item = self._of_file(file, links)
            item.bind_to_run(sdk_run, name, ordinal, f"{index}_{file.sha256[:20]}")
            items.append(item)
        if len(items) == 1:
            return items[0].to_json(sdk_run)
        kinds = {type(item) for item in items}
        if len(kinds) == 1 and hasattr(items[0], "seq_to_json"):
            return items[0].seq_to_json(items, sdk_run, name, ordinal)
        return [item.to_json(sdk_run) for item in items]

    def _of_file(self, file: Media, links: Path) -> Any:
        blob = self._blobs.path(bytes.fromhex(file.sha256))
        caption = file.attributes.get("caption")
        if file.media_type == TABLE:
            table = json.loads(blob.read_bytes())
            return self._wandb.Table(table["columns"], table["data"], allow_mixed_types=True)
        link = links / f"{file.sha256}{_SUFFIXES[file.media_type]}"
        if not link.exists():
            link.symlink_to(blob.resolve(strict=True))
        kind = file.media_type.partition("/")[0]
        if kind == "text":
            return self._wandb.Html(str(link), inject=False)
        if kind == "audio":
            return self._wandb.Audio(str(link), caption=caption)
        if kind == "video" or (file.media_type == "image/gif" and "fps" in file.attributes):
            return self._wandb.Video(str(link), caption=caption)
        return self._wandb.Image(str(link), caption=caption)


def _folded(histogram: Histogram) -> tuple[list[float], list[float]]:
    """Return counts and edges, not more of them than W&B takes."""
    counts, edges = list(histogram.counts), list(histogram.edges)
    while len(counts) > BINS_MAX:
        last = edges[-1]
        counts = [sum(counts[index : index + 2]) for index in range(0, len(counts), 2)]
        edges = [*edges[:-1:2], last]
    return counts, edges
