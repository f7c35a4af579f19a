"""The base model with its tokenizer, as precision and quantisation ask, and the adapter on it."""

import difflib
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from pillion_trainer.base_model import ensure_base_model, in_lines
from pillion_trainer.config import ConfigurationError, TrainingConfig
from pillion_trainer.contradictions import ALL_LINEAR, TINY

CHECKPOINTING = {"use_reentrant": False}
"""The kind of gradient checkpointing that works where the inputs need no gradient."""

_KNOWS_TYING = "ensure_weight_tying" in {each.name for each in fields(LoraConfig)}
"""Whether peft can train an embedding and keep the head that shares its weights the same."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(
    config: TrainingConfig, base_dir: Path | None, say: Callable[[str], None]
) -> tuple[Any, Any]:
    """Return the base model and its tokenizer; the built-in one is made where it is missing.

    Raises:
        ConfigurationError: it cannot be loaded, or reads shorter sequences than are asked for.
    """
    source = str(Path(config.model).expanduser())
    if config.model == TINY:
        source = str(base_dir or ensure_base_model(progress=in_lines(say)))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=config.revision)
        model = AutoModelForCausalLM.from_pretrained(
            source, revision=config.revision, dtype=_DTYPES[config.precision], **_quantized(config)
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"model is {config.model!r}: {error}") from error
    tokens_max = getattr(model.config, "max_position_embeddings", None) or math.inf
    if config.sequence_length > tokens_max:
        raise ConfigurationError(
            f"sequence_length is {config.sequence_length}, but {config.model} reads no more "
            f"than {tokens_max}: give {tokens_max} or less"
        )
    model.config.use_cache = False
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def adapter_config(config: TrainingConfig, model: Any = None) -> Any:
    """Return what peft makes an adapter of.

    Without the model it may be left open which layers are meant: None, or a word for them.
    """
    targets: Any = config.target_modules and list(config.target_modules)
    saved = list(config.modules_to_save) or None
    if config.method == "ia3":
        return IA3Config(
            task_type=TaskType.CAUSAL_LM,
            target_modules=targets,
            feedforward_modules=_feedforward(config, model),
            modules_to_save=saved,
        )
    is_tied = bool(saved) and getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        bias=config.lora_bias,
        use_rslora=config.use_rslora,
        use_dora=config.method == "dora",
        target_modules=ALL_LINEAR if targets in (None, [ALL_LINEAR]) else targets,
        modules_to_save=saved,
        **({"ensure_weight_tying": True} if is_tied and _KNOWS_TYING else {}),
    )


def with_adapter(model: Any, config: TrainingConfig) -> Any:
    """Return the model with an adapter that is trained, in fp32 whatever the base is in.

    Raises:
        ConfigurationError: no layer has such a name.
    """
    if config.quantization != "none":
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=config.gradient_checkpointing,
            gradient_checkpointing_kwargs=CHECKPOINTING,
        )
    _refuse_unknown_layers(model, config)
    try:
        model = get_peft_model(model, adapter_config(config, model))
    except ValueError as error:
        targets = ", ".join(config.target_modules or ())
        raise ConfigurationError(f"target_modules is {targets!r}: {error}") from error
    for weights in model.parameters():
        if weights.requires_grad:
            weights.data = weights.data.float()  # fp16 has no optimiser, and bf16 learns less
    return model


def _refuse_unknown_layers(model: Any, config: TrainingConfig) -> None:
    """Raise `ConfigurationError` for layers that the model has not; peft skips one among others."""
    names = [name for name, _ in model.named_modules()]
    linear = {
        name.rpartition(".")[2]
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear | Conv1D)
    }
    wanted = {"target_modules": config.target_modules, "modules_to_save": config.modules_to_save}
    mistakes = []
    for option, layers in wanted.items():
        ends = linear if option == "target_modules" else {each.rpartition(".")[2] for each in names}
        ends = {each for each in ends if each.isidentifier()}  # no numbers of layers
        for layer in layers or ():
            ending = f".{layer}" if option == "target_modules" else layer  # as peft looks for them
            if layer == ALL_LINEAR or any(f".{name}".endswith(ending) for name in names):
                continue
            near = difflib.get_close_matches(layer, ends, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            mistakes.append(
                f"{option} is {layer!r}, which no layer of the model is called: {hint}give some "
                f"of {', '.join(sorted(ends))}"
            )
    if mistakes:
        raise ConfigurationError(*mistakes)


def _feedforward(config: TrainingConfig, model: Any) -> list[str] | None:
    """Return which of the layers IA3 scales at their input; None leaves all of it to peft.

    Peft's own choice beside layers that were named would be written to a file that it refuses.
    """
    if config.feedforward_modules is not None:
        return list(config.feedforward_modules)
    if config.target_modules is None or model is None:
        return None
    known = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(model.config.model_type, [])
    return [
        name
        for name in config.target_modules
        if any(f".{name}".endswith(f".{ending}") for ending in known)
    ]


def _quantized(config: TrainingConfig) -> dict[str, Any]:
    """Return what loads the base in 4 or 8 bits, on the first GPU; nothing for `none`."""
    if config.quantization == "none":
        return {}
    if config.quantization == "8bit":
        bits = BitsAndBytesConfig(load_in_8bit=True)
    else:
        bits = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=config.quantization_type,
            bnb_4bit_use_double_quant=config.quantization_double,
            bnb_4bit_compute_dtype=_DTYPES[config.precision],
        )
    return {"quantization_config": bits, "device_map": {"": 0}}
