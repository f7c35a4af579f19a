"""Rules of the byte tokenizer and of how a text becomes blocks."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra [trainer]")

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pillion_trainer.base_model import byte_tokenizer
from pillion_trainer.config import ConfigurationError
from pillion_trainer.dataset import Dataset, load_dataset

TOKENIZER = byte_tokenizer()


def load(path: Path | None, **changed: Any) -> Dataset:
    """Load with lengths of a test."""
    options: dict[str, Any] = {"sequence_length": 8, "eval_share": 0.25, **changed}
    return load_dataset(str(path) if path else None, TOKENIZER, **options)


@given(st.text())
def test_any_text_comes_back_from_the_tokenizer(text: str) -> None:
    """Every byte has a token, so nothing is unknown or cleaned up."""
    tokens = TOKENIZER(text)["input_ids"]
    assert len(tokens) == len(text.encode())
    assert TOKENIZER.decode(tokens) == text


def test_the_tokenizer_is_the_same_after_saving(tmp_path: Path) -> None:
    """`AutoTokenizer` knows what was written."""
    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "Grüße, 水 and\ttabs  and spaces .\n"
    assert again(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert again.decode(again(text)["input_ids"]) == text
    assert (again.eos_token_id, again.pad_token_id, len(again)) == (256, 257, 258)


def test_every_block_is_full_and_goes_to_one_side(tmp_path: Path) -> None:
    """Of 41 bytes and an end token, 8 per block, 5 blocks are made and each 4th is evaluated."""
    file = tmp_path / "text.txt"
    file.write_text("".join(chr(65 + index) for index in range(41)))
    dataset = load(file)
    first = [chr(TOKENIZER.decode([row[0]]).encode()[0]) for row in dataset.train.tokens.tolist()]
    assert (first, len(dataset.evaluation)) == (["A", "I", "Q", "a"], 1)
    assert dataset.tokens == 42
    assert dataset.train[0]["input_ids"].tolist() == dataset.train[0]["labels"].tolist()


def test_documents_of_jsonl_are_separated(tmp_path: Path) -> None:
    """Each line's text ends with the end token."""
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "abc"}\n\n{"text": "defg", "source": 1}\n')
    dataset = load(file, sequence_length=9, eval_share=0)
    assert dataset.documents == 2
    assert TOKENIZER.decode(dataset.train.tokens[0]) == "abc<|end|>defg<|end|>"


def test_damaged_lines_of_jsonl_are_named(tmp_path: Path) -> None:
    """All of them (up to a bound) with their numbers."""
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a"}\n{"txt": "b"}\nnot json\n[1]\n')
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert [mistake.split(" is ")[0] for mistake in caught.value.mistakes] == [
        "data, line 2",
        "data, line 3",
        "data, line 4",
    ]


def test_a_text_too_short_for_one_block_is_refused(tmp_path: Path) -> None:
    """An empty training set would fail later and less clearly."""
    file = tmp_path / "short.txt"
    file.write_text("short")
    with pytest.raises(ConfigurationError, match="6 tokens: give a longer text"):
        load(file)


def test_the_built_in_text_is_identified_by_its_digest() -> None:
    """Two runs on the same text can be told to be so."""
    described = load(None).as_dict()
    assert described["name"] == "logbook.txt"
    assert len(described["sha256"]) == 64
