"""Addresses: what is read, what is refused, and which directories are safe."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion import address as address_module
from pillion.address import (
    UNIX_PATH_BYTES_MAX,
    Address,
    AddressError,
    default_address,
    is_of_one_user,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:/run/x.sock", Address(path=Path("/run/x.sock"))),
        ("unix:///run/x.sock", Address(path=Path("/run/x.sock"))),
        ("localhost:1", Address(host="localhost", port=1)),
        ("127.0.0.1:65535", Address(host="127.0.0.1", port=65535)),
        ("127.0.0.1:0", Address(host="127.0.0.1", port=0)),
        ("[::1]:50051", Address(host="[::1]", port=50051)),
    ],
)
def test_address_is_read(text: str, expected: Address) -> None:
    """A socket's path or a host and port."""
    assert Address.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "localhost", ":1", "localhost:", "localhost:65536", "localhost:-1", "localhost:x"]
)
def test_text_that_is_no_address_is_refused(text: str) -> None:
    """The refusal shows the text and the two forms there are."""
    with pytest.raises(AddressError, match="Write unix:PATH or HOST:PORT"):
        Address.parse(text)


def test_socket_path_is_bounded() -> None:
    """The kernel takes 107 bytes; its own error does not say so."""
    path = "/" + "x" * (UNIX_PATH_BYTES_MAX - 1)
    assert str(Address.parse(f"unix:{path}").path) == path
    with pytest.raises(AddressError, match="longer than 107 bytes"):
        Address.parse(f"unix:{path}x")
    with pytest.raises(AddressError, match="longer than 107 bytes"):
        Address.parse("unix:/" + "é" * 54)


def test_socket_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path and one in the user's home mean one place, wherever it is used."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert Address.parse("unix:run/x").path == tmp_path / "run" / "x"
    assert Address.parse("unix:~/x").path == Path("/home/me/x")


def test_socket_without_a_path_is_refused() -> None:
    """A directory is no socket."""
    with pytest.raises(AddressError):
        Address.parse("unix:")


@given(
    st.one_of(
        st.builds(
            lambda names: f"unix:/{'/'.join(names)}",
            st.lists(
                st.text("abc-_.é ", min_size=1, max_size=8).filter(lambda name: name.strip(".")),
                min_size=1,
                max_size=4,
            ),
        ),
        st.builds(
            lambda host, port: f"{host}:{port}",
            st.sampled_from(["localhost", "127.0.0.1", "[::1]", "example.org"]),
            st.integers(0, 65535),
        ),
    )
)
def test_written_address_is_read_as_itself(text: str) -> None:
    """What is written for gRPC and people names the same place again."""
    address = Address.parse(text)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("unix:/run/x", True),
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.0.2.1:1", False),
        ("localhost.example.org:1", False),
    ],
)
def test_loopback_is_what_only_this_host_reaches(text: str, is_loopback: bool) -> None:
    """In doubt an address counts as reachable by others."""
    assert Address.parse(text).is_loopback is is_loopback


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Make a directory that is safe."""
    directory = tmp_path / "pillion"
    directory.mkdir(mode=0o700)
    return directory


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_directory_that_others_cannot_write_is_safe(directory: Path, mode: int) -> None:
    """Who cannot write there cannot put a socket of his own there."""
    directory.chmod(mode)
    Address(path=directory / "sidecar.sock").check_directory()


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_directory_that_others_can_write_is_refused(directory: Path, mode: int) -> None:
    """Another user could listen in the sidecar's place."""
    directory.chmod(mode)
    with pytest.raises(AddressError, match="chmod 0700"):
        Address(path=directory / "sidecar.sock").check_directory()


@pytest.mark.parametrize("mode", [0o1777, 0o2770])
def test_nobody_is_told_to_close_a_shared_directory(directory: Path, mode: int) -> None:
    """It is refused as well, but `chmod 0700 /tmp` would break the machine."""
    directory.chmod(mode)
    with pytest.raises(AddressError, match=r"other users\. Choose another directory\.$"):
        Address(path=directory / "sidecar.sock").check_directory()


def test_only_a_users_own_directory_may_be_closed(directory: Path) -> None:
    """Not those of the machine, of which root owns most."""
    assert is_of_one_user(directory)
    places = ("/", "/tmp", "/run", "/var/tmp", "/var/log", "/usr/local", "/var/run")
    assert not any(is_of_one_user(Path(place)) for place in places)


def test_directory_behind_a_link_is_refused(directory: Path, tmp_path: Path) -> None:
    """Where a link leads can change at any time."""
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(AddressError, match="no directory of its own"):
        Address(path=tmp_path / "link" / "sidecar.sock").check_directory()


def test_directory_that_is_missing_is_refused(tmp_path: Path) -> None:
    """The refusal says that it is not there."""
    with pytest.raises(AddressError, match="No such file"):
        Address(path=tmp_path / "none" / "sidecar.sock").check_directory()


def test_directory_of_another_user_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only our own directories and root's are safe."""
    owner = directory.stat().st_uid
    monkeypatch.setattr(address_module.os, "getuid", lambda: owner + 1)
    path = directory / "sidecar.sock"
    if owner == 0:
        Address(path=path).check_directory()
        os.chown(directory, 12345, -1)
    with pytest.raises(AddressError, match="belongs to another user"):
        Address(path=path).check_directory()


def test_tcp_address_has_no_directory() -> None:
    """There is nothing to check; a token is asked for instead."""
    Address.parse("127.0.0.1:1").check_directory()


def test_default_is_the_users_runtime_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one that exists it is a directory of the user's own among the temporary ones."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_address().path == tmp_path / "pillion" / "sidecar.sock"
    monkeypatch.setattr(address_module.tempfile, "tempdir", str(tmp_path))
    own = tmp_path / f"pillion-{os.getuid()}" / "sidecar.sock"
    for runtime in (str(tmp_path / "none"), ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        assert default_address().path == own
