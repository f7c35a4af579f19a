"""How W&B is set up: what counts before what, what is kept, and what is refused."""

import asyncio
import importlib.util
import stat
from pathlib import Path
from typing import Any

import pytest

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.configuration import Configuration
from pillion_sidecar.delivery import Delivery
from pillion_sidecar.errors import PeerError, SettingsError
from pillion_sidecar.records import TargetMode, WandbTarget
from pillion_sidecar.settings import Settings, WandbMode
from pillion_sidecar.wandb_control import WandbControl
from pillion_sidecar.wandb_keys import DEFAULT_BASE_URL

KEY, OTHER_KEY = "k" * 40, "o" * 40
URL = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a home and a data directory of the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    return tmp_path


def configuration(home: Path, environ: dict[str, str] | None = None, **given: Any) -> Configuration:
    """Make what a sidecar that starts has."""
    settings = Settings(data_dir=home / "data", listen=f"unix:{home}/s.sock", **given)
    environ = {} if environ is None else environ
    environ.setdefault("HOME", str(home))
    return Configuration(settings, environ)


def request(**fields: Any) -> pb2.ConfigureRequest:
    """Make a request; `tags` as a list."""
    tags = fields.pop("tags", None)
    made = pb2.ConfigureRequest(**fields)
    if tags is not None:
        made.tags.SetInParent()
        made.tags.tags.extend(tags)
    return made


def test_without_a_key_runs_are_offline_and_with_one_online(home: Path) -> None:
    """Unless something is said; disabled means that no sink is there at all."""
    assert configuration(home).target() == WandbTarget(TargetMode.OFFLINE)
    with_key = configuration(home, {"WANDB_API_KEY": KEY})
    assert with_key.target() == WandbTarget(TargetMode.ONLINE)
    assert with_key.accounts()["wandb"] is not None
    chosen = configuration(home, {"WANDB_API_KEY": KEY}, wandb_mode=WandbMode.OFFLINE)
    assert chosen.target() == WandbTarget(TargetMode.OFFLINE)
    disabled = configuration(home, {"WANDB_API_KEY": KEY}, wandb_mode=WandbMode.DISABLED)
    assert (disabled.target().sink, disabled.accounts()) == ("", {})


def test_the_key_leaves_the_environment(home: Path) -> None:
    """Nothing that the sidecar starts inherits it, and nothing that is printed shows it."""
    environ = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"{URL}/"}
    made = configuration(home, environ)
    assert "WANDB_API_KEY" not in environ
    account = made.account("")
    assert account is not None
    assert (account.base_url, account.key) == (URL, KEY)
    assert KEY not in repr(account)
    assert KEY not in str(made.status([]))


@pytest.mark.parametrize("place", ["configured", "file", "systemd", "environment", "netrc"])
def test_keys_are_found_in_this_order(home: Path, place: str) -> None:
    """Each place counts before those behind it."""
    places = ["configured", "file", "systemd", "environment", "netrc"]
    left = places[places.index(place) :]
    environ: dict[str, str] = {}
    given: dict[str, Any] = {}
    keys = {name: name[0] * 40 for name in places}
    if "configured" in left:
        (home / "data" / "keys").mkdir()
        (home / "data" / "keys" / "default").write_text(keys["configured"])
    if "file" in left:
        (home / "key").write_text(f"{keys['file']}\n")
        given["wandb_api_key_file"] = home / "key"
    if "systemd" in left:
        (home / "credentials").mkdir()
        (home / "credentials" / "wandb_api_key").write_text(keys["systemd"])
        environ["CREDENTIALS_DIRECTORY"] = str(home / "credentials")
    if "environment" in left:
        environ["WANDB_API_KEY"] = keys["environment"]
    host = DEFAULT_BASE_URL.removeprefix("https://")
    (home / ".netrc").write_text(f"machine {host} login user password {keys['netrc']}\n")
    account = configuration(home, environ, **given).account("")
    assert account is not None
    assert account.key == keys[place]


def test_what_is_configured_is_kept_and_what_is_given_counts_before_it(home: Path) -> None:
    """Over a restart; a key of its own file, for its owner alone."""
    made = configuration(home)
    made.configure(
        request(project="p", entity="team", tags=["a", "b", "a"], api_key=KEY, base_url=f"{URL}/")
    )
    again = configuration(home)
    assert again.choices == made.choices
    assert (again.choices.project, again.choices.tags) == ("p", ("a", "b"))
    assert again.target() == WandbTarget(TargetMode.ONLINE, "team")
    path = home / "data" / "keys" / "default"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KEY not in (home / "data" / "wandb.json").read_text()
    given = configuration(home, wandb_mode=WandbMode.OFFLINE, wandb_entity="mine")
    assert given.target() == WandbTarget(TargetMode.OFFLINE, "mine")
    assert given.choices.project == "p"
    made.configure(request(api_key=""))
    assert configuration(home).account("") is None


def test_what_is_not_named_stays(home: Path) -> None:
    """Tags are taken away only by saying so."""
    made = configuration(home)
    made.configure(request(project="p", tags=["a"], enabled=False))
    made.configure(request(entity="e"))
    assert (made.choices.project, made.choices.tags, made.is_enabled) == ("p", ("a",), False)
    made.configure(request(tags=[], enabled=True))
    assert (made.choices.tags, made.mode) == ((), WandbMode.OFFLINE)
    made.configure(request(mode="online"))
    made.configure(request(enabled=True))  # it is: what was chosen stays
    assert made.choices.mode is WandbMode.ONLINE


def test_each_credential_is_a_sink(home: Path) -> None:
    """With a server and a key of its own; runs are bound to the one in use."""
    made = configuration(home, {"WANDB_API_KEY": KEY})
    made.configure(request(credential="crew", api_key=OTHER_KEY, base_url=URL))
    assert made.target().sink == "wandb-crew"
    accounts = made.accounts()
    assert {name: account and account.key for name, account in accounts.items()} == {
        "wandb": KEY,
        "wandb-crew": OTHER_KEY,
    }
    made.configure(request(credential=""))
    assert made.target().sink == "wandb"
    shown = {one.name: one.has_key for one in made.status([]).credentials}
    assert shown == {"": True, "crew": True}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("mode", "sometimes", "mode: 'sometimes' is none of auto, online, offline, disabled"),
        ("api_key", "short", "that is no W&B key"),
        ("api_key", "with spaces " * 5, "that is no W&B key"),
        ("base_url", "ftp://example.org", "base_url: a URL such as"),
        ("base_url", "https://user:secret@example.org", "base_url: a URL such as"),
        ("project", "p" * 1025, "project: longer than 1024 bytes"),
        ("entity", "e" * 1025, "entity: longer than 1024 bytes"),
        ("tags", [str(number) for number in range(257)], "tags: 257 of them; at most 256"),
        ("tags", ["t" * 1025], "tags: longer than 1024 bytes"),
        ("credential", "../up", "credential: 1 to 32 small letters"),
        ("credential", "default", "credential: 1 to 32 small letters"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(
    home: Path, field: str, value: Any, said: str
) -> None:
    """With what is wrong and what to do; never with the key itself."""
    made = configuration(home)
    before = made.choices
    with pytest.raises(PeerError, match=said) as refused:
        made.configure(request(**{"project": "new", field: value}))
    assert made.choices == before
    assert not (home / "data" / "wandb.json").exists()
    assert field != "api_key" or value not in str(refused.value)


def test_more_credentials_than_workers_may_be_are_refused(home: Path) -> None:
    """Each has a process."""
    made = configuration(home)
    for number in range(15):
        made.configure(request(credential=f"c{number}"))
    with pytest.raises(PeerError, match="no more are taken"):
        made.configure(request(credential="one-more"))


def test_why_runs_cannot_be_delivered_is_one_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switched off, without a key, refused, without wandb: each with the next step."""
    assert configuration(home).status([]).problem == ""  # offline, nothing is needed
    off = configuration(home, wandb_mode=WandbMode.DISABLED).status([])
    assert (off.enabled, off.available) == (False, False)
    assert "pillion configure --on" in off.problem
    online = configuration(home, wandb_mode=WandbMode.ONLINE)
    assert "There is no W&B key. Run `wandb login`" in online.status([]).problem
    online.configure(request(api_key=KEY))
    assert online.status(["r"]).available
    online.problems[""] = "W&B does not take the key."
    assert online.status([]).problem == "W&B does not take the key."
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "The wandb package is not installed" in configuration(home).status([]).problem


def test_files_that_cannot_be_read_are_named(home: Path) -> None:
    """What is kept, and the key's file."""
    with pytest.raises(SettingsError, match="nowhere"):
        configuration(home, wandb_api_key_file=home / "nowhere")
    (home / "data" / "wandb.json").write_text("{")
    with pytest.raises(SettingsError, match="Delete it, and configure W&B again"):
        configuration(home)


def test_changes_that_come_at_once_are_all_made(home: Path) -> None:
    """One after the other: each begins with what the one before has made."""
    made = configuration(home, wandb_mode=WandbMode.OFFLINE)
    names = [f"key-{number}" for number in range(10)]

    async def change() -> None:
        control = WandbControl(made, Delivery(made._settings, made.accounts(), {}))
        await asyncio.gather(*(control.configure(request(credential=name)) for name in names))

    asyncio.run(change())
    assert set(made.choices.servers) == {"", *names}
    assert configuration(home).choices.servers == made.choices.servers
