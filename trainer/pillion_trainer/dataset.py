"""What a model is tuned on: rows as tokens, with labels where something is learned.

Texts are packed into blocks of one length. Conversations, and prompts with completions, stay
samples of their own length, which are padded where they meet in a batch. Every k-th block or sample
is kept for evaluation, whatever the seed, so that runs are compared on the same data. Needs only
torch and a tokenizer; nothing is downloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from pillion_trainer.config import ConfigurationError, TrainingConfig
from pillion_trainer.rows import in_rows
from pillion_trainer.samples import Data, Piece, pieces_of, read_data

NOT_LEARNED = -100
"""The label that torch's cross entropy leaves out."""


class Samples:
    """Tokens and labels, as `torch.utils.data.DataLoader` wants them.

    Both are (sequence,) int64, or both (samples, sequence) where all have one length. A causal
    model shifts the labels itself.
    """

    def __init__(self, tokens: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]) -> None:
        self.tokens = tokens
        self.labels = labels

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


class Padding:
    """Makes a batch, (samples, the longest sequence), of samples of several lengths."""

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Fill up behind each sample, with labels of which nothing is learned."""
        tokens = [each["input_ids"] for each in samples]
        labels = [each["labels"] for each in samples]
        masks = [torch.ones_like(each) for each in tokens]
        return {
            "input_ids": pad_sequence(tokens, batch_first=True, padding_value=self._pad_token_id),
            "labels": pad_sequence(labels, batch_first=True, padding_value=NOT_LEARNED),
            "attention_mask": pad_sequence(masks, batch_first=True),
        }


@dataclass(frozen=True, slots=True)
class Encoded:
    """One file as samples, what identifies it, and what did not fit.

    `cut` samples were longer than the sequence length; of those `left_out` nothing that is learned
    fits into it.
    """

    data: Data
    samples: Samples
    cut: int = 0
    left_out: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return what identifies and measures the file, for the configuration of a run."""
        file = self.data.file
        learned = sum(int((each != NOT_LEARNED).sum()) for each in self.samples.labels)
        return {
            "name": file.name,
            "sha256": file.sha256,
            "size_bytes": file.size_bytes,
            "format": self.data.form,
            "rows": len(file.rows),
            "tokens": sum(len(each) for each in self.samples.tokens),
            "tokens_learned": learned,
            "samples_cut": self.cut,
            "samples_left_out": self.left_out,
        }


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is learned from and what is evaluated on; `held_out` where that is a file of its own."""

    source: Encoded
    held_out: Encoded | None
    train: Samples
    evaluation: Samples

    @property
    def name(self) -> str:
        """The name of the file that is learned from."""
        return self.source.data.file.name

    @property
    def is_packed(self) -> bool:
        """Whether all samples have one length."""
        files = [self.source, self.held_out] if self.held_out else [self.source]
        return all(each.data.form == "text" for each in files)

    def notices(self) -> list[str]:
        """Return a line on each file of which not everything is learned."""
        files = [self.source, self.held_out] if self.held_out else [self.source]
        return [
            f"{each.data.file.name}: {each.cut} samples are longer than sequence_length and were "
            f"cut, {each.left_out} have nothing to learn within it and were left out"
            for each in files
            if each.cut or each.left_out
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return what identifies and measures the data, for the configuration of a run."""
        described = self.source.as_dict()
        described |= {"train_samples": len(self.train), "eval_samples": len(self.evaluation)}
        if self.held_out:
            described["eval_data"] = self.held_out.as_dict()
        return described


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of a dataset, read and checked, before there is a tokenizer."""

    data: Data
    eval_data: Data | None


def read_sources(config: TrainingConfig) -> Sources:
    """Read the files.

    Raises:
        ConfigurationError: what is wrong in them, of both together.
    """
    found: list[Data] = []
    mistakes: list[str] = []
    for option, path in (("data", config.data), ("eval_data", config.eval_data)):
        if option == "data" or path is not None:
            try:
                found.append(read_data(option, path, config.data_format))
            except ConfigurationError as error:
                mistakes += error.mistakes
    if mistakes:
        raise ConfigurationError(*mistakes)
    return Sources(found[0], found[1] if len(found) > 1 else None)


def make_dataset(sources: Sources, tokenizer: Any, config: TrainingConfig) -> Dataset:
    """Encode the files and split off what is evaluated on.

    Raises:
        ConfigurationError: nothing is left to learn from, or the chat template refuses rows.
    """
    source = encode_data(sources.data, tokenizer, config.sequence_length)
    train, evaluation = _split(source.samples, config.eval_share)
    held_out = None
    if sources.eval_data is not None:
        held_out = encode_data(sources.eval_data, tokenizer, config.sequence_length)
        evaluation = held_out.samples
    empty = [source] if not len(train) else []
    empty += [held_out] if held_out and not len(evaluation) else []
    if empty:
        raise ConfigurationError(*(_too_little(each, config) for each in empty))
    return Dataset(source, held_out, train, evaluation)


def encode_data(data: Data, tokenizer: Any, sequence_length: int) -> Encoded:
    """Return a file's rows as samples of at most `sequence_length` tokens."""
    if data.form == "text":
        texts = [row.values["text"] for row in data.file.rows]
        blocks = pack(encode(texts, tokenizer), sequence_length)
        return Encoded(data, Samples(blocks, blocks))
    samples = encode_pieces(pieces_of(data, tokenizer), tokenizer)
    cut = sum(len(tokens) > sequence_length for tokens, _ in samples)
    kept = [
        (tokens[:sequence_length], labels[:sequence_length])
        for tokens, labels in samples
        if (labels[1:sequence_length] != NOT_LEARNED).any()  # the first is nobody's successor
    ]
    return Encoded(
        data,
        Samples([tokens for tokens, _ in kept], [labels for _, labels in kept]),
        cut=cut,
        left_out=len(samples) - len(kept),
    )


def encode(documents: list[str], tokenizer: Any) -> torch.Tensor:
    """Return all documents as one row of tokens, (tokens,) int64, each ended by the end token."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] + end for text in documents]
    return _row([token for row in rows for token in row])


def encode_pieces(
    samples: Sequence[Sequence[Piece]], tokenizer: Any
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the tokens of each sample and its labels, both (sequence,) int64.

    Pieces are encoded one by one, as they are when the model is asked: it goes on behind the tokens
    of a prompt.
    """
    texts = [piece.text for pieces in samples for piece in pieces]
    rows = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    encoded = []
    for pieces in samples:
        tokens: list[int] = []
        labels: list[int] = []
        for piece in pieces:
            row = next(rows)
            tokens += row
            labels += row if piece.is_learned else [NOT_LEARNED] * len(row)
        encoded.append((_row(tokens), _row(labels)))
    return encoded


def pack(tokens: torch.Tensor, sequence_length: int) -> torch.Tensor:
    """Cut (tokens,) into (blocks, sequence_length); what does not fill a block is left out."""
    blocks = len(tokens) // sequence_length
    return tokens[: blocks * sequence_length].view(blocks, sequence_length)


def _row(tokens: list[int]) -> torch.Tensor:
    return torch.tensor(tokens, dtype=torch.int64)


def _split(samples: Samples, eval_share: float) -> tuple[Samples, Samples]:
    every = round(1 / eval_share) if eval_share else len(samples) + 1
    kept = [index for index in range(len(samples)) if (index + 1) % every]
    held_out = [index for index in range(len(samples)) if (index + 1) % every == 0]
    return _chosen(samples, kept), _chosen(samples, held_out)


def _chosen(samples: Samples, indices: list[int]) -> Samples:
    if isinstance(samples.tokens, torch.Tensor):
        blocks = samples.tokens[indices]
        return Samples(blocks, blocks)
    return Samples(
        [samples.tokens[index] for index in indices], [samples.labels[index] for index in indices]
    )


def _too_little(encoded: Encoded, config: TrainingConfig) -> str:
    file = encoded.data.file
    start = f"{file.option} is {file.name!r} with {in_rows(len(file.rows))}"
    if encoded.data.form == "text":
        return (
            f"{start}, which fill no block to use: give a longer text, a smaller sequence_length "
            f"(now {config.sequence_length}) or eval_share (now {config.eval_share:g})"
        )
    return (
        f"{start}, {encoded.left_out} of which have nothing to learn within sequence_length: "
        f"give more rows, a larger sequence_length (now {config.sequence_length}) or a smaller "
        f"eval_share (now {config.eval_share:g})"
    )
