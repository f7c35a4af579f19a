"""What decides a training's outcome, read from what a Trainer was given."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pillion.integrations.hardware import describe_libraries, describe_machine


def hyperparameters(args: Any, model: Any) -> dict[str, Any]:
    """Return transformers' TrainingArguments by their names, and what a model is in groups."""
    trainable, total = parameter_counts(model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = getattr(base, "config", None)
    quantization = getattr(config, "quantization_config", None)
    values = {
        **args.to_dict(),
        "architecture": {"class": type(base).__name__, **_as_dict(config)},
        "parameters_trainable": trainable,
        "parameters_total": total,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else _dtype_name(model),
        "quantization": _as_dict(quantization) or "none",
        "hardware": describe_machine(),
        "libraries": describe_libraries(),
    }
    if adapters := getattr(model, "peft_config", None):
        values["peft"] = {name: _as_dict(adapter) for name, adapter in adapters.items()}
    return values


def describe_dataset(dataset: Any) -> dict[str, Any]:
    """Return name, size and fingerprint, as far as a dataset tells them; nothing of none."""
    if dataset is None:
        return {}
    info = getattr(dataset, "info", None)
    name = getattr(info, "dataset_name", None) or getattr(dataset, "name", None)
    fingerprint = getattr(dataset, "_fingerprint", None) or getattr(dataset, "fingerprint", None)
    described: dict[str, Any] = {"name": name or type(dataset).__name__}
    if (size := size_of(dataset)) is not None:
        described["size"] = size
    if isinstance(fingerprint, str):
        described["fingerprint"] = fingerprint
    return described


def size_of(dataset: Any) -> int | None:
    """Return how many samples it has; None where it does not know, as when it is streamed."""
    with suppress(TypeError, NotImplementedError):
        return len(dataset)
    return None


def parameter_counts(model: Any) -> tuple[int, int]:
    """Return how many parameters are trained, and how many there are; packed ones as peft does."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trainable, total = model.get_nb_trainable_parameters()
        return trainable, total
    sizes = [(each.numel(), each.requires_grad) for each in model.parameters()]
    return sum(size for size, is_trained in sizes if is_trained), sum(size for size, _ in sizes)


def _as_dict(config: Any) -> dict[str, Any]:
    if isinstance(config, Mapping):
        return dict(config)
    return config.to_dict() if hasattr(config, "to_dict") else dict(getattr(config, "__dict__", {}))


def _dtype_name(model: Any) -> str:
    first = next(iter(model.parameters()), None)
    return str(first.dtype).removeprefix("torch.") if first is not None else "unknown"
