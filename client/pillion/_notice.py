"""How the client tells people something: by the logger `pillion`, and never by an exception."""

import logging
from contextlib import suppress

_log = logging.getLogger("pillion")


def warn(message: str, *values: object) -> None:
    """Tell the user. Never raises, whatever handlers the program has installed."""
    with suppress(Exception):
        _log.warning(message, *values)
