"""Keys of W&B: which source counts, and that a file that is no use is no error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pillion_sidecar.wandb_keys import find_key, netrc_in_memory, netrc_path_of, take_key_out

KEY, OTHER = "k" * 40, "o" * 40
OWN = "http://127.0.0.1:8080"


@pytest.fixture
def netrc(tmp_path: Path) -> Path:
    """Return a file as `wandb login` leaves it, with an entry that is not W&B's before."""
    path = tmp_path / ".netrc"
    path.write_text(
        "default login anonymous password me@example.org\n"
        f"machine api.wandb.ai\n  login user\n  password {KEY}\n"
        f"machine 127.0.0.1:8080\n  login user\n  password {OTHER}\n"
    )
    return path


@pytest.mark.parametrize(
    ("base_url", "key"),
    [
        ("", KEY),
        ("https://api.wandb.ai", KEY),
        ("https://api.forge.coreweave.com", KEY),
        (OWN, OTHER),
        ("http://127.0.0.1:8081", None),
        ("https://wandb.example.org/", None),
    ],
)
def test_a_key_is_found_under_the_host_of_its_server(
    netrc: Path, base_url: str, key: str | None
) -> None:
    """W&B's own has two names; the file's default entry is no key."""
    assert find_key(base_url, {}, netrc) == key


def test_the_environment_counts_before_the_file(netrc: Path) -> None:
    """An empty variable is none."""
    assert find_key(OWN, {"WANDB_API_KEY": KEY}, netrc) == KEY
    assert find_key(OWN, {"WANDB_API_KEY": " "}, netrc) == OTHER


@pytest.mark.parametrize("content", [None, b"", b"machine", b"\xff\xfe\x00", b"machine x login"])
def test_a_file_that_cannot_be_read_holds_no_key(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty, damaged."""
    path = tmp_path / "netrc"
    if content is not None:
        path.write_bytes(content)
    assert find_key("", {}, path) is None


def test_the_file_is_where_the_sdk_looks() -> None:
    """`$NETRC`, else in the home directory of that environment."""
    assert netrc_path_of({"HOME": "/h"}) == Path("/h/.netrc")
    assert netrc_path_of({"HOME": "/h", "NETRC": "/n"}) == Path("/n")


def test_a_key_in_memory_is_found_by_who_inherits_it() -> None:
    """As often as they look; it goes with who has it open, and without a key there is none."""
    with netrc_in_memory(OWN, KEY) as (name, descriptor):
        code = f"import netrc; print([netrc.netrc({name!r}).hosts for _ in range(2)])"
        shown = subprocess.check_output([sys.executable, "-c", code], pass_fds=[descriptor])
        assert eval(shown) == [{"127.0.0.1:8080": ("user", "", KEY)}] * 2
        assert find_key(OWN, {}, Path(name)) == KEY
    assert find_key(OWN, {}, Path(name)) is None
    with netrc_in_memory(OWN, "") as (name, _):
        assert find_key(OWN, {}, Path(name)) is None


def test_the_key_leaves_what_the_kernel_shows_of_the_process() -> None:
    """Nothing else does; a mapping that is no environment only loses the entry."""
    code = """
import os
from pathlib import Path
from pillion_sidecar.wandb_keys import take_key_out
take_key_out(os.environ)
assert "WANDB_API_KEY" not in os.environ
take_key_out(os.environ)
print(Path("/proc/self/environ").read_text())
"""
    environment = os.environ | {"WANDB_API_KEY": KEY, "WANDB_NAME": "other"}
    shown = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert KEY not in shown
    assert "WANDB_NAME=other" in shown
    mapping = {"WANDB_API_KEY": KEY, "HOME": "/"}
    take_key_out(mapping)
    assert mapping == {"HOME": "/"}
