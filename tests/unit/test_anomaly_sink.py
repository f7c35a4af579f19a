"""What was found is told once, whatever is restarted; alerts reach who asked for them, once."""

import json
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pillion.v1 import record_pb2
from pillion_sidecar import alert_messenger
from pillion_sidecar.alert_gate import PER_MINUTE_MAX
from pillion_sidecar.alert_messenger import Messenger
from pillion_sidecar.anomalies import Finding
from pillion_sidecar.anomaly_marks import ALERTS_MAX, Marks, drop_marks, make_marks
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.courier import Courier
from pillion_sidecar.errors import SinkError
from pillion_sidecar.findings import finding_batch
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import JournalReader
from pillion_sidecar.records import (
    Alert,
    AlertLevel,
    CheckedBatch,
    Environment,
    Offset,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    WriterId,
)
from pillion_sidecar.sampling import sample_batch
from pillion_sidecar.sinks.anomalies import AnomalySink
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store

RUN, WRITER = RunId("run"), WriterId("w")
WAIT_S = 120.0
NAN = float("nan")
START = RunStart(RUN, WRITER, "demo", "name", "", "", (), "", {}, Environment(), 1)

WaitUntil = Callable[[Callable[[], Any]], Any]


class Scene:
    """A journal, and who looks through it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.marks_path = directory, directory / "anomalies.db"
        self.journal_path = directory / "journal.db"
        self.journal = Journal(self.journal_path, on_commit=lambda: None, on_fatal=lambda _: None)
        self.now_s = 0.0
        self.told: list[Finding] = []
        self._sequence = 0

    def start(self) -> None:
        """Start the run, or come back to it."""
        self.journal.start(START).result(WAIT_S)

    def log(self, *values: float) -> None:
        """Log a row per value, a second apart."""
        first = self._sequence * 1000
        self._sequence += 1
        batch = record_pb2.Batch(run_id=RUN, writer_id=WRITER, sequence=self._sequence)
        frame = batch.records.add().metric_frame
        frame.steps.extend(range(first, first + len(values)))
        frame.times_unix_nano.extend((first + index) * 10**9 for index in range(len(values)))
        frame.columns.add(key="loss").doubles.values.extend(values)
        self._append(batch, len(values))

    def alert(self, title: str, level: str = "LEVEL_ERROR", age_s: int = 0) -> None:
        """Raise an alert as a trainer does."""
        self._sequence += 1
        batch = record_pb2.Batch(run_id=RUN, writer_id=WRITER, sequence=self._sequence)
        when = time.time_ns() - age_s * 10**9
        batch.records.add().alert.CopyFrom(
            record_pb2.Alert(title=title, text="all of it", level=level, time_unix_nano=when)
        )
        self._append(batch, 0)

    def finish(self) -> None:
        """End the run."""
        finish = RunFinish(RUN, WRITER, RunState.FINISHED, 0, "", {}, 2)
        self.journal.finish(finish, last_sequence=None).result(WAIT_S)

    def deliver(self, messenger: Messenger | None = None, *, is_kept: bool = True) -> AnomalySink:
        """Have a new worker do what there is; what it tells is kept as the sidecar keeps it."""
        sink = AnomalySink(
            self.marks_path,
            stall_min_s=5,
            messenger=messenger,
            monotonic=lambda: self.now_s,
        )
        with JournalReader(self.journal_path) as reader:
            courier = Courier(reader, sink, store=lambda: Store(self.store_url))
            self.go_on(courier, sink, is_kept=is_kept)
        return sink

    def go_on(self, courier: Courier, sink: AnomalySink, *, is_kept: bool = True) -> None:
        """Do what a worker does until nothing is left."""
        while True:
            courier.look()
            any_had = courier.deliver()
            found = list(sink.news())
            for each in found:
                self.told.append(each.finding)
                if is_kept:
                    batch = finding_batch(each.run_id, each.finding)
                    self.journal.note(batch).result(WAIT_S)
            assert not [change for change in courier.changes() if change.get("error")]
            if not any_had and not found:
                return

    @property
    def store_url(self) -> str:
        """Where the store is."""
        return f"sqlite:///{self.directory / 'store.db'}"

    def store(self) -> None:
        """Have the store take all, and the journal forget it."""
        sink = StoreSink(self.store_url, Blobs(self.directory / "blobs"))
        with closing(sink), JournalReader(self.journal_path) as reader:
            courier = Courier(reader, sink)
            courier.look()
            while courier.deliver():
                list(courier.changes())
            self.journal.trim({RUN: sink.position(RUN)})
        self.journal.standing(RUN, WRITER).result(WAIT_S)

    def _append(self, batch: record_pb2.Batch, row_count: int) -> None:
        payload = batch.SerializeToString()
        keys = frozenset({"loss"} if row_count else ())
        self.journal.append(
            CheckedBatch(RUN, WRITER, batch.sequence, payload, row_count, keys=keys)
        ).result(WAIT_S)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Return a journal with a run."""
    scene = Scene(tmp_path)
    make_marks(scene.marks_path, list)
    scene.start()
    yield scene
    scene.journal.close()


def test_what_is_found_is_told_once_whatever_is_restarted(scene: Scene) -> None:
    """A run that goes on is looked through from its beginning, and stays quiet."""
    scene.log(2.0, 2.1, NAN, NAN)
    scene.deliver().close()
    scene.deliver().close()
    assert [(each.rule, each.ordinal, each.step) for each in scene.told] == [("nan", 2, 2)]
    scene.log(*[2.0] * 300, NAN)
    scene.deliver().close()
    scene.deliver().close()
    assert [(each.ordinal, each.number) for each in scene.told] == [(2, 1), (305, 2)]


def test_a_finding_is_a_row_and_an_alert_of_its_run(scene: Scene) -> None:
    """Every sink gets it; its step and time are those of the row in which it showed."""
    scene.log(2.0, 2.1, NAN)
    scene.deliver().close()
    scene.store()
    store = Store(scene.store_url)
    run = store.run(RUN)
    assert run is not None
    assert run.row_count == 4
    rows = list(store.rows(RUN, 3))
    assert rows == [(3, 2, 2 * 10**9, {"anomaly/nan": 1})]
    text = "it is nan, at step 2."
    assert store.alerts(RUN) == [Alert("nan in loss", text, AlertLevel.ERROR, 2 * 10**9)]
    store.close()


def test_a_finding_after_the_end_leaves_the_run_ended(scene: Scene) -> None:
    """The last rows of a run that crashes are the ones that matter."""
    scene.log(2.0, NAN)
    scene.finish()
    scene.deliver().close()
    scene.store()
    store = Store(scene.store_url)
    run = store.run(RUN)
    store.close()
    assert run is not None
    assert (run.state, run.row_count) == (RunState.FINISHED, 3)
    assert len(scene.told) == 1


def test_what_the_journal_has_deleted_comes_from_the_store(scene: Scene) -> None:
    """Nothing waits for this worker, and it misses nothing."""
    scene.log(*[2.0] * 100)
    scene.deliver().close()
    scene.log(2.0, NAN)
    scene.store()
    scene.deliver().close()
    scene.log(2.0)
    scene.store()
    scene.deliver().close()
    assert [(each.rule, each.ordinal) for each in scene.told] == [("nan", 101)]


def test_runs_that_were_there_before_are_not_looked_through(tmp_path: Path) -> None:
    """Else an upgrade would tell everything that ever went wrong; what they log later counts."""
    scene = Scene(tmp_path)
    scene.start()
    scene.log(2.0, NAN)
    with JournalReader(scene.journal_path) as reader:
        make_marks(scene.marks_path, reader.runs)
    scene.deliver().close()
    assert scene.told == []
    scene.log(*[2.0] * 300, NAN)
    scene.store()
    scene.deliver().close()
    scene.deliver().close()
    assert [each.ordinal for each in scene.told] == [302]
    scene.journal.close()


def test_what_was_logged_while_nobody_looked_is_not_looked_through(scene: Scene) -> None:
    """As what was there before, of a run that was known too; nothing is told twice."""
    scene.log(2.0, NAN)
    scene.deliver().close()
    drop_marks(scene.marks_path)
    drop_marks(scene.marks_path)
    scene.log(*[2.0] * 300, NAN)
    with JournalReader(scene.journal_path) as reader:
        make_marks(scene.marks_path, reader.runs)
    scene.deliver().close()
    scene.log(*[2.0] * 300, NAN)
    scene.deliver().close()
    assert [each.ordinal for each in scene.told] == [1, 604]


def test_a_worker_that_dies_before_it_has_told_tells_it_never_twice(scene: Scene) -> None:
    """Marked before it is told: at most once."""
    scene.log(2.0, NAN)
    scene.deliver(is_kept=False).close()
    scene.deliver().close()
    assert len(scene.told) == 1


def test_a_silent_run_is_told_of_once(scene: Scene) -> None:
    """By the worker's own clock; a restart begins to wait anew, and does not repeat it."""
    scene.log(*[2.0] * 20)
    with JournalReader(scene.journal_path) as reader:
        sink = AnomalySink(scene.marks_path, stall_min_s=5, monotonic=lambda: scene.now_s)
        courier = Courier(reader, sink)
        scene.go_on(courier, sink)
        scene.now_s += 30
        scene.go_on(courier, sink)
        sink.close()
        sink = AnomalySink(scene.marks_path, stall_min_s=5, monotonic=lambda: scene.now_s)
        courier = Courier(reader, sink)
        scene.go_on(courier, sink)
        scene.now_s += 30
        scene.go_on(courier, sink)
    assert [(each.rule, each.step) for each in scene.told] == [("stalled", 19)]
    sink.close()


def test_samples_of_the_system_do_not_keep_a_run_from_being_stalled(scene: Scene) -> None:
    """They go on however long the trainer is silent."""
    scene.log(*[2.0] * 20)
    with JournalReader(scene.journal_path) as reader:
        sink = AnomalySink(scene.marks_path, stall_min_s=5, monotonic=lambda: scene.now_s)
        courier = Courier(reader, sink)
        scene.go_on(courier, sink)
        for _ in range(30):
            scene.now_s += 1
            sample = sample_batch(RUN, 19, 1, {"system/threads": 3.0})
            scene.journal.sample(sample).result(WAIT_S)
            scene.go_on(courier, sink)
    assert [each.rule for each in scene.told] == ["stalled"]
    sink.close()


def test_a_run_that_has_ended_is_not_stalled_and_can_go_on(scene: Scene) -> None:
    """It begins with fresh eyes then."""
    scene.log(*[2.0] * 20)
    scene.finish()
    sink = scene.deliver()
    scene.now_s += 1000
    sink.flush()
    assert list(sink.news()) == []
    sink.close()
    scene.start()
    scene.log(NAN)
    scene.deliver().close()
    assert [each.rule for each in scene.told] == ["nan"]


def test_damaged_marks_are_put_aside(scene: Scene) -> None:
    """What is there by then is not looked through again."""
    scene.log(2.0, NAN)
    scene.marks_path.write_bytes(b"no database" * 1000)
    with pytest.raises(SinkError, match="start the sidecar again"):
        scene.deliver()
    with JournalReader(scene.journal_path) as reader:
        make_marks(scene.marks_path, reader.runs)
    scene.deliver().close()
    assert scene.told == []
    assert len(list(scene.directory.glob("anomalies.db-damaged-*"))) == 1


class Hook:
    """A webhook's server; answers with these codes, then with 200."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.posted: list[dict[str, Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posted.append(json.loads(body))
                self.send_response(hook.codes.pop(0) if hook.codes else 200)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/secret"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is on its way arrive, however long that takes here."""
    monkeypatch.setattr(alert_messenger, "CLOSE_WAIT_S", WAIT_S)


@pytest.fixture
def make_hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hook]]:
    """Return a function that opens webhooks; nobody pauses before another attempt."""
    monkeypatch.setattr(alert_messenger, "RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    made: list[Hook] = []

    def make(*codes: int) -> Hook:
        made.append(Hook(*codes))
        return made[-1]

    yield make
    for hook in made:
        hook.close()


def test_alerts_are_posted_once_by_level_and_not_when_they_are_old(
    scene: Scene, make_hook: Callable[..., Hook]
) -> None:
    """The trainer's and the rules'; a restart posts none again."""
    hook = make_hook()
    for _ in range(2):
        scene.alert("broken")
        scene.alert("by the way", "LEVEL_INFO")
        scene.alert("long ago", age_s=7200)
        sink = scene.deliver(Messenger(hook.url, []))
        sink.close()
    assert [each["title"] for each in hook.posted] == ["broken", "broken"]
    facts = hook.posted[0]
    assert facts.pop("time_unix_nano") > 0
    assert facts == {
        "run_id": "run",
        "project": "demo",
        "name": "name",
        "level": "ERROR",
        "title": "broken",
        "text": "all of it",
    }


def test_a_stall_is_posted_however_long_ago_the_last_row_was(
    scene: Scene, make_hook: Callable[..., Hook]
) -> None:
    """Its alert bears the time at which it is told: it would be too old otherwise."""
    hook = make_hook()
    scene.log(*[2.0] * 20)
    sink = AnomalySink(
        scene.marks_path,
        stall_min_s=5,
        messenger=Messenger(hook.url, []),
        monotonic=lambda: scene.now_s,
    )
    with closing(sink), JournalReader(scene.journal_path) as reader:
        courier = Courier(reader, sink)
        scene.go_on(courier, sink)
        scene.now_s += 7200
        scene.go_on(courier, sink)
    assert [each["title"] for each in hook.posted] == ["stalled"]


def test_alerts_are_counted_by_when_they_come_whatever_their_times(
    scene: Scene, make_hook: Callable[..., Hook]
) -> None:
    """A trainer that dates them ahead floods nobody, and leaves few marks."""
    hook = make_hook()
    for number in range(30):
        scene.alert(f"number {number}", age_s=-7 * number)
    scene.deliver(Messenger(hook.url, [])).close()
    assert [each["title"] for each in hook.posted] == [f"number {n}" for n in range(PER_MINUTE_MAX)]
    with closing(sqlite3.connect(scene.marks_path)) as db:
        assert db.execute("SELECT count(*) FROM told").fetchone() == (PER_MINUTE_MAX,)


def test_a_run_keeps_the_latest_marks_of_alerts(scene: Scene) -> None:
    """Older alerts are too old to be passed on."""
    marks = Marks(scene.marks_path)
    marks.mark(RUN, "nan 2 loss")
    now_ns = time.time_ns()
    alerts = [Alert("title", "", AlertLevel.ERROR, now_ns + n) for n in range(ALERTS_MAX + 2)]
    for alert in alerts:
        marks.mark_alert(RUN, alert)
    assert [marks.has_alert(RUN, alert) for alert in alerts] == [False] * 2 + [True] * ALERTS_MAX
    assert not marks.mark(RUN, "nan 2 loss")
    marks.close()


def test_a_writer_that_joins_does_not_rename_the_run(
    scene: Scene, make_hook: Callable[..., Hook]
) -> None:
    """Project and name in alerts are those that the run has."""
    hook = make_hook()
    second = replace(START, writer_id=WriterId("v"), project="uncategorized", name="another")
    scene.journal.start(second).result(WAIT_S)
    scene.alert("broken")
    scene.deliver(Messenger(hook.url, [])).close()
    assert [(each["project"], each["name"]) for each in hook.posted] == [("demo", "name")]


@pytest.mark.parametrize(
    ("codes", "attempts"), [([503, 429], 3), ([500] * 9, 4), ([404], 1), ([307], 1)]
)
def test_a_webhook_is_tried_again_only_where_that_may_help(
    codes: list[int],
    attempts: int,
    make_hook: Callable[..., Hook],
    caplog: pytest.LogCaptureFixture,
    wait_until: WaitUntil,
) -> None:
    """A bounded number of times; what it may hold as a secret is not logged."""
    hook = make_hook(*codes)
    messenger = Messenger(hook.url, [])
    alert = Alert("title", "text", AlertLevel.ERROR, 1)
    messenger.send(RUN, "demo", "name", alert)
    wait_until(lambda: len(hook.posted) >= attempts)
    messenger.close()
    assert len(hook.posted) == attempts
    assert "secret" not in caplog.text
    assert all("secret" not in str(vars(record)) for record in caplog.records)


def test_a_webhook_that_is_not_there_keeps_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be passed on is given up and logged."""
    messenger = Messenger("http://127.0.0.1:9/secret", [])
    for _ in range(alert_messenger.ALERTS_MAX + 2):
        messenger.send(RUN, "", "", Alert("title", "text", AlertLevel.ERROR, 1))
    messenger.close()
    assert "too many wait" in caplog.text


def test_a_command_is_given_the_facts_without_a_shell(tmp_path: Path) -> None:
    """In its environment and as JSON; what users wrote is never a command."""
    told = tmp_path / "told"
    code = (
        "import json, os, sys; given = json.load(sys.stdin); "
        "given['level_seen'] = os.environ['PILLION_ALERT_LEVEL']; "
        "json.dump([sys.argv[2:], given], open(sys.argv[1], 'w'))"
    )
    messenger = Messenger("", [sys.executable, "-c", code, str(told), "$(date)"])
    messenger.send(RUN, "demo", "name", Alert("`date`\0", "text", AlertLevel.WARN, 1))
    messenger.close()
    arguments, given = json.loads(told.read_text(encoding="utf-8"))
    assert arguments == ["$(date)"]
    assert (given["title"], given["level_seen"]) == ("`date`\0", "WARN")


@pytest.mark.parametrize("command", [["/no/such/program"], ["false"]])
def test_a_command_that_fails_is_logged(
    command: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """And the next alert is passed on."""
    messenger = Messenger("", command)
    for _ in range(2):
        messenger.send(RUN, "demo", "name", Alert("title", "text", AlertLevel.WARN, 1))
    messenger.close()
    assert caplog.text.count("the command for alerts failed") == 2


def test_positions_are_offsets_of_the_run(scene: Scene) -> None:
    """What has ended is known after a restart, what goes on is asked for anew."""
    scene.log(2.0)
    sink = scene.deliver()
    assert sink.position(RUN) > 0
    assert sink.row_count(RUN) == 1
    sink.close()
    sink = AnomalySink(scene.marks_path)
    assert (sink.position(RUN), sink.row_count(RUN)) == (Offset(0), 0)
    sink.close()
    scene.finish()
    scene.deliver().close()
    sink = AnomalySink(scene.marks_path)
    assert sink.position(RUN) > 0
    sink.close()
