"""What people are told of a training that failed."""

import errno

import pytest

from pillion_trainer.config import ConfigurationError, TrainingConfig
from pillion_trainer.failures import explanation, reason

CONFIG = TrainingConfig(batch_size=64, sequence_length=512, output_dir="/data/out")


def out_of_memory_error(text: str) -> RuntimeError:
    """Return what torch raises where a GPU has no memory left; it is known by its name."""
    return type("OutOfMemoryError", (RuntimeError,), {})(text)


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (out_of_memory_error("CUDA out of memory. Tried to allocate 20.00 GiB."), "The GPU's"),
        (RuntimeError("CUDA error: out of memory"), "The GPU's"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "The GPU's"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "The machine's",
        ),
        (MemoryError(), "The machine's"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "The machine's"),
    ],
)
def test_out_of_memory_says_what_was_set_and_what_to_lower(error: Exception, whose: str) -> None:
    """Batch, sequence, precision and model; and each thing that helps."""
    told = explanation(error, CONFIG)
    assert told == reason(error, CONFIG)
    assert told.startswith(f"{whose} memory ran out with batch_size 64, sequence_length 512, ")
    assert "precision fp32 and model tiny" in told
    for remedy in ("smaller batch_size", "gradient_accumulation_steps", "smaller sequence_length"):
        assert remedy in told


def test_what_is_set_already_is_no_remedy() -> None:
    """Whoever trains in half precision is not told to."""
    assert ", or precision bf16" in explanation(MemoryError(), CONFIG)
    assert ", or precision bf16" not in explanation(MemoryError(), TrainingConfig(precision="bf16"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_says_where_and_what_to_do(error: Exception) -> None:
    """Whatever library wrote to it."""
    assert explanation(error, CONFIG).startswith("The disk of output_dir (/data/out) is full: free")


def test_what_lies_behind_an_exception_counts() -> None:
    """A library may wrap what happened, with and without saying so."""
    for name in ("__cause__", "__context__"):
        error = ValueError("batch failed")
        setattr(error, name, MemoryError())
        assert "memory ran out" in explanation(error, CONFIG)


def test_mistakes_are_told_as_they_are() -> None:
    """All of them."""
    error = ConfigurationError("r is 0: give 1", "alpha is 0: give 1")
    assert explanation(error, CONFIG) == "r is 0: give 1; alpha is 0: give 1"


def test_what_is_not_known_is_told_as_python_does() -> None:
    """There is no sentence on it, only its kind and text."""
    assert explanation(KeyError("x"), CONFIG) == ""
    assert reason(KeyError("x"), CONFIG) == "KeyError: 'x'"
