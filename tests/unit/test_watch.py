"""Histograms of a model's weights and gradients."""

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="needs the extra [trainer]")

from pillion._watch import Watch  # noqa: E402


def watched(what: Any, *, interval: int = 1) -> tuple[Any, list[dict[str, Any]], Watch]:
    """Return a model whose only layer is watched, and what is logged of it."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    kept: list[dict[str, Any]] = []
    return model, kept, Watch(model, kept.append, what, interval)


def train(model: Any, steps: int = 1) -> None:
    """Go forth and back."""
    for _ in range(steps):
        model(torch.ones(4, 3)).sum().backward()


@pytest.mark.parametrize(
    ("what", "keys"),
    [
        ("gradients", {"gradients/weight", "gradients/bias"}),
        ("parameters", {"parameters/weight", "parameters/bias"}),
        (
            "all",
            {f"{kind}/{of}" for kind in ("gradients", "parameters") for of in ("weight", "bias")},
        ),
    ],
)
def test_what_is_asked_for_is_counted(what: str, keys: set[str]) -> None:
    """Every value of a tensor falls into one of 64 bins between the least and the largest."""
    model, kept, _ = watched(what)
    train(model)
    logged = {key: value for row in kept for key, value in row.items()}
    assert set(logged) == keys
    histogram = logged[min(key for key in keys if key.endswith("weight"))]
    assert (sum(histogram.counts), len(histogram.counts), histogram.problem) == (6, 64, "")
    if what == "parameters":
        weights = model.weight.detach()
        assert histogram.edges[0] == pytest.approx(float(weights.min()))
        assert histogram.edges[-1] == pytest.approx(float(weights.max()))


def test_only_some_passes_of_the_training_are_looked_at() -> None:
    """Every third; evaluations are none; and none once it has ended."""
    model, kept, watch = watched("all", interval=3)
    train(model, 2)
    model.eval()
    train(model)
    assert kept == []
    model.train()
    train(model)
    assert len(kept) == 3
    watch.close()
    train(model, 3)
    assert len(kept) == 3


def test_what_cannot_be_counted_disturbs_no_training() -> None:
    """Values that are not finite are left out; a tensor of none but such is."""
    model, kept, _ = watched("parameters")
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
        model.bias[:] = float("inf")
    train(model)
    (row,) = kept
    assert set(row) == {"parameters/weight"}
    assert sum(row["parameters/weight"].counts) == 5


def test_distributed_tensors_are_not_looked_into() -> None:
    """Counting one may start a collective that other processes do not join; others are counted."""

    class DTensor(torch.Tensor):  # type: ignore[misc]
        pass

    model, kept, _ = watched("all")
    model.weight = torch.nn.Parameter(torch.ones(2, 3).as_subclass(DTensor))
    assert isinstance(model.weight, DTensor)
    train(model)
    assert {key for row in kept for key in row} == {"parameters/bias", "gradients/bias"}
