"""The settings: which source wins, what is refused, and where the data lives by default."""

import os
import platform
from pathlib import Path

import pytest

from pillion_sidecar import settings as settings_module
from pillion_sidecar.errors import SettingsError
from pillion_sidecar.settings import WandbMode, default_data_dir, filesystem_of, load


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what this machine's environment says."""
    for name in [name for name in os.environ if name.startswith(("PILLION_", "XDG_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name a settings file."""
    path = tmp_path / "settings.toml"
    monkeypatch.setenv("PILLION_SETTINGS", str(path))
    return path


def test_flags_stand_against_variables_against_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearer to the command line, the stronger."""
    file.write_text('listen = "127.0.0.1:1"\nwandb_mode = "disabled"\ndrain_timeout_s = 1.0\n')
    monkeypatch.setenv("PILLION_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("PILLION_DRAIN_TIMEOUT_S", "2")
    settings = load(listen="127.0.0.1:3", data_dir=None)
    assert settings.listen == "127.0.0.1:3"
    assert settings.drain_timeout_s == 2.0
    assert settings.wandb_mode is WandbMode.DISABLED


def test_file_may_be_given_by_flag(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands against the one that the environment names."""
    file.write_text("drain_timeout_s = 1.0")
    other = tmp_path / "other.toml"
    other.write_text("drain_timeout_s = 2.0")
    assert load().drain_timeout_s == 1.0
    assert load(other).drain_timeout_s == 2.0


def test_all_mistakes_are_named_at_once() -> None:
    """One start tells everything that is to be mended."""
    with pytest.raises(SettingsError) as refusal:
        load(listen="nowhere", drain_timeout_s=0, colour="red")
    text = str(refusal.value)
    assert "listen: 'nowhere' is no address" in text
    assert "--drain-timeout-s: it has to be greater than 0" in text
    assert "colour: there is no such setting" in text


@pytest.mark.parametrize("drain_timeout_s", ["0", "-1", "nan", "inf", "3601", "soon"])
def test_drain_timeout_is_bounded(drain_timeout_s: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait has an end."""
    monkeypatch.setenv("PILLION_DRAIN_TIMEOUT_S", drain_timeout_s)
    with pytest.raises(SettingsError, match="drain_timeout_s"):
        load()


@pytest.mark.parametrize("interval_s", ["0.05", "-1", "3601", "often"])
def test_interval_of_sampling_is_bounded(interval_s: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 is never; what is less than a tenth of a second is a mistake."""
    monkeypatch.setenv("PILLION_SYSTEM_INTERVAL_S", interval_s)
    with pytest.raises(SettingsError, match="system_interval_s"):
        load()
    assert load(system_interval_s=0).system_interval_s == 0


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "192.0.2.1:1", "[::]:1", "example.org:1"])
def test_address_beyond_loopback_is_refused(listen: str) -> None:
    """Without TLS nobody outside this host may reach the sidecar."""
    with pytest.raises(SettingsError, match="needs TLS"):
        load(listen=listen)


@pytest.mark.parametrize("content", ["listen =", 'colour = "red"', "listen = 7", "\x00"])
def test_bad_file_is_refused(file: Path, content: str) -> None:
    """A file with a mistake is never half read."""
    file.write_text(content)
    with pytest.raises(SettingsError):
        load()


def test_file_that_is_no_text_is_refused(file: Path) -> None:
    """Also one that is not UTF-8."""
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        load()


@pytest.mark.parametrize("is_directory", [False, True], ids=["missing", "directory"])
def test_file_that_cannot_be_read_is_refused(file: Path, is_directory: bool) -> None:
    """An operator who names a settings file means it."""
    if is_directory:
        file.mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data_dir", "~nobody-here/x"),
        ("listen", "unix:~nobody-here/x"),
    ],
)
def test_home_of_nobody_is_refused(name: str, value: str) -> None:
    """A path in the home of a user that does not exist is a mistake like any other."""
    with pytest.raises(SettingsError, match=name.replace("_", "-")):
        load(**{name: value})


def test_socket_path_that_linux_does_not_take_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the default one is checked."""
    runtime = tmp_path / ("x" * 120)
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with pytest.raises(SettingsError, match="longer than 107 bytes"):
        load()


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in another directory means the same place."""
    monkeypatch.chdir(tmp_path)
    settings = load(data_dir="data", listen="unix:run/sock")
    assert settings.data_dir == tmp_path / "data"
    assert settings.listen == f"unix:{tmp_path}/run/sock"
    assert settings.address.path == tmp_path / "run" / "sock"


def test_everything_is_kept_in_the_data_directory(tmp_path: Path) -> None:
    """One directory holds it all, and can be moved as one."""
    settings = load(data_dir=tmp_path)
    assert settings.journal_path == tmp_path / "journal.db"
    assert settings.store_url == f"sqlite:///{tmp_path}/store.db"
    assert settings.wandb_dir.parent == tmp_path
    assert settings.token_path.parent == tmp_path


def test_data_lives_under_the_users_data_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One directory per host, since home may be shared by many."""
    host = platform.node() or "localhost"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "pillion" / host
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / ".local" / "share" / "pillion" / host


def test_data_never_lives_on_a_network_filesystem_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks do not hold, a local directory is taken."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(settings_module, "NETWORK_FILESYSTEMS", {filesystem_of(tmp_path)})
    assert default_data_dir() == Path(f"/var/tmp/pillion-{os.getuid()}")


def test_filesystem_is_that_of_the_nearest_directory_that_exists(tmp_path: Path) -> None:
    """A directory that is still to be made will lie on its parent's filesystem."""
    assert filesystem_of(Path("/proc/self/status")) == "proc"
    assert filesystem_of(tmp_path / "a" / "b") == filesystem_of(tmp_path) != ""


def test_rules_for_anomalies_come_in_all_three_forms(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list in the file, JSON in the variable, the flag as often as need be."""
    file.write_text('anomaly_rules = ["loss > 10 for 20 steps"]\nanomaly_stop = ["nan"]\n')
    assert load().anomaly_rules == ("loss > 10 for 20 steps",)
    assert load().anomaly_stop == ("nan",)
    monkeypatch.setenv("PILLION_ANOMALY_RULES", '["a < 1", "b > 2"]')
    assert load().anomaly_rules == ("a < 1", "b > 2")
    assert load(anomaly_rules=["c >= 3"]).anomaly_rules == ("c >= 3",)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"anomaly_rules": ["loss is bad"]}, "METRIC > VALUE for N steps"),
        (
            {"anomaly_stop": ["nans"]},
            "--anomaly-stop: there is no 'nans'. Give 'nan', 'loss_",
        ),
        ({"anomaly_stall_min_s": 0}, "--anomaly-stall-min-s: it has to be greater than 0"),
        ({"alert_webhook": "ftp://user:secret@host"}, "begins with https://"),
        ({"alert_command": "note 'it"}, "cannot be split into words"),
        ({"alert_level_min": "loud"}, "'info', 'warn' or 'error'"),
    ],
)
def test_settings_for_alerts_that_cannot_be_used_are_told(
    wrong: dict[str, object], told: str
) -> None:
    """With what could be; never with a secret."""
    with pytest.raises(SettingsError, match="These settings cannot be used") as refused:
        load(**wrong)
    assert told in str(refused.value)
    assert "secret" not in str(refused.value)
