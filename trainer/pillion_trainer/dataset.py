"""The text that a model is tuned on: read, encoded, packed into blocks of one length.

Every k-th block is kept for evaluation, whatever the seed, so that runs are compared on the same
text. Needs only torch and a tokenizer; nothing is downloaded.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from pillion_trainer.config import ConfigurationError

BUILT_IN_TEXT = "logbook.txt"
MISTAKES_MAX = 5
"""So many lines of a damaged file are named; the rest is only more of the same."""


class Blocks:
    """Blocks of tokens, as `torch.utils.data.DataLoader` wants them.

    `tokens` is (blocks, sequence) int64; an item is one row as both `input_ids` and `labels`,
    since a causal model shifts the labels itself.
    """

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


@dataclass(frozen=True, slots=True)
class Dataset:
    """One text, packed and split, and what identifies it."""

    name: str
    sha256: str
    size_bytes: int
    documents: int
    tokens: int
    train: Blocks
    evaluation: Blocks

    def as_dict(self) -> dict[str, Any]:
        """Return what identifies and measures the data, for the configuration of a run."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "documents": self.documents,
            "tokens": self.tokens,
            "train_blocks": len(self.train),
            "eval_blocks": len(self.evaluation),
        }


def load_dataset(
    path: str | None, tokenizer: Any, *, sequence_length: int, eval_share: float
) -> Dataset:
    """Read a .txt or .jsonl file (None: the built-in logbook) and pack it.

    Raises:
        ConfigurationError: the file cannot be read as text, or is too short for one block.
    """
    file = (
        Path(path).expanduser() if path else resources.files(__package__) / "texts" / BUILT_IN_TEXT
    )
    try:
        content = file.read_bytes()
        documents = _documents(content.decode(), is_jsonl=file.name.endswith(".jsonl"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"data is {str(file)!r}: {error}; give UTF-8 text") from error
    tokens = encode(documents, tokenizer)
    blocks = pack(tokens, sequence_length)
    train, evaluation = _split(blocks, eval_share)
    if not len(train):
        raise ConfigurationError(
            f"data is {str(file)!r} with {len(tokens)} tokens: give a longer text, a smaller "
            f"sequence_length (now {sequence_length}) or eval_share (now {eval_share})"
        )
    return Dataset(
        name=file.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        documents=len(documents),
        tokens=len(tokens),
        train=Blocks(train),
        evaluation=Blocks(evaluation),
    )


def encode(documents: list[str], tokenizer: Any) -> torch.Tensor:
    """Return all documents as one row of tokens, (tokens,) int64, each ended by the end token."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] + end for text in documents]
    return torch.tensor([token for row in rows for token in row], dtype=torch.int64)


def pack(tokens: torch.Tensor, sequence_length: int) -> torch.Tensor:
    """Cut (tokens,) into (blocks, sequence_length); what does not fill a block is left out."""
    blocks = len(tokens) // sequence_length
    return tokens[: blocks * sequence_length].view(blocks, sequence_length)


def _split(blocks: torch.Tensor, eval_share: float) -> tuple[torch.Tensor, torch.Tensor]:
    every = round(1 / eval_share) if eval_share else len(blocks) + 1
    is_evaluation = torch.arange(1, len(blocks) + 1) % every == 0
    return blocks[~is_evaluation], blocks[is_evaluation]


def _documents(text: str, *, is_jsonl: bool) -> list[str]:
    """Return the texts of a file; raise `ConfigurationError` with the lines that hold none."""
    if not is_jsonl:
        return [text]
    texts: list[str] = []
    mistakes: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            value = None
        if isinstance(value, str):
            texts.append(value)
        else:
            mistakes.append(f'data, line {number} is {line[:40]!r}: give {{"text": "..."}}')
    if mistakes:
        raise ConfigurationError(*mistakes[:MISTAKES_MAX])
    return texts
