"""What artifacts, their versions and their files may be called: the same for both ends.

A file's name is never a path here, but becomes one where an artifact is downloaded: so nothing in
it may lead out of the directory that it is written to, on any system.
"""

import re

NAME_CHARACTERS_MAX = 128
FILE_NAME_BYTES_MAX, COMPONENT_BYTES_MAX = 1024, 255
"""Of a file's name, and of what stands between two `/`: longer ones no filesystem takes."""

_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{NAME_CHARACTERS_MAX}}}")
_VERSION = re.compile(r"v(0|[1-9][0-9]{0,8})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def name_problem(name: str) -> str:
    """Say what is wrong with an artifact's name; empty if nothing is."""
    if _NAME.fullmatch(name) and name.strip("."):
        return ""
    return (
        f"{name[:80]!r} is no name of an artifact. Take 1 to {NAME_CHARACTERS_MAX} letters, "
        "digits, '.', '_' and '-'."
    )


def alias_problem(alias: str) -> str:
    """Say what is wrong with an alias; empty if nothing is."""
    if version_number(alias) is not None:
        return f"{alias!r} is the name of a version. Take another alias."
    if (
        not 0 < len(alias) <= NAME_CHARACTERS_MAX
        or set("/:") & set(alias)
        or _CONTROL.search(alias)
    ):
        return (
            f"{alias[:80]!r} is no alias. Take 1 to {NAME_CHARACTERS_MAX} characters, without '/' "
            "and ':'."
        )
    return ""


def file_name_problem(name: str) -> str:
    """Say what is wrong with the name of a file within an artifact; empty if nothing is."""
    shown = f"{name[:80]!r} is no name of a file in an artifact"
    if _CONTROL.search(name) or "\\" in name:
        return f"{shown}: it has a '\\' or a control character. Give the file another name."
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        return f"{shown}: it is relative, with '/' between components that are no '.' or '..'."
    if len(name.encode()) > FILE_NAME_BYTES_MAX or any(
        len(part.encode()) > COMPONENT_BYTES_MAX for part in parts
    ):
        return (
            f"{shown}: it has {FILE_NAME_BYTES_MAX:,} bytes at most, and "
            f"{COMPONENT_BYTES_MAX} between two '/'."
        )
    return ""


def version_number(text: str) -> int | None:
    """Return the number of a version `v0`, `v1` …; None if this is the name of none."""
    return int(text[1:]) if _VERSION.fullmatch(text) else None
