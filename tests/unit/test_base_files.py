"""Which weights a base model has: found, digested once, told by where they are."""

import hashlib
import os
import types
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra [trainer]")

from pillion_trainer import base_files as module
from pillion_trainer.base_files import base_files


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep digests in a place of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pillion" / "digests.json"


def model_from(source: Path | str, commit: str | None = None) -> Any:
    """Return a model as far as it tells where it comes from."""
    config = types.SimpleNamespace(name_or_path=str(source), _commit_hash=commit)
    return types.SimpleNamespace(config=config)


def folder_of(path: Path, **files: bytes) -> Path:
    """Make a folder with files whose names have `_` for `.`."""
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name.replace("_", ".")).write_bytes(content)
    return path


def test_the_digest_is_that_of_what_sha256sum_prints(tmp_path: Path) -> None:
    """Of weights alone, in the order of their names, and of one form of them."""
    folder = folder_of(tmp_path / "m", b_safetensors=b"2", a_safetensors=b"1", c_bin=b"3")
    (folder / "adapter_model.safetensors").write_bytes(b"another's")
    found = base_files("mine", model_from(folder))
    assert [file.name for file in found.files] == ["a.safetensors", "b.safetensors"]
    one, two = (hashlib.sha256(each).hexdigest() for each in (b"1", b"2"))
    listed = f"{one}  a.safetensors\n{two}  b.safetensors\n"
    assert found.sha256 == hashlib.sha256(listed.encode()).hexdigest()
    assert found.files[0].uri == (folder / "a.safetensors").as_uri()
    assert found.as_dict() == {"name": "mine", "commit": "", "sha256": found.sha256}


def test_a_file_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By size and time; a damaged cache only costs another reading."""
    folder = folder_of(tmp_path / "m", a_safetensors=b"1")
    first = base_files("m", model_from(folder))
    with monkeypatch.context() as context:
        context.setattr(module.hashlib, "file_digest", None)
        assert base_files("m", model_from(folder)) == first
    (folder / "a.safetensors").write_bytes(b"2")
    os.utime(folder / "a.safetensors", ns=(1, 1))
    assert base_files("m", model_from(folder)).sha256 != first.sha256
    (tmp_path / "cache" / "pillion" / "digests.json").write_text("{", encoding="utf-8")
    assert base_files("m", model_from(folder)).files[0].sha256 == hashlib.sha256(b"2").hexdigest()


def test_what_the_hubs_cache_has_is_known_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file there is called by its digest, and is not read."""
    digest = "ab" * 32
    repository = tmp_path / "models--org--m"
    folder_of(repository / "blobs")
    (repository / "blobs" / digest).write_bytes(b"not read")
    snapshot = folder_of(repository / "snapshots" / "c0ffee", config_json=b"{}")
    (snapshot / "model.safetensors").symlink_to(repository / "blobs" / digest)
    monkeypatch.setattr(
        "transformers.utils.cached_file", lambda *_, **__: str(snapshot / "config.json")
    )
    found = base_files("org/m", model_from("org/m", "c0ffee"))
    assert [file.sha256 for file in found.files] == [digest]
    assert found.commit == "c0ffee"
    assert found.files[0].uri == "https://huggingface.co/org/m/resolve/c0ffee/model.safetensors"


@pytest.mark.parametrize("source", ["", "/nonexistent", "org/not-here"])
def test_a_base_that_cannot_be_found_is_told_by_its_name(source: str) -> None:
    """The training goes on without its digest."""
    found = base_files("mine", model_from(source))
    assert (found.name, found.files, found.sha256) == ("mine", (), "")
