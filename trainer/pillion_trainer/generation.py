"""Text from a model that was fine-tuned: the adapter of a training, on its base, and a prompt.

One that was tuned on chats has only ever answered a user's turn, written by its chat template; a
prompt is written so too.
"""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from pillion_trainer.config import ConfigurationError
from pillion_trainer.lineage import TRAINING_FILE

CONFIG_FILE = "adapter_config.json"


def load_adapter(folder: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Return the tuned model, ready to generate, and its tokenizer.

    The base is found where it was when the adapter was trained: in its folder, or by its hub id.

    Raises:
        ConfigurationError: There is no adapter, or its base is gone.
    """
    place = Path(folder).expanduser().absolute()
    if not (place / CONFIG_FILE).is_file():
        raise ConfigurationError(
            f"adapter is {str(folder)!r}, which has no {CONFIG_FILE}: give the output_dir of a "
            "training, or one of its checkpoints"
        )
    try:
        adapter = PeftConfig.from_pretrained(str(place))
        source, revision = adapter.base_model_name_or_path, adapter.revision
        with _quietly():
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


def asks_in_chats(tokenizer: Any) -> bool:
    """Whether an adapter was tuned on chats, as the training that it comes from has written.

    Args:
        tokenizer: As `load_adapter` returns it: it knows the adapter's folder. The checkpoints of a
            training lie in the folder where that is written.
    """
    place = Path(tokenizer.name_or_path)
    for folder in (place, place.parent) if place.name.startswith("checkpoint-") else (place,):
        try:
            told = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))
            return bool(told["dataset"]["format"] == "chat" and tokenizer.chat_template)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return False


def generate(
    model: Any,
    tokenizer: Any,
    prompt: str,
    max_new_tokens: int = 200,
    *,
    seed: int = 0,
    temperature: float = 0.0,
    uses_adapter: bool = True,
    raw: bool = False,
) -> str:
    """Return what the model says after a prompt; the same for the same seed on the same machine.

    Where the adapter was tuned on chats, the prompt is a user's turn, and what is said the answer.
    Random numbers of the caller are left as they were.

    Args:
        model: As `load_adapter` returns it.
        tokenizer: As `load_adapter` returns it.
        prompt: Not empty; what is too long for the model is cut at its beginning.
        max_new_tokens: So many at most; fewer where the model comes to an end.
        seed: Of the choice of tokens.
        temperature: How freely tokens are chosen; 0: always the likeliest, whatever the seed.
        uses_adapter: Otherwise the base model answers, as it was before the training.
        raw: The model goes on from the prompt as it is, chats or not.

    Raises:
        ConfigurationError: The prompt has no tokens, the chat template refuses it, or
            `max_new_tokens` leaves it no room.
    """
    if prompt and not raw and asks_in_chats(tokenizer):
        prompt = _as_turn(tokenizer, prompt)
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


def _as_turn(tokenizer: Any, prompt: str) -> str:
    """Write a prompt as training data are: the user's turn, and the beginning of the answer."""
    turn = [{"role": "user", "content": prompt}]
    try:
        return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        told = " ".join(str(error).split())
        raise ConfigurationError(
            f"The model's chat template refuses the prompt: {told}; give --raw, or raw=True"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Load without a bar, and without warnings of what libraries will rename."""
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
