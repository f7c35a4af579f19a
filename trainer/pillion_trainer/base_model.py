"""The built-in small base model and its tokenizer: made on the spot, so that nothing is downloaded.

A Llama with 0.4 million parameters reads bytes. It is trained once, for some seconds, on
`texts/prose.txt`, since a LoRA over random weights hardly learns, and then kept in the user's cache
folder under a name that changes with the recipe and the text.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pillion_trainer.dataset import encode

FORMAT = 1
"""Counts up when what is written to the cache changes."""

END_TOKEN = "<|end|>"  # noqa: S105  the end of a document
PAD_TOKEN = "<|pad|>"  # noqa: S105

Progress = Callable[[int, int, float], None]
"""Called after each step with the step, the number of steps and the loss in nats per byte."""

LINE_INTERVAL_STEPS = 40


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the weights of the base, but for the text."""

    hidden_size: int = 96
    intermediate_size: int = 256
    layers: int = 3
    heads: int = 4
    context_tokens: int = 512
    sequence_length: int = 128
    batch_size: int = 12
    steps: int = 200
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 1907


def ensure_base_model(
    cache_dir: Path | None = None, progress: Progress | None = None, recipe: Recipe | None = None
) -> Path:
    """Return the folder of the base model and its tokenizer, training it if it is not there yet.

    Of several processes one trains, the others wait for its lock, which ends with its holder. The
    folder appears under its name only when it is complete.

    Args:
        cache_dir: where it is kept; by default `$XDG_CACHE_HOME/pillion`.
        progress: told of each step, only while this call trains.
        recipe: another base than the built-in one.
    """
    recipe = recipe or Recipe()
    text = (resources.files(__package__) / "texts" / "prose.txt").read_text(encoding="utf-8")
    folder = (cache_dir or default_cache_dir()) / f"base-{_digest(recipe, text)}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)  # left by a builder that was killed
            tokenizer = byte_tokenizer()
            model = _trained_model(recipe, text, tokenizer, progress)
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            partial.rename(folder)
    return folder


def in_lines(say: Callable[[str], None]) -> Progress:
    """Return a progress that says a line now and then."""

    def progress(step: int, steps: int, loss: float) -> None:
        if step % LINE_INTERVAL_STEPS == 0 or step == steps:
            say(f"making the base model, once: step {step} of {steps}, loss {loss:.2f}")

    return progress


def byte_tokenizer() -> Any:
    """Return a tokenizer with one token per byte, so that any text is encoded and comes back."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_TOKEN,
        pad_token=PAD_TOKEN,
        clean_up_tokenization_spaces=False,
    )


def _trained_model(recipe: Recipe, text: str, tokenizer: Any, progress: Progress | None) -> Any:
    """Train on random windows of the text, (batch_size, sequence_length), with one learning cycle.

    The random numbers are the recipe's own; those of the caller are left as they were.
    """
    tokens = encode([text], tokenizer)
    offsets = torch.arange(recipe.sequence_length)
    with torch.random.fork_rng(), _one_thread():
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(_architecture(recipe, tokenizer))
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
        )
        for step in range(1, recipe.steps + 1):
            starts = torch.randint(len(tokens) - recipe.sequence_length, (recipe.batch_size, 1))
            windows = tokens[starts + offsets]
            loss = model(input_ids=windows, labels=windows).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if progress:
                progress(step, recipe.steps, loss.item())
    return model


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: for matrices this small, more spend five times the CPU on waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _architecture(recipe: Recipe, tokenizer: Any) -> Any:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _digest(recipe: Recipe, text: str) -> str:
    decisive = json.dumps([FORMAT, asdict(recipe), text], sort_keys=True)
    return hashlib.sha256(decisive.encode()).hexdigest()[:16]


def default_cache_dir() -> Path:
    """Return the user's cache folder of Pillion, whether it is there or not."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "pillion"


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file; the kernel frees it when its holder ends, however."""
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
