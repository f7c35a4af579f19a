"""Pillion under W&B's name, for code that looks for wandb and finds none."""

import importlib.util
import sys
from collections.abc import Iterator
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from os import PathLike
from types import ModuleType
from typing import Any

from pillion._soft import missing

NAME = "wandb"
VERSION = "0.31.0"
"""Whose face it has."""


def install() -> None:
    """Do what `pillion.install_as_wandb` says."""
    known = sys.modules.get(NAME)
    if isinstance(known, _Wandb):
        return
    if known is not None:
        raise RuntimeError(
            "wandb is imported already; call pillion.install_as_wandb() before anything imports it."
        )
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    sys.modules[NAME] = importlib.util.module_from_spec(finder.find_spec(NAME))


class _Wandb(ModuleType):
    """`wandb`: what `pillion` has under the same name."""

    __version__ = VERSION

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(sys.modules["pillion"], name)


class _Inner(ModuleType):
    """`wandb.sdk` and the like: nothing is there."""

    def __getattr__(self, name: str) -> Any:
        return missing(self.__name__, name)


class _Finder(DistributionFinder, Loader):
    """Finds `wandb`, every module below it, and its version."""

    def find_spec(self, name: str, *_: Any) -> Any:
        if name != NAME and not name.startswith(f"{NAME}."):
            return None
        return ModuleSpec(name, self, origin="pillion", is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Wandb(spec.name) if spec.name == NAME else _Inner(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Its attributes are looked up when they are asked for."""

    def find_distributions(
        self, context: DistributionFinder.Context | None = None
    ) -> Iterator[Distribution]:
        if context is not None and context.name == NAME:
            yield _Distribution()


class _Distribution(Distribution):
    def read_text(self, filename: str) -> str | None:
        return f"Name: {NAME}\nVersion: {VERSION}\n" if filename == "METADATA" else None

    def locate_file(self, path: str | PathLike[str]) -> Any:
        return path
