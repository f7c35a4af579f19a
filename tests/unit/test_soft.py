"""What is asked for by W&B's name and is not in Pillion."""

import logging

import pytest

import pillion
from pillion import _soft


def test_unknown_attribute_does_nothing_and_warns_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is used, training goes on."""
    monkeypatch.setattr(_soft, "_told", set())
    with caplog.at_level(logging.WARNING, logger="pillion"):
        for _ in range(3):
            plot = pillion.plot.line(pillion.Table(), x="a", y=1)
    assert not plot
    assert [record.getMessage() for record in caplog.records] == [
        "pillion: pillion.plot is not in Pillion: what is done with it does nothing."
    ]
    with pillion.Settings(start_method="thread") as settings:
        settings.mode = settings["mode"] = "x"
    assert list(pillion.Api().runs("a/b")) == []
    assert not isinstance("x", pillion.Molecule)


def test_unknown_error_can_be_caught() -> None:
    """`except wandb.errors.CommError` is reached only when something is raised."""

    def fails() -> None:
        try:
            _ = 1 / 0
        except (pillion.UsageError, pillion.errors.CommError):
            pytest.fail("nobody raises them")

    with pytest.raises(ZeroDivisionError):
        fails()


def test_what_python_asks_for_is_not_made_up() -> None:
    """Copying, pickling and notebooks look for names with underscores; so do we."""
    for owner in (pillion, pillion.plot):
        assert not hasattr(owner, "__deepcopy__")
    assert not hasattr(pillion, "_repr_html_")


def test_a_sweep_that_would_train_nothing_raises() -> None:
    """It must not end as a success; what to do instead is said."""
    with pytest.raises(NotImplementedError, match=r"no sweeps.*pillion\.init"):
        pillion.agent("sweep", function=print, count=3)
