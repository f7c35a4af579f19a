"""The sidecar's settings: by flag, by `PILLION_*` variable, or in a TOML file, in that order.

Also decides where the data lives if nothing is said. Settings are ours; what users give a run is
its config.
"""

import os
import platform
import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pillion.address import Address, AddressError, default_address
from pillion.spool import spool_directory
from pillion_sidecar.anomaly_thresholds import Threshold
from pillion_sidecar.errors import SettingsError

NETWORK_FILESYSTEMS = {
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "9p", "ceph", "afs", "glusterfs"),
    *("fuse.sshfs", "fuse.glusterfs"),
}
"""Where locks and SQLite's WAL cannot be relied on."""


SYSTEM_INTERVAL_MIN_S = 0.1


def default_data_dir() -> Path:
    """Return `$XDG_DATA_HOME/pillion/HOST`, or a local directory if that is on a network.

    Home is on a network filesystem on many clusters; locks and SQLite's WAL do not hold there.
    """
    base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    directory = base / "pillion" / (platform.node() or "localhost")
    if filesystem_of(directory) in NETWORK_FILESYSTEMS:
        return Path("/var/tmp") / f"pillion-{os.getuid()}"  # noqa: S108 - made 0700 and checked
    return directory


def filesystem_of(path: Path) -> str:
    """Return the type of the filesystem that holds a path, as /proc/self/mountinfo names it."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = ""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == wanted:
            found = source.split()[0]
    return found


class WandbMode(StrEnum):
    """What becomes of runs at W&B."""

    AUTO = "auto"
    """Online where there is a key, else offline."""
    ONLINE = "online"
    """They are streamed to a W&B server."""
    OFFLINE = "offline"
    """W&B's own files are written, ready for `wandb sync`."""
    DISABLED = "disabled"
    """Nothing of wandb is started."""


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    """For people."""
    JSON = "json"
    """One object per line, for machines."""


class AlertLevelMin(StrEnum):
    """Which alerts are passed on: these and graver ones."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


AnomalyRule = Literal[
    "nan",
    "loss_spike",
    "divergence",
    "gradient_explosion",
    "gradient_vanishing",
    "plateau",
    "overfitting",
    "throughput_drop",
    "stalled",
    "idle_gpu",
    "threshold",
]


class LogLevel(StrEnum):
    """What is logged: this and what is graver."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Settings(BaseSettings):
    """What an operator may choose. Build it with `load`."""

    model_config = SettingsConfigDict(
        env_prefix="PILLION_", env_ignore_empty=True, extra="forbid", frozen=True
    )

    data_dir: Path = Field(default_factory=default_data_dir)
    """Holds the journal, the store and W&B's files; one per host, on a local disk."""
    store: str = Field(default="", repr=False)
    """The store's URL, in which there may be a password; empty: `store.db` in `data_dir`."""
    listen: str = Field(default_factory=lambda: str(default_address()))
    """`unix:PATH`, or `HOST:PORT` on loopback."""
    wandb_mode: WandbMode = WandbMode.AUTO
    wandb_project: str = ""
    """Of runs that name none; empty: `uncategorized`."""
    wandb_entity: str = ""
    """The W&B team or user that runs go to; empty: the key's default."""
    wandb_base_url: str = ""
    """The W&B server; empty: `$WANDB_BASE_URL`, else W&B's own."""
    wandb_api_key_file: Path | None = None
    """Holds the W&B key; None: where `configuration.py` looks."""
    wandb_send_interval_s: int = Field(default=5, ge=1, le=3600)
    """How often an online run's rows are sent, in whole seconds."""
    spool_dir: Path = Field(default_factory=spool_directory)
    """Where trainers that had no sidecar left what they logged."""
    drain_timeout_s: float = Field(default=20.0, gt=0, le=3600)
    """How long a stop may take to deliver what is left."""
    store_wait_s: float = Field(default=5.0, ge=0, le=25)
    """How long an answer may wait for the store; then it tells what there is. The commands wait for
    an answer a little longer than the most: see `asking.py`."""
    disk_reserve_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    """Intake is refused while the journal's disk has less room than that."""
    artifact_keep_last: int = Field(default=0, ge=0)
    """`pillion gc` keeps so many versions of each artifact; 0: all."""
    metric_keys_max: int = Field(default=100_000, gt=0)
    """Metrics that a run may have; values of others are refused and counted."""
    system_interval_s: float = Field(default=15.0, ge=0, le=3600)
    """How often a run's processes, host and GPUs are sampled; 0: never."""
    anomalies: bool = True
    """Whether runs are looked through for anomalies, and alerts passed on."""
    anomaly_rules: tuple[str, ...] = ()
    """Rules of the operator's own; see `anomaly_thresholds.py`."""
    anomaly_stop: tuple[AnomalyRule, ...] = ()
    """Rules that ask a run's trainers to stop."""
    anomaly_stall_min_s: float = Field(default=900.0, gt=0)
    """A run that is silent for less is not stalled."""
    alert_webhook: str = Field(default="", repr=False)
    """Where alerts are posted; may hold a secret. Empty: nowhere."""
    alert_command: str = ""
    """What is run for each alert, split as a shell would; empty: nothing."""
    alert_level_min: AlertLevelMin = AlertLevelMin.WARN
    """Which alerts the webhook and the command are given."""
    log_format: LogFormat = LogFormat.TEXT
    log_level: LogLevel = LogLevel.INFO
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Where `GET /metrics` is answered, on 127.0.0.1; None: nowhere, 0: at a free port."""

    @field_validator("spool_dir")
    @classmethod
    def _absolute_spool(cls, path: Path) -> Path:
        return _absolute(path)

    @field_validator("data_dir")
    @classmethod
    def _absolute_data(cls, path: Path) -> Path:
        if not set("?#%").isdisjoint(str(path)):
            raise ValueError("a '?', '#' or '%' in it would be read as part of a database's URL")
        return _absolute(path)

    @field_validator("system_interval_s")
    @classmethod
    def _system_interval(cls, interval_s: float) -> float:
        if 0 < interval_s < SYSTEM_INTERVAL_MIN_S:
            raise ValueError(f"0 for never, or {SYSTEM_INTERVAL_MIN_S} to 3,600 seconds")
        return interval_s

    @field_validator("anomaly_rules")
    @classmethod
    def _rules(cls, rules: tuple[str, ...]) -> tuple[str, ...]:
        for rule in rules:
            try:
                Threshold.parse(rule)
            except SettingsError as error:
                raise ValueError(str(error)) from error
        return rules

    @field_validator("alert_webhook")
    @classmethod
    def _webhook(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("a webhook begins with https:// or http://")
        return url

    @field_validator("alert_command")
    @classmethod
    def _command(cls, command: str) -> str:
        try:
            shlex.split(command)
        except ValueError as error:
            raise ValueError(f"{command!r} cannot be split into words: {error}") from error
        return command

    @field_validator("listen")
    @classmethod
    def _address(cls, text: str) -> str:
        address = Address.parse(text)
        if not address.is_loopback:
            raise AddressError(
                f"{text} can be reached from other machines, which needs TLS; this version does "
                "not have it. Listen on unix:PATH or 127.0.0.1:PORT."
            )
        return str(address)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings calls it so
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then variables, then the file."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))

    @property
    def address(self) -> Address:
        """Where to listen."""
        return Address.parse(self.listen)

    @property
    def journal_path(self) -> Path:
        """The journal's database."""
        return self.data_dir / "journal.db"

    @property
    def store_url(self) -> str:
        """The store's database, for SQLAlchemy. Not for people: there may be a password in it."""
        return self.store or f"sqlite:///{self.data_dir / 'store.db'}"

    @property
    def id_path(self) -> Path:
        """Which sidecar this is; see `sidecar_id.py`."""
        return self.data_dir / "sidecar-id"

    @property
    def blobs_dir(self) -> Path:
        """The blob store: files of rows, and of artifacts."""
        return self.data_dir / "blobs"

    @property
    def wandb_dir(self) -> Path:
        """Where W&B's files are; `wandb sync` works on its `wandb` folder."""
        return self.data_dir / "wandb"

    @property
    def wandb_dirs(self) -> list[Path]:
        """Where W&B's files are, those of every credential."""
        return [self.wandb_dir, *self.data_dir.glob("wandb-*/")]

    @property
    def marks_path(self) -> Path:
        """What was told of anomalies."""
        return self.data_dir / "anomalies.db"

    @property
    def pages_path(self) -> Path:
        """Where runs are at W&B."""
        return self.data_dir / "pages.jsonl"

    @property
    def token_path(self) -> Path:
        """The token that TCP callers must show."""
        return self.data_dir / "token"

    @property
    def admin_token_path(self) -> Path:
        """The token that TCP callers must show to configure the sidecar, or to delete runs."""
        return self.data_dir / "admin-token"


def _mistake_text(mistake: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    """Name the setting as it was given, by its flag if so, and say what may be given."""
    name = str(mistake["loc"][0]) if mistake["loc"] else "settings"
    if flags.get(name) is not None:
        name = f"--{name.replace('_', '-')}"
    if mistake["type"] in {"literal_error", "enum"}:
        return f"{name}: there is no {mistake['input']!r}. Give {mistake['ctx']['expected']}."
    if mistake["type"] == "extra_forbidden":
        return f"{name}: there is no such setting."
    said = mistake["msg"].removeprefix("Value error, ")
    return f"{name}: {said.replace('Input should', 'it has to')}"


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # ~somebody whom nobody knows
        raise ValueError(str(error)) from error


def load(file: Path | None = None, **flags: Any) -> Settings:
    """Build settings from flags (None: not given), variables and a TOML file.

    Args:
        file: The file; None: the one that `$PILLION_SETTINGS` names, if any.
        flags: Settings by their names.

    Raises:
        SettingsError: Something is wrong; all mistakes are named at once.
    """
    if file is None and (named := os.environ.get("PILLION_SETTINGS")):
        file = Path(named)

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        if file is not None:
            file.open("rb").close()  # the source takes a missing file for an empty one
        return FromFile(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        mistakes = [_mistake_text(mistake, flags) for mistake in error.errors()]
        raise SettingsError("These settings cannot be used:\n  " + "\n  ".join(mistakes)) from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"The settings file cannot be read: {error}.") from error
