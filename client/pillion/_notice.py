"""How the client tells people something: by the logger `pillion`, and never by an exception."""

import logging
from contextlib import suppress

_log = logging.getLogger("pillion")


def warn(message: str, *values: object) -> None:
    """Tell the user. Never raises, whatever handlers the program has installed."""
    with suppress(Exception):
        _log.warning(
            message, *(printable(each) if isinstance(each, str) else each for each in values)
        )


def printable(text: str) -> str:
    """Escape what would do something to a terminal instead of being shown."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
