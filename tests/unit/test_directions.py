"""What better means for a metric: asked for, defined, or read from its name."""

import pytest

from pillion_sidecar.directions import Direction, direction_of
from pillion_sidecar.records import MetricDefinition, Summarizing
from pillion_sidecar.store_figures import by_name

LOWER = (
    "loss eval/loss eval_loss train.loss val-loss loss/train eval/Loss total_loss mlm_losses "
    "val_loss/dataloader_idx_0 perplexity eval/ppl rmse error_rate num_errors wer mse"
)
HIGHER = (
    "accuracy eval/acc top1_acc acc@5 reward/mean rewards/chosen f1 f1-macro val/f1 auc bleu4 "
    "rouge1 rougeL precision recall@10 tokens_per_second eval_samples_per_second "
    "train/steps_per_sec throughput"
)
UNKNOWN = (
    "learning_rate lr grad_norm epoch step global_step train_runtime gpu.0.memory lossless_ratio "
    "glossary loss_scale loss.weight reward/std score_threshold loss/model/layers kl "
    "rewards/rejected eval/ / _ µ"
)
MIN, MAX, LAST = Summarizing.MIN, Summarizing.MAX, Summarizing.LAST


def defined(**summaries: tuple[Summarizing, ...]) -> dict[str, MetricDefinition]:
    """Make a run's definitions; `_` stands for `*`."""
    return by_name(
        MetricDefinition(name.replace("_", "*"), summaries=kept) for name, kept in summaries.items()
    )


@pytest.mark.parametrize("key", LOWER.split())
def test_less_is_better_for_losses_and_errors(key: str) -> None:
    """By a whole word of the name, whatever else the name holds."""
    assert direction_of(key) is Direction.LOWER


@pytest.mark.parametrize("key", HIGHER.split())
def test_more_is_better_for_scores_and_throughput(key: str) -> None:
    """By a whole word of the name, digits behind it left aside."""
    assert direction_of(key) is Direction.HIGHER


@pytest.mark.parametrize("key", UNKNOWN.split())
def test_nothing_is_better_where_a_name_does_not_say(key: str) -> None:
    """Neither parts of words count, nor words that a last one makes into something else."""
    assert direction_of(key) is Direction.UNKNOWN


@pytest.mark.parametrize(
    ("definitions", "direction"),
    [
        ([defined(loss=(MAX,))], Direction.HIGHER),
        ([defined(loss=(MIN, LAST))], Direction.LOWER),
        ([defined(l_=(MAX,))], Direction.HIGHER),
        ([defined(l_=(MIN,), lo_=(MAX,))], Direction.HIGHER),
        ([defined(other=(MAX,)), defined(loss=(MAX,)), {}], Direction.HIGHER),
    ],
)
def test_a_definition_counts_before_the_name(
    definitions: list[dict[str, MetricDefinition]], direction: Direction
) -> None:
    """A summary that keeps the least or the largest says which of them is meant."""
    assert direction_of("loss", definitions=definitions) is direction


@pytest.mark.parametrize(
    "definitions",
    [
        [defined(loss=(MIN, MAX))],
        [defined(loss=(LAST,))],
        [defined(loss=(MIN,)), defined(_=(MAX,))],
    ],
)
def test_definitions_that_say_both_or_neither_leave_it_to_the_name(
    definitions: list[dict[str, MetricDefinition]],
) -> None:
    """So do those of runs that contradict each other."""
    assert direction_of("loss", definitions=definitions) is Direction.LOWER
    assert direction_of("x", definitions=definitions) in {Direction.UNKNOWN, Direction.HIGHER}


@pytest.mark.parametrize("direction", Direction)
def test_what_is_asked_for_counts_before_all(direction: Direction) -> None:
    """Also that nothing is better; of that metric alone."""
    definitions = [defined(loss=(MAX,))]
    assert direction_of("loss", {"loss": direction}, definitions) is direction
    assert direction_of("loss", {"other": direction}, definitions) is Direction.HIGHER
