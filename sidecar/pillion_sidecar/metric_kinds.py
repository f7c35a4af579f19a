"""What a metric is, by its name: a loss, a gradient norm, a throughput."""

import itertools
import re
from enum import StrEnum


class Kind(StrEnum):
    """What a metric is, by its name."""

    LOSS = "loss"
    EVAL_LOSS = "eval loss"
    GRADIENT_NORM = "gradient norm"
    THROUGHPUT = "throughput"
    OTHER = "other"


_LOSS = frozenset({"loss", "losses", "nll"})
_NO_LOSS = frozenset(
    {
        *("coef", "coefficient", "grad", "gradient", "lr", "norm", "ratio", "scale", "scaler"),
        *("scaling", "std", "var", "weight", "weights"),
    }
)
_EVAL = frozenset({"dev", "eval", "evaluation", "heldout", "test", "val", "valid", "validation"})
_GRADIENT = frozenset({"grad", "grads", "gradient", "gradients"})
_THROUGHPUT = frozenset({"throughput", "tps", "mfu"})


def kind_of(metric: str) -> Kind:
    """Tell what a metric is: by its words, split at all that is neither letter nor digit."""
    words = re.findall(r"[^\W_]+", metric.lower())
    known = frozenset(words)
    if (known & _GRADIENT and "norm" in known) or known & {"gnorm", "gradnorm"}:
        return Kind.GRADIENT_NORM
    if known & _LOSS and not known & _NO_LOSS:
        return Kind.EVAL_LOSS if known & _EVAL else Kind.LOSS
    is_rate = any(
        pair[0] == "per" and pair[1] in ("second", "sec", "s") for pair in itertools.pairwise(words)
    )
    return Kind.THROUGHPUT if is_rate or known & _THROUGHPUT else Kind.OTHER
