"""Files that are there wholly or not at all."""

import os
from pathlib import Path

import pytest

from pillion_sidecar.durable_files import write_durably


def test_a_file_takes_an_earlier_ones_place_and_is_its_owners_alone(tmp_path: Path) -> None:
    """What a write that was cut off left is no hindrance."""
    path = tmp_path / "choices.json"
    path.write_text("earlier")
    path.with_name("choices.json.new").write_text("cut off")
    write_durably(path, "later")
    assert path.read_text(encoding="utf-8") == "later"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_synced_takes_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier one stays as it was."""
    path = tmp_path / "choices.json"
    path.write_text("earlier")

    def fail(_: int) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="gone"):
        write_durably(path, "later")
    assert path.read_text(encoding="utf-8") == "earlier"
