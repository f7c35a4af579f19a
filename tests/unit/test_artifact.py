"""Artifacts as scripts that were written for W&B put them together."""

import gc
from pathlib import Path

import pytest

from pillion._artifact import Artifact, artifact_of
from pillion._messages import Start


def names(artifact: Artifact) -> dict[str, Path | None]:
    """Return its files, and where they are."""
    manifest, sources = artifact.to_manifest(Start("run", "writer", "allow", {}, {}), [])
    return dict(zip((file.name for file in manifest.files), sources, strict=True))


def test_a_new_file_is_added_when_it_is_closed() -> None:
    """It lies somewhere for as long as the artifact is held."""
    artifact = Artifact("model", "model")
    with artifact.new_file("a/text", mode="w") as file:
        file.write("µ")
    with artifact.new_file("bytes", mode="wb") as file:
        file.write(b"\x00")
    paths = names(artifact)
    assert {name: path and path.read_bytes() for name, path in paths.items()} == {
        "a/text": "µ".encode(),
        "bytes": b"\x00",
    }
    del artifact
    gc.collect()
    assert not any(path and path.exists() for path in paths.values())


def test_a_pattern_stands_for_the_files_it_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under their names below what they have in common."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.pt", "b.pt", "c.txt", "sub/d.pt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    assert list(names(artifact_of("*.pt", None, None, "run"))) == ["a.pt", "b.pt"]
    absolute = names(artifact_of(f"{tmp_path}/**/*.pt", None, None, "run"))
    assert list(absolute) == ["a.pt", "b.pt", "sub/d.pt"]
    with pytest.raises(ValueError, match="has no files"):
        names(artifact_of("*.bin", None, None, "run"))
