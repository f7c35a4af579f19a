"""What a call of `log` holds, made plain: names and numbers. The slow way, for all but numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

from pillion._counts import Refused
from pillion._tensors import Copy, read_number
from pillion.plain import DEPTH_MAX, VALUES_MAX, to_text

PLAIN_TYPES = frozenset({float, int, bool})


def read_row(data: Mapping[Any, Any], refused: Refused) -> dict[str, float | int | bool | Copy]:
    """Flatten nested mappings with `/`, and read what stands for a number; count what does not."""
    plain: dict[str, float | int | bool | Copy] = {}
    for key, value in _flat(data, "", DEPTH_MAX, [VALUES_MAX]):
        number = value if type(value) in PLAIN_TYPES else read_number(value)
        if number is None:
            refused.values += 1
        else:
            plain[key] = number
    return plain


def _flat(
    row: Mapping[Any, Any], prefix: str, depth: int, room: list[int]
) -> Iterator[tuple[str, Any]]:
    """Yield what nested mappings hold; one that cannot be read, or is too much, as it is."""
    for key, value in row.items():
        name = f"{prefix}{to_text(key)}"
        room[0] -= 1
        if type(value) in PLAIN_TYPES:
            yield name, value
            continue
        nested = None
        try:
            if depth and isinstance(value, Mapping) and len(value) <= room[0]:
                nested = list(_flat(value, f"{name}/", depth - 1, room))
        except Exception:  # noqa: BLE001 - a stranger's methods may raise anything
            nested = None
        if nested is None:
            yield name, value
        else:
            yield from nested
