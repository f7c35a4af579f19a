"""Text from a model that was fine-tuned: the adapter of a training, on its base, and a prompt."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from pillion_trainer.config import ConfigurationError

CONFIG_FILE = "adapter_config.json"


def load_adapter(folder: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Return the tuned model, ready to generate, and its tokenizer.

    The base is found where it was when the adapter was trained: in its folder, or by its hub id.

    Raises:
        ConfigurationError: There is no adapter, or its base is gone.
    """
    place = Path(folder).expanduser()
    if not (place / CONFIG_FILE).is_file():
        raise ConfigurationError(
            f"adapter is {str(folder)!r}, which has no {CONFIG_FILE}: give the output_dir of a "
            "training, or one of its checkpoints"
        )
    try:
        adapter = PeftConfig.from_pretrained(str(place))
        source, revision = adapter.base_model_name_or_path, adapter.revision
        tokenizer = AutoTokenizer.from_pretrained(str(place))
        base = AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype="auto")
        model = PeftModel.from_pretrained(base, str(place))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ConfigurationError(
            f"adapter is {str(folder)!r}: {error}; give one whose base model is still there"
        ) from error
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    return model.eval(), tokenizer


def generate(
    model: Any,
    tokenizer: Any,
    prompt: str,
    max_new_tokens: int = 200,
    *,
    seed: int = 0,
    temperature: float = 0.0,
    uses_adapter: bool = True,
) -> str:
    """Return what the model says after a prompt; the same for the same seed on the same machine.

    Random numbers of the caller are left as they were.

    Args:
        model: As `load_adapter` returns it.
        tokenizer: As `load_adapter` returns it.
        prompt: Not empty; what is too long for the model is cut at its beginning.
        max_new_tokens: So many at most; fewer where the model comes to an end.
        seed: Of the choice of tokens.
        temperature: How freely tokens are chosen; 0: always the likeliest, whatever the seed.
        uses_adapter: Otherwise the base model answers, as it was before the training.

    Raises:
        ConfigurationError: The prompt has no tokens, or `max_new_tokens` leaves it no room.
    """
    tokens = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    context = int(getattr(model.config, "max_position_embeddings", None) or sys.maxsize)
    room = context - max_new_tokens
    if tokens.shape[1] == 0:
        raise ConfigurationError("prompt is empty: give some text")
    if room < 1 or max_new_tokens < 1:
        raise ConfigurationError(
            f"max_new_tokens is {max_new_tokens}, and the model reads {context} tokens at most: "
            f"give a number from 1 to {context - 1}"
        )
    tokens = tokens[:, -room:].to(model.device)
    choice = {"do_sample": True, "temperature": temperature, "top_k": 50}
    with (
        torch.random.fork_rng(),
        torch.no_grad(),
        nullcontext() if uses_adapter else model.disable_adapter(),
    ):
        torch.manual_seed(seed)
        told = model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            **(choice if temperature > 0 else {"do_sample": False}),
        )
    said: str = tokenizer.decode(told[0, tokens.shape[1] :], skip_special_tokens=True)
    return said
