"""Why a training failed, told so that it can be mended: what ran out, what was set, what helps.

Judges an exception by its kind and its text, since torch is not loaded by all who ask. Whatever is
not known here is told as Python tells it.
"""

import errno
from collections.abc import Iterator

from pillion_trainer.config import ConfigurationError, TrainingConfig

_MEMORY_TEXTS = (
    "can't allocate memory",  # torch's allocator of CPU memory
    "not enough memory",
    "Cannot allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to mmap",
)
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")
_FULL_NUMBERS = {errno.ENOSPC, errno.EDQUOT}
_CAUSES_MAX = 16


def explanation(error: BaseException, config: TrainingConfig) -> str:
    """Return a sentence on a failure that people can mend; empty: this is none that is known."""
    causes = list(_causes(error))
    for each in causes:
        if isinstance(each, ConfigurationError):
            return "; ".join(each.mistakes)
        if type(each).__name__ == "TrainingDivergedError":
            return str(each)
    if any(_is_out_of_memory(each) for each in causes):
        is_gpu = any(_names_a_gpu(each) for each in causes)
        return _memory_sentence("The GPU's memory" if is_gpu else "The machine's memory", config)
    if any(_is_disk_full(each) for each in causes):
        return (
            f"The disk of output_dir ({config.output_dir or 'outputs'}) is full: free some room, "
            "give another output_dir, or fewer checkpoints by a larger checkpoint_interval_steps."
        )
    return ""


def reason(error: BaseException, config: TrainingConfig) -> str:
    """Return why a run failed: the explanation, or kind and text of the exception."""
    return explanation(error, config) or f"{type(error).__name__}: {error}"


def _memory_sentence(whose: str, config: TrainingConfig) -> str:
    precision = ", or precision bf16" if config.precision == "fp32" else ""
    return (
        f"{whose} ran out with batch_size {config.batch_size}, sequence_length "
        f"{config.sequence_length}, precision {config.precision} and model {config.model}: give a "
        "smaller batch_size, with more gradient_accumulation_steps to make up for it, a smaller "
        f"sequence_length{precision}."
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it came from, the latest first."""
    each: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if each is None:
            return
        yield each
        each = each.__cause__ or each.__context__


def _is_out_of_memory(error: BaseException) -> bool:
    is_kind = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return is_kind or any(text in str(error) for text in _MEMORY_TEXTS)


def _names_a_gpu(error: BaseException) -> bool:
    is_kind = type(error).__name__ == "OutOfMemoryError"
    return is_kind or any(word in str(error) for word in ("CUDA", "CUBLAS", "HIP ", "MPS "))


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL_NUMBERS:
        return True
    return any(text in str(error) for text in _FULL_TEXTS)  # safetensors has errors of its own
