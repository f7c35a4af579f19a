"""A run's config and summary: mappings that queue each change, in order with the rows."""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, TypeAlias

from pillion.plain import Value, to_plain_dict

_Change: TypeAlias = Callable[[str, dict[str, Value]], None]
"""Takes the name of the record and what to merge."""


def mapping_of(values: Any) -> Any:
    """Return what `dict` takes: None is nothing, of an argparse.Namespace its attributes."""
    if values is None:
        return {}
    if isinstance(values, str) or hasattr(values, "keys") or not hasattr(values, "__dict__"):
        return values
    return vars(values)


class Config(MutableMapping[str, Value]):
    """A run's hyperparameters: a mapping that tells the sidecar of each change.

    Its values are attributes as well: `config.learning_rate`.
    """

    _KIND = "config_update"
    _change: _Change
    _values: dict[str, Value]

    def __init__(self, change: _Change, values: dict[str, Value]) -> None:
        vars(self).update(_change=change, _values=dict(values))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"there is no {name!r} in it")
        return self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def as_dict(self) -> dict[str, Value]:
        """Return a copy."""
        return dict(self._values)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Merge values at the top level, as `dict.update` does. `allow_val_change` is ignored."""
        kwargs.pop("allow_val_change", None)
        values = to_plain_dict(dict(*map(mapping_of, args), **kwargs))
        if values:
            self._values.update(values)
            self._change(self._KIND, values)

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __getitem__(self, key: str) -> Value:
        return self._values[key]

    def __delitem__(self, key: str) -> None:
        raise TypeError("A value that was logged cannot be taken back; set it to None.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


class Summary(Config):
    """A run's summary as far as it was set here; last logged values are the sidecar's to know."""

    _KIND = "summary_update"

    def __init__(self, change: _Change) -> None:
        super().__init__(change, {})
