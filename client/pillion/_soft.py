"""What is asked for by W&B's name and is not here: one warning, then it does nothing.

So a script written for W&B trains on where it uses what Pillion has not.
"""

from collections.abc import Iterator
from typing import Any, Self

from pillion._notice import warn

_told: set[tuple[str, str]] = set()


class Nothing:
    """Stands for what is not here. It can be called, read, entered and iterated, and is false."""

    def __call__(self, *_: Any, **__: Any) -> "Nothing":
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(name)

    def __getitem__(self, _: Any) -> "Nothing":
        return self

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __bool__(self) -> bool:
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __instancecheck__(self, _: Any) -> bool:
        return False

    def __repr__(self) -> str:
        return "<not in pillion>"


def missing(owner: str, name: str) -> Any:
    """Return what stands for an attribute that is not here; warn the first time.

    Raises:
        AttributeError: Its name begins with an underscore: such are no part of W&B's face, and
            Python and notebooks ask for them to learn what something is.
    """
    if name.startswith("_"):
        raise AttributeError(f"{owner} has no attribute {name!r}")
    if (owner, name) not in _told:
        _told.add((owner, name))
        warn("pillion: %s.%s is not in Pillion: what is done with it does nothing.", owner, name)
    return _stand_in(name)


def _stand_in(name: str) -> Any:
    """Of an error's name an exception that nobody raises, so that it can stand in `except`."""
    return type(name, (Exception,), {}) if name.endswith("Error") else Nothing()
