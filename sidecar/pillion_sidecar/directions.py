"""What better means for a metric: asked for, defined, or read from its name.

What is asked for counts before all. Then what the runs' own definitions say: a summary that keeps
`min` and not `max` is one of a metric that is to fall, `max` and not `min` of one that is to rise;
where runs contradict each other, none has said it. Then the name: of the words in its last two
parts (split at `/`; words at everything that is neither letter nor digit) the last one known here
decides. `eval/loss` and `loss/train` are losses, `eval_accuracy` and `f1-macro` accuracies,
anything `per_second` a throughput; `lossless_ratio` holds no such word, `loss_scale` and
`reward/std` end in one that says nothing; nor does a name that begins with `system/`. Where the
direction is not known, no run is best.
"""

import re
from collections.abc import Iterable, Mapping
from enum import IntEnum

from pillion.system import is_system
from pillion.v1 import run_pb2
from pillion_sidecar.records import MetricDefinition, Summarizing
from pillion_sidecar.store_figures import definition_of

_PARTS_READ = 2


class Direction(IntEnum):
    """What better means for a metric."""

    UNKNOWN = run_pb2.DIRECTION_UNSPECIFIED
    LOWER = run_pb2.DIRECTION_LOWER
    HIGHER = run_pb2.DIRECTION_HIGHER


_WORDS = {
    Direction.LOWER: "bpb bpc brier cer cost err error errors fid latency loss losses mae mape mse "
    "nll perplexity ppl regret rmse wer",
    Direction.HIGHER: "acc accuracies accuracy auc auroc bleu chrf dice f1 iou map mcc meteor mfu "
    "mrr ndcg precision psnr r2 recall return returns reward rewards rouge rougel rougelsum score "
    "scores ssim success throughput tps win",
    Direction.UNKNOWN: "coef coefficient count entropy epoch epochs grad gradient gradients kl "
    "length lr margin margins memory norm ratio rejected runtime scale scaler size std step steps "
    "temperature threshold time var variance weight weights",
}
_DIRECTIONS = {word: direction for direction, words in _WORDS.items() for word in words.split()}


def direction_of(
    key: str,
    asked: Mapping[str, Direction] | None = None,
    definitions: Iterable[Mapping[str, MetricDefinition]] = (),
) -> Direction:
    """Tell what better means for a metric, by the rules above.

    Args:
        key: The metric.
        asked: Directions by metric; UNKNOWN: no run is to be best by it.
        definitions: Of each run, by their names.
    """
    if asked and key in asked:
        return asked[key]
    defined = {_defined(definition_of(each, key)) for each in definitions} - {Direction.UNKNOWN}
    return defined.pop() if len(defined) == 1 else direction_of_name(key)


def direction_of_name(key: str) -> Direction:
    """Tell what better means as far as a metric's name says it."""
    if is_system(key):
        return Direction.UNKNOWN
    words = re.findall(r"[^\W_]+", " ".join(key.lower().split("/")[-_PARTS_READ:]))
    if words[-2:] in (["per", "second"], ["per", "sec"], ["per", "s"]):
        return Direction.HIGHER
    for word in reversed(words):
        for form in (word, word.rstrip("0123456789")):  # `f1` as it is, `bleu4` as `bleu`
            if form in _DIRECTIONS:
                return _DIRECTIONS[form]
    return Direction.UNKNOWN


def _defined(definition: MetricDefinition | None) -> Direction:
    kept = set(definition.summaries) if definition else set()
    match Summarizing.MIN in kept, Summarizing.MAX in kept:
        case True, False:
            return Direction.LOWER
        case False, True:
            return Direction.HIGHER
    return Direction.UNKNOWN
