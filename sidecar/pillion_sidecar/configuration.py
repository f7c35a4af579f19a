"""How W&B is set up: by settings and environment at the start, by `Configure` at run time.

What `Configure` changes is kept in `DATA_DIR/wandb.json` and outlives the sidecar; settings that
are given at a start count before it. Keys are kept apart, in `DATA_DIR/keys`, one file per
credential, readable by their owner alone. A key is told to nobody but the worker that uses it.

A *credential* is a name for a server and a key of it; runs are bound to one when they start, so a
new key under the same name is used for them too. The default one has an empty name.
"""

import importlib.util
import json
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.durable_files import write_durably
from pillion_sidecar.errors import PeerError, SettingsError
from pillion_sidecar.records import PROJECT_DEFAULT, TargetMode, WandbTarget
from pillion_sidecar.settings import Settings, WandbMode
from pillion_sidecar.validation import check_tags
from pillion_sidecar.validation_values import KEY_BYTES_MAX, check_text
from pillion_sidecar.wandb_keys import (
    DEFAULT_BASE_URL,
    Account,
    find_key,
    netrc_path_of,
    take_key_out,
)

CREDENTIALS_MAX = 16
"""Each has a worker of its own."""
KEY_LENGTH_MIN, KEY_LENGTH_MAX = 40, 512
"""What W&B's SDK takes for a key."""
SYSTEMD_CREDENTIAL = "wandb_api_key"

_DEFAULT_KEY = "default"  # the file of the credential without a name
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Choices:
    """What can be chosen, as `wandb.json` has it."""

    mode: WandbMode = WandbMode.AUTO
    project: str = ""
    entity: str = ""
    tags: tuple[str, ...] = ()
    credential: str = ""
    """The one that new runs use."""
    servers: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    """The credentials' servers; empty: W&B's own."""


class Configuration:
    """See the module. `problems` tells by credential what was wrong when it was tried last."""

    def __init__(self, settings: Settings, environ: MutableMapping[str, str]) -> None:
        """Read what is kept and what is given; take the W&B key out of the environment.

        Raises:
            SettingsError: The key's file, or what is kept, cannot be read.
        """
        self._path = settings.data_dir / "wandb.json"
        self._keys_dir = settings.data_dir / "keys"
        self._settings = settings
        self._base_url = environ.get("WANDB_BASE_URL", "").rstrip("/") or DEFAULT_BASE_URL
        self.choices = _given(settings, self._kept())
        self.problems: dict[str, str] = {}
        # Read here, since each start of a run asks, on the event loop.
        self._kept_keys = self._read_keys()
        self._found_key = self._find_key(environ)
        take_key_out(environ)

    @property
    def is_enabled(self) -> bool:
        """Whether new runs go to W&B, or to its files."""
        return self.choices.mode is not WandbMode.DISABLED

    @property
    def mode(self) -> WandbMode:
        """Where new runs go: online, offline or nowhere."""
        choices = self.choices
        if choices.mode is not WandbMode.AUTO:
            return choices.mode
        return WandbMode.ONLINE if self.account(choices.credential) else WandbMode.OFFLINE

    def target(self) -> WandbTarget:
        """Return where a run that starts now goes."""
        return WandbTarget(TargetMode[self.mode.name], self.choices.entity, self.choices.credential)

    def account(self, credential: str) -> Account | None:
        """Return a credential's server and key; None: there is no key."""
        key = self._kept_keys.get(credential) or ("" if credential else self._found_key)
        return Account(self.base_url(credential), key) if key else None

    def accounts(self) -> dict[str, Account | None]:
        """Return, by sink, what each credential's worker is to use; empty: W&B is switched off."""
        if not self.is_enabled:
            return {}
        return {
            WandbTarget(credential=credential).sink: self.account(credential)
            for credential in self.choices.servers
        }

    def configure(self, request: pb2.ConfigureRequest) -> str:
        """Change what is asked for, durably; return the credential that is in use now.

        Raises:
            PeerError: Something of it cannot be; then nothing is changed.
        """
        for name in ("project", "entity", "base_url"):
            check_text(getattr(request, name), name, KEY_BYTES_MAX)
        choices = self.choices
        if request.HasField("enabled"):
            mode = WandbMode.AUTO if request.enabled else WandbMode.DISABLED
            is_so = request.enabled and self.is_enabled  # as it was chosen: online, or offline
            choices = choices if is_so else replace(choices, mode=mode)
        if request.HasField("mode"):
            choices = replace(choices, mode=_mode(request.mode))
        for name in ("project", "entity"):
            if request.HasField(name):
                choices = replace(choices, **{name: getattr(request, name)})
        if request.HasField("tags"):
            choices = replace(choices, tags=check_tags(request.tags.tags, "tags"))
        if request.HasField("credential"):
            choices = replace(choices, credential=_credential(request.credential))
        servers = dict(choices.servers)
        servers.setdefault(choices.credential, "")
        if request.HasField("base_url"):
            servers[choices.credential] = _base_url(request.base_url)
        if len(servers) > CREDENTIALS_MAX:
            raise PeerError(f"credential: there are {CREDENTIALS_MAX}, and no more are taken.")
        key = _key(request.api_key) if request.HasField("api_key") else None
        if key is not None:
            self._keep_key(choices.credential, key)
            self._kept_keys[choices.credential] = key
        self.choices = replace(choices, servers=servers)
        write_durably(self._path, json.dumps(asdict(self.choices), indent=2))
        return choices.credential

    def status(self, active_run_ids: list[str]) -> run_pb2.WandbStatus:
        """Tell how W&B is set up."""
        choices, mode = self.choices, self.mode
        problem = self._problem()
        return run_pb2.WandbStatus(
            enabled=self.is_enabled,
            available=self.is_enabled and not problem,
            mode=mode.value,
            entity=choices.entity,
            active_run_ids=active_run_ids,
            project=choices.project or PROJECT_DEFAULT,
            tags=choices.tags,
            problem=problem,
            credential=choices.credential,
            credentials=[
                run_pb2.WandbCredential(
                    name=name,
                    base_url=self.base_url(name),
                    has_key=self.account(name) is not None,
                    problem=self.problems.get(name, ""),
                )
                for name in choices.servers
            ],
        )

    def _problem(self) -> str:
        choices = self.choices
        if not self.is_enabled:
            return "W&B is switched off. `pillion configure --on` switches it on for new runs."
        if importlib.util.find_spec("wandb") is None:
            return (
                "The wandb package is not installed where the sidecar runs. Run "
                "`pip install 'pillion[sidecar]'` there."
            )
        if self.mode is WandbMode.ONLINE and self.account(choices.credential) is None:
            return (
                "There is no W&B key. Run `wandb login` and start the sidecar again, or give one "
                "with `pillion configure --api-key-file FILE`; runs wait meanwhile."
            )
        return self.problems.get(choices.credential, "") if self.mode is WandbMode.ONLINE else ""

    def base_url(self, credential: str) -> str:
        """Return a credential's server."""
        return self.choices.servers.get(credential) or self._base_url

    def _find_key(self, environ: Mapping[str, str]) -> str:
        """Return the default credential's key, as it is found outside of what `Configure` kept."""
        file = self._settings.wandb_api_key_file
        if file is None and (directory := environ.get("CREDENTIALS_DIRECTORY")):
            systemd = Path(directory) / SYSTEMD_CREDENTIAL
            file = systemd if systemd.exists() else None
        if file is None:
            return find_key(self.base_url(""), environ, netrc_path_of(environ)) or ""
        try:
            return file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"The W&B key cannot be read from {file}: {error}. Check the file, or "
                "--wandb-api-key-file."
            ) from error

    def _kept(self) -> Choices:
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            mode = WandbMode(kept.pop("mode"))
            return Choices(mode=mode, tags=tuple(kept.pop("tags")), **kept)
        except FileNotFoundError:
            return Choices()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{self._path} cannot be read: {error}. Delete it, and configure W&B again."
            ) from error

    def _read_keys(self) -> dict[str, str]:
        try:
            return {
                "" if path.name == _DEFAULT_KEY else path.name: path.read_text("ascii").strip()
                for path in self._keys_dir.iterdir()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"The W&B keys cannot be read from {self._keys_dir}: {error}. Delete them, and "
                "give them again with `pillion configure --api-key-file FILE`."
            ) from error

    def _keep_key(self, credential: str, key: str) -> None:
        path = self._keys_dir / (credential or _DEFAULT_KEY)
        if not key:
            path.unlink(missing_ok=True)
            return
        self._keys_dir.mkdir(mode=0o700, exist_ok=True)
        write_durably(path, key)


def _given(settings: Settings, kept: Choices) -> Choices:
    """Return what is kept, and in its place whatever the operator gave for this start."""
    given = settings.model_fields_set
    chosen = {
        name: getattr(settings, f"wandb_{name}")
        for name in ("mode", "project", "entity")
        if f"wandb_{name}" in given
    }
    servers = dict(kept.servers)
    if "wandb_base_url" in given:
        servers[""] = settings.wandb_base_url.rstrip("/")
    return replace(kept, **chosen, servers=servers)


def _mode(text: str) -> WandbMode:
    try:
        return WandbMode(text)
    except ValueError:
        raise PeerError(f"mode: {text!r} is none of {', '.join(WandbMode)}.") from None


def _credential(name: str) -> str:
    if name and (not _NAME.fullmatch(name) or name == _DEFAULT_KEY):
        raise PeerError(
            "credential: 1 to 32 small letters, digits and `-`, or empty for the default one."
        )
    return name


def _base_url(url: str) -> str:
    if url and not _URL.fullmatch(url):
        raise PeerError("base_url: a URL such as https://wandb.example.org, without a user.")
    return url.rstrip("/")


def _key(key: str) -> str:
    key = key.strip()
    is_one = KEY_LENGTH_MIN <= len(key) <= KEY_LENGTH_MAX and _KEY.fullmatch(key)
    if key and not is_one:  # never said which
        raise PeerError(
            "api_key: that is no W&B key. Take the one from your W&B settings page: "
            f"{KEY_LENGTH_MIN} or more letters and digits."
        )
    return key
