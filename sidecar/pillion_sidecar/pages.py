"""Where runs are at W&B, kept in `DATA_DIR/pages.jsonl` so that it can be read without a sidecar.

Written by the sidecar alone, a line per run as soon as W&B tells. Nothing depends on it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pillion.v1 import run_pb2

COMPARED_MIN, COMPARED_MAX = 2, 5
"""How many runs W&B's table shows beside each other."""


class Pages:
    """The runs' URLs."""

    def __init__(self, path: Path) -> None:
        """Read what is known; a line that is torn is passed by."""
        self._path = path
        self._urls: dict[str, str] = {}
        self._is_torn = False
        if path.exists():
            text = path.read_text(encoding="utf-8")
            self._is_torn = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                try:
                    self._urls.update(json.loads(line))
                except ValueError:
                    continue

    def add(self, run_id: str, url: str) -> None:
        """Note a run's URL. Raises OSError."""
        if self._urls.get(run_id, "") != url:
            self._urls[run_id] = url
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" * self._is_torn + json.dumps({run_id: url}) + "\n")
            self._is_torn = False

    def forget(self, run_id: str) -> None:
        """Note that a run has none. Raises OSError."""
        self.add(run_id, "")

    def url(self, run_id: str) -> str:
        """Return a run's URL; empty: it has none yet."""
        return self._urls.get(run_id, "")

    def show(self, runs: Sequence[run_pb2.Run]) -> None:
        """Put their URLs into runs."""
        for run in runs:
            run.url = self._urls.get(run.run_id, "")

    def comparison_url(self, runs: Sequence[run_pb2.Run]) -> str:
        """Return the URL of W&B's table of these runs; empty: it has no such table."""
        urls = [self._urls.get(run.run_id, "") for run in runs]
        projects = {url.rpartition("/runs/")[0] for url in urls}
        if not COMPARED_MIN <= len(urls) <= COMPARED_MAX or len(projects) != 1 or not all(projects):
            return ""
        run_sets = ",".join(url.rpartition("/runs/")[2] for url in urls)
        return f"{projects.pop()}/table?runSets={run_sets}"
