"""What looks like a secret is left out: by its name, and by its shape. For config and arguments.

The client redacts before anything leaves the process; the sidecar redacts once more before it
journals, since not every client is ours. Nothing finds every secret: a password under a name that
says nothing stays; commits keep their 40 digits where the name says that they are some.

Every pattern begins where a word does, so that no text takes long.
"""

import re
from collections.abc import Iterable, Mapping

from pillion.plain import Value

REDACTED = "[redacted]"
"""What stands in a secret's place."""

_NAME = re.compile(
    r"(?:^|_)(?:api_?keys?|(?:access|secret|private|ssh|signing|encryption)_?keys?|secrets?"
    r"|passwords?|passwd|pwd|passphrase|credentials?|authorization|bearer|netrc)(?:_|$)"
    r"|(?:^|_)(?:auth|access|api|bearer|bot|client|gh|github|gitlab|hf|hub|huggingface|id|jwt|oauth"
    r"|refresh|secret|security|session|user|wandb)_?tokens?$"
    r"|^tokens?$"
)
_NAME_OF_DIGEST = re.compile(
    r"(?:^|_)(?:commit|hash|sha1?|digest|revision|rev|version|checksum|etag)"
)
_SHAPE = re.compile(
    r"(?<![A-Za-z0-9_-])(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[opsur]_[A-Za-z0-9]{20,}"
    r"|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{30,}|wandb_v1_[A-Za-z0-9_-]{16,}"
    r"|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*)"
)
_SHAPE_OF_KEY = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{40}(?![0-9A-Za-z])")
"""W&B's keys look so; git's commits too."""
_CREDENTIALS = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]*://)[^/\s@]+@")
_WORD_END = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")
_ASSIGNMENT = re.compile(
    r"(?<![A-Za-z0-9_.-])([A-Za-z0-9_.-]+)([\"']?\s*[:=](?!//)\s*[\"']?)([^\s\"'&,;}]+)"
)


def redact(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return config without what looks like a secret, however deep it is nested."""
    return {
        key: _redacted(key, value, is_secret=is_secret_name(key)) for key, value in values.items()
    }


def redact_arguments(arguments: Iterable[str]) -> list[str]:
    """Return a program's arguments without what looks like a secret."""
    redacted: list[str] = []
    name = ""
    """Of the option whose value is next."""
    for argument in arguments:
        is_option = argument.startswith("--")
        if name and not is_option:
            redacted.append(_redacted_text(name, argument, is_secret=is_secret_name(name)))
            name = ""
            continue
        name = argument if argument.startswith("-") and "=" not in argument else ""
        text = _ASSIGNMENT.sub(_assigned, redact_text(argument))
        redacted.append(_redacted_text("", text, is_secret=False))
    return redacted


def redact_text(text: str) -> str:
    """Return text without credentials in its URLs, and without what is shaped as a secret."""
    if "://" in text:
        text = _CREDENTIALS.sub(r"\1", text)
    return _SHAPE.sub(REDACTED, text)


def is_secret_name(name: str) -> bool:
    """Tell whether what has this name is a secret: `api_key`, `--hf-token`, `clientSecret`."""
    return _NAME.search(_words(name)) is not None


def _redacted(key: str, value: Value, *, is_secret: bool) -> Value:
    match value:
        case str():
            return _redacted_text(key, value, is_secret=is_secret)
        case bytes() if is_secret:
            return REDACTED
        case dict():
            return {
                name: _redacted(name, each, is_secret=is_secret or is_secret_name(name))
                for name, each in value.items()
            }
        case list():
            return [_redacted(key, each, is_secret=is_secret) for each in value]
    return value


def _redacted_text(name: str, text: str, *, is_secret: bool) -> str:
    if is_secret and text:
        return REDACTED
    text = redact_text(text)
    return text if _NAME_OF_DIGEST.search(_words(name)) else _SHAPE_OF_KEY.sub(REDACTED, text)


def _assigned(found: re.Match[str]) -> str:
    name, between, value = found.groups()
    return f"{name}{between}{_redacted_text(name, value, is_secret=is_secret_name(name))}"


def _words(name: str) -> str:
    """Return a name in lower case, its words joined by `_`."""
    return _SEPARATORS.sub("_", _WORD_END.sub("_", name)).strip("_").lower()
