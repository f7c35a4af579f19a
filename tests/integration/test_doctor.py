"""`pillion doctor` finds what is wrong with a real set-up, and says what to do."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from postgresql import PASSWORD, PostgresqlServer
from processes import environment

import pillion
from pillion_sidecar.journal_tables import FORMAT as JOURNAL_FORMAT
from pillion_sidecar.store_database import open_for_writing
from pillion_sidecar.store_tables import FORMAT


class Doctor:
    """The command, on one set-up."""

    def __init__(self, directory: Path) -> None:
        self.data_dir, self.spool_dir = directory / "data", directory / "spool"
        self.variables = {"PILLION_SPOOL_DIR": str(self.spool_dir)}
        self.address = f"unix:{directory}/run/s.sock"

    def text(self) -> tuple[int, str]:
        """Run it for people; return its exit code and what it says."""
        return self._run()

    def troubles(self) -> list[str]:
        """Return what it finds to mend or to look at, but for how the machine is just now."""
        _, output = self._run("--json")
        found = [one["what"] for one in json.loads(output)["findings"] if one["verdict"] != "ok"]
        return [what for what in found if what not in ("disk sync", "disk room", "open files")]

    def findings(self, what: str) -> list[tuple[str, str, str]]:
        """Return verdict, finding and next step of each finding about something."""
        _, output = self._run("--json")
        return [
            (one["verdict"], one["found"], one["next_step"])
            for one in json.loads(output)["findings"]
            if one["what"] == what
        ]

    def _run(self, *flags: str) -> tuple[int, str]:
        place = ("--address", self.address, "--data-dir", str(self.data_dir))
        done = subprocess.run(
            [sys.executable, "-m", "pillion_sidecar", "doctor", *place, *flags],
            capture_output=True,
            text=True,
            check=False,
            env=environment(**self.variables),
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Return a doctor for a set-up that does not exist yet."""
    return Doctor(tmp_path)


def test_nothing_is_to_be_mended_where_nothing_is_yet(doctor: Doctor) -> None:
    """Only that no sidecar answers is worth a word; nothing is left behind."""
    code, text = doctor.text()
    assert code == 0
    assert text.splitlines()[-1].startswith("0 to mend, ")
    assert "→ pillion serve" in text
    assert doctor.troubles() == ["sidecar"]
    assert not doctor.data_dir.exists()


def test_all_is_well_beside_a_sidecar(doctor: Doctor, make_sidecar: Callable[..., Any]) -> None:
    """Its version, its sentence and its disk."""
    sidecar = make_sidecar("--wandb-mode", "disabled")
    doctor.address, doctor.data_dir = sidecar.address, sidecar.data_dir
    code, text = doctor.text()
    assert code == 0
    assert doctor.troubles() == []
    assert "Nothing was logged yet" in text
    assert doctor.findings("journal")[0][1].startswith(f"format {JOURNAL_FORMAT}")


def test_what_keeps_any_key_of_wandb_is_told(
    doctor: Doctor, make_sidecar: Callable[..., Any]
) -> None:
    """Of the one in use, and of others that runs are bound to."""
    sidecar = make_sidecar("--wandb-mode", "online")
    doctor.address, doctor.data_dir = sidecar.address, sidecar.data_dir
    nowhere = {"credential": "crew", "base_url": "http://127.0.0.1:9", "api_key": "k" * 40}
    pillion.configure(address=sidecar.address, **nowhere)
    pillion.configure(address=sidecar.address, credential="")
    ((verdict, found, _),) = doctor.findings("W&B")
    assert (verdict, "There is no W&B key" in found) == ("warn", True)
    ((verdict, found, _),) = doctor.findings("W&B (crew)")
    assert (verdict, "does not answer" in found) == ("warn", True)


def test_a_data_directory_that_others_can_write_is_told(doctor: Doctor) -> None:
    """With the command that mends it; the exit code is for scripts."""
    doctor.data_dir.mkdir(mode=0o777)
    doctor.data_dir.chmod(0o777)
    assert doctor.text()[0] == 1
    ((verdict, found, step),) = doctor.findings("data directory")
    assert (verdict, step) == ("fail", f"chmod 0700 {doctor.data_dir}")
    assert "others can write" in found


def test_a_socket_directory_that_others_can_write_is_told(doctor: Doctor, tmp_path: Path) -> None:
    """Somebody could put another socket there."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    ((verdict, _, step),) = doctor.findings("address")
    assert verdict == "fail"
    assert "chmod 0700" in step


@pytest.mark.parametrize(("content", "words"), [("99", "use the newer one"), ("", "salvages")])
def test_a_journal_that_cannot_be_read_is_told(doctor: Doctor, content: str, words: str) -> None:
    """Of a newer version, or no journal at all."""
    doctor.data_dir.mkdir(mode=0o700)
    path = doctor.data_dir / "journal.db"
    if content:
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE meta (key TEXT, value TEXT)")
            db.execute("INSERT INTO meta VALUES ('format', ?)", (content,))
        db.close()
    else:
        path.write_bytes(b"no database, but long enough to be looked at" * 100)
    ((verdict, _, step),) = doctor.findings("journal")
    assert verdict == "fail"
    assert words in step


def test_what_waits_in_the_spool_is_told(doctor: Doctor) -> None:
    """Files that wait, damaged ones, and rights that are too wide."""
    doctor.spool_dir.mkdir(mode=0o755)
    doctor.spool_dir.chmod(0o755)
    for name in ("r.w.spool", "s.w.spool", "t.w.spool.damaged"):
        (doctor.spool_dir / name).touch()
    rights, waiting, damaged = doctor.findings("spool")
    assert (rights[0], rights[2]) == ("fail", f"chmod 0700 {doctor.spool_dir}")
    assert waiting[:2] == ("warn", f"2 files in {doctor.spool_dir}")
    assert damaged[:2] == ("warn", f"1 damaged file in {doctor.spool_dir}")


def test_secrets_are_not_shown(doctor: Doctor) -> None:
    """Variables are, but not those that hold a key or a token."""
    doctor.variables |= {"WANDB_API_KEY": "canary-1", "PILLION_TOKEN": "canary-2", "WANDB_X": "y"}
    doctor.variables["PILLION_ALERT_WEBHOOK"] = "https://hooks.example/canary-3"
    doctor.variables["PILLION_ALERT_COMMAND"] = "mail --password canary-4"
    _, text = doctor.text()
    assert "PILLION_ALERT_WEBHOOK" in text
    assert "canary" not in text
    assert "'y'" in text


def test_leftovers_are_told(doctor: Doctor) -> None:
    """Damaged files that were kept, and W&B's unfinished folders where W&B is disabled."""
    for name in ("wandb", "wandb-crew"):
        (doctor.data_dir / name / "partial" / "x").mkdir(parents=True)
    doctor.data_dir.chmod(0o700)
    (doctor.data_dir / "journal.db-damaged").touch()
    doctor.variables |= {"PILLION_WANDB_MODE": "disabled"}
    found = [text for _, text, _ in doctor.findings("leftovers")]
    assert "1 unfinished folder" in found[0]
    assert "wandb-crew" in found[1]
    assert "journal.db-damaged" in found[2]


def test_a_disk_without_room_is_told(doctor: Doctor) -> None:
    """Less than the reserve is left: nothing new is taken in."""
    disk = os.statvfs(doctor.data_dir.parent)
    free_bytes = disk.f_bavail * disk.f_frsize
    doctor.variables |= {"PILLION_DISK_RESERVE_BYTES": str(10 * free_bytes)}
    ((verdict, _, step),) = doctor.findings("disk room")
    assert verdict == "fail"
    assert "nothing new is taken in" in step


def test_a_store_in_postgresql_is_looked_at_and_its_password_is_not_shown(
    doctor: Doctor, postgresql: PostgresqlServer
) -> None:
    """Nothing there yet, made, and with a password that is wrong."""
    url = postgresql.new_url()
    doctor.variables["PILLION_STORE"] = url
    assert doctor.findings("store") == [("ok", "made at the first start", "")]
    open_for_writing(url).dispose()
    assert doctor.findings("store") == [("ok", f"in PostgreSQL, format {FORMAT}", "")]
    doctor.variables["PILLION_STORE"] = postgresql.new_url(password="mistaken")
    _, text = doctor.text()
    assert "cannot be reached" in text
    assert not any(word in text for word in ("mistaken", quote(PASSWORD, safe="")))
