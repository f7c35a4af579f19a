"""Where this process runs, as it is told to the sidecar. Never arguments: they hold secrets."""

import os
import platform
import sys
from dataclasses import asdict
from typing import Any

from pillion._version import __version__
from pillion.plain import to_text
from pillion.process import process_identity


def environment() -> dict[str, Any]:
    """Return the fields of the message `Environment`."""
    process = process_identity(os.getpid())
    return {
        "host": platform.node(),
        "process": asdict(process) if process else None,
        "program": to_text(sys.argv[0]) if sys.argv else "",
        "python_version": platform.python_version(),
        "platform": platform.platform(),
        "client_version": __version__,
    }
