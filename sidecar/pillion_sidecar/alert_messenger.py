"""Passes alerts on to people: to a webhook, and to a command of the operator's.

In a thread of its own, with bounds on everything, so that nobody ever waits for a network. At most
once: what cannot be delivered within a few attempts is given up and logged, without its text and
without the webhook's URL, which may hold a secret.
"""

import http.client
import json
import logging
import os
import queue
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence

from pillion_sidecar.records import Alert, RunId

ALERTS_MAX = 100
"""So many wait; more are given up."""
WEBHOOK_TIMEOUT_S = 10.0
RETRY_PAUSES_S = (1.0, 5.0, 25.0)
COMMAND_TIMEOUT_S = 30.0
CLOSE_WAIT_S = 3.0
"""How long the end may wait for what is on its way."""
_RETRIED = frozenset({408, 425, 429})

log = logging.getLogger(__name__)


class Messenger:
    """See the module. `send` and `close` may be called by any thread."""

    def __init__(self, webhook: str, command: Sequence[str]) -> None:
        """Begin.

        Args:
            webhook: The URL that takes them; empty: none.
            command: The program that takes them, with its arguments; empty: none.
        """
        self._webhook, self._command = webhook, list(command)
        self._waiting: queue.Queue[Mapping[str, str | int] | None] = queue.Queue(ALERTS_MAX)
        self._closing = threading.Event()
        self._opener = urllib.request.build_opener(_NoRedirects())
        self._thread = threading.Thread(target=self._run, name="messenger", daemon=True)
        self._thread.start()

    def send(self, run_id: RunId, project: str, name: str, alert: Alert) -> None:
        """Pass an alert on; never waits."""
        facts: dict[str, str | int] = {
            "run_id": run_id,
            "project": project,
            "name": name,
            "level": alert.level.name,
            "title": alert.title,
            "text": alert.text,
            "time_unix_nano": alert.time_unix_nano,
        }
        try:
            self._waiting.put_nowait(facts)
        except queue.Full:
            log.warning("an alert was given up: too many wait", extra={"run_id": run_id})

    def close(self) -> None:
        """End, after a short wait for what is on its way."""
        self._closing.set()
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(CLOSE_WAIT_S)

    def _run(self) -> None:
        while (facts := self._waiting.get()) is not None:
            try:
                if self._webhook:
                    self._post(facts)
                if self._command:
                    self._call(facts)
            except Exception as error:  # noqa: BLE001 - the thread's outermost frame
                log.warning("an alert was not passed on", extra={"error": type(error).__name__})

    def _post(self, facts: Mapping[str, str | int]) -> None:
        request = urllib.request.Request(  # noqa: S310 - the settings take http and https only
            self._webhook,
            json.dumps(facts).encode(),
            {"Content-Type": "application/json", "User-Agent": "pillion"},
        )
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                with self._opener.open(request, timeout=WEBHOOK_TIMEOUT_S):
                    return
            except urllib.error.HTTPError as error:
                error.close()
                cause, may_go_well = f"status {error.code}", _may_go_well(error.code)
            except (OSError, http.client.HTTPException) as error:
                cause, may_go_well = type(error).__name__, True
            if pause_s is None or not may_go_well or self._closing.wait(pause_s):
                log.warning("the webhook did not take an alert", extra={"error": cause})
                return

    def _call(self, facts: Mapping[str, str | int]) -> None:
        """Run the command with the facts in its environment, and as JSON on its standard input."""
        known = {f"PILLION_ALERT_{key.upper()}": _printable(value) for key, value in facts.items()}
        try:
            done = subprocess.run(
                self._command,
                input=json.dumps(facts).encode(),
                env=os.environ | known,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("the command for alerts failed", extra={"error": type(error).__name__})
            return
        if done.returncode:
            log.warning("the command for alerts failed", extra={"exit_code": done.returncode})


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A webhook that sends us elsewhere is wrong: what is posted goes where the operator said."""

    def redirect_request(self, *_: object) -> None:
        """Follow none."""


def _may_go_well(status: int) -> bool:
    return status >= http.client.INTERNAL_SERVER_ERROR or status in _RETRIED


def _printable(value: str | int) -> str:
    return str(value).replace("\0", " ")  # an environment takes no NUL
