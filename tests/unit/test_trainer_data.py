"""Rules of the trainer's data: files of every kind, forms of rows, tokens, labels and batches."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra [trainer]")

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from transformers import AutoTokenizer

from pillion_trainer.base_model import byte_tokenizer
from pillion_trainer.config import ConfigurationError, TrainingConfig
from pillion_trainer.dataset import NOT_LEARNED, Dataset, Padding, make_dataset, read_sources

TOKENIZER = byte_tokenizer()
END = "<|end|>"

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Port?"},
    {"role": "assistant", "content": "Left."},
    {"role": "user", "content": "Starboard?"},
    {"role": "assistant", "content": "Right."},
]
COMPLETIONS = [{"prompt": "2+2=", "completion": "4"}, {"prompt": "", "completion": "Grüße\n"}]


def load(path: Path | None, tokenizer: Any = TOKENIZER, **changed: Any) -> Dataset:
    """Load with lengths of a test."""
    options: dict[str, Any] = {"sequence_length": 8, "eval_share": 0.25, **changed}
    config = TrainingConfig(data=str(path) if path else None, **options)
    return make_dataset(read_sources(config), tokenizer, config)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as the ending of the file's name asks."""
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        cells = [
            {
                name: cell if isinstance(cell, str) else json.dumps(cell)
                for name, cell in row.items()
            }
            for row in rows
        ]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(cells)
    return path


def mistakes_of(path: Path, **changed: Any) -> list[str]:
    """Return what is told of a file that cannot be used, without its name in front."""
    with pytest.raises(ConfigurationError) as caught:
        load(path, **changed)
    return [mistake.removeprefix(f"data {path.name}, ") for mistake in caught.value.mistakes]


def learned(dataset: Dataset, index: int = 0) -> tuple[str, str]:
    """Return a sample as text, and of it what is learned."""
    sample = dataset.train[index]
    labels = [label for label in sample["labels"].tolist() if label != NOT_LEARNED]
    return TOKENIZER.decode(sample["input_ids"]), TOKENIZER.decode(labels)


each_kind = pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])


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
    first = [chr(TOKENIZER.decode([row[0]]).encode()[0]) for row in dataset.train.tokens]
    assert (first, len(dataset.evaluation)) == (["A", "I", "Q", "a"], 1)
    assert dataset.as_dict()["tokens"] == 40
    assert dataset.train[0]["input_ids"].tolist() == dataset.train[0]["labels"].tolist()


@each_kind
def test_texts_of_rows_are_separated(tmp_path: Path, ending: str) -> None:
    """Each row's text ends with the end token; other columns are left alone."""
    rows = [{"text": "a\u2028c", "n": 1}, {"text": "d\nfg", "n": 2}]
    dataset = load(write(tmp_path / f"texts.{ending}", rows), sequence_length=11, eval_share=0)
    assert TOKENIZER.decode(dataset.train.tokens[0]) == f"a\u2028c{END}d\nfg{END}"
    described = dataset.as_dict()
    assert (described["format"], described["rows"]) == ("text", 2)
    assert (described["train_samples"], described["eval_samples"]) == (1, 0)


@each_kind
def test_of_a_prompt_nothing_is_learned(tmp_path: Path, ending: str) -> None:
    """The completion is, with the end behind it, whatever the file."""
    dataset = load(write(tmp_path / f"sums.{ending}", COMPLETIONS), eval_share=0)
    assert learned(dataset, 0) == (f"2+2=4{END}", f"4{END}")
    assert learned(dataset, 1) == ("Grüße\n", "Grüße\n")
    assert dataset.as_dict()["format"] == "completion"
    assert (dataset.as_dict()["samples_cut"], dataset.as_dict()["samples_left_out"]) == (1, 0)


@each_kind
def test_of_a_chat_the_assistant_is_learned(tmp_path: Path, ending: str) -> None:
    """Each answer with its end; what was asked, and by which system, is read only."""
    file = write(tmp_path / f"chat.{ending}", [{"messages": CHAT}])
    text, answers = learned(load(file, sequence_length=512, eval_share=0))
    assert text.startswith(f"system:\nBe brief.{END}\nuser:\nPort?{END}\nassistant:\nLeft.{END}\n")
    assert answers == f"Left.{END}\nRight.{END}\n"


def test_the_plain_template_is_kept_with_a_tokenizer_that_has_none(tmp_path: Path) -> None:
    """So that the model is asked as it was taught; without a chat nothing is changed."""
    tokenizer = byte_tokenizer()
    load(write(tmp_path / "sums.jsonl", COMPLETIONS), tokenizer, eval_share=0)
    assert tokenizer.chat_template is None
    chat = write(tmp_path / "chat.jsonl", [{"messages": CHAT}])
    load(chat, tokenizer, sequence_length=512, eval_share=0)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    asked = again.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert asked == f"system:\nBe brief.{END}\nuser:\nPort?{END}\nassistant:\n"


def test_of_a_chat_that_is_rewritten_as_it_goes_on_all_is_learned(tmp_path: Path) -> None:
    """A template that shows only the last message's role leaves no telling whose a part is."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for each in messages %}"
        "{{ each['role'] if loop.last }}:{{ each['content'] }}"
        "{% endfor %}"
    )
    file = write(tmp_path / "chat.jsonl", [{"messages": CHAT}])
    text, answers = learned(load(file, tokenizer, sequence_length=512, eval_share=0))
    assert text == answers == ":Be brief.:Port?:Left.:Starboard?assistant:Right."


def test_rows_that_a_template_refuses_are_named(tmp_path: Path) -> None:
    """What the template says of it is told."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('Roles must alternate') }}"
    file = write(tmp_path / "chat.jsonl", [{"messages": CHAT}])
    with pytest.raises(ConfigurationError, match=r"line 1, messages: .* Roles must alternate"):
        load(file, tokenizer, sequence_length=512, eval_share=0)


def test_what_is_too_long_is_cut_or_left_out_and_told(tmp_path: Path) -> None:
    """A sample of which nothing that is learned is left would make a loss that is no number."""
    rows = [
        {"prompt": "four", "completion": "and more"},
        {"prompt": "all of this", "completion": "none"},
        {"prompt": "1", "completion": "2"},
    ]
    dataset = load(write(tmp_path / "long.jsonl", rows), eval_share=0)
    assert [learned(dataset, index)[1] for index in range(2)] == ["and ", f"2{END}"]
    (notice,) = dataset.notices()
    assert notice.startswith("long.jsonl: 2 samples are longer than sequence_length and were cut")
    assert notice.endswith("1 have nothing to learn within it and were left out")
    (alone,) = mistakes_of(write(tmp_path / "none.jsonl", rows[1:2]))
    assert "1 of which have nothing to learn within sequence_length" in alone


def test_samples_are_padded_where_they_meet(tmp_path: Path) -> None:
    """Behind their ends, where nothing is learned and nothing is attended to."""
    dataset = load(write(tmp_path / "sums.jsonl", COMPLETIONS), eval_share=0)
    batch = Padding(TOKENIZER.pad_token_id)([dataset.train[0], dataset.train[1]])
    assert {name: tuple(each.shape) for name, each in batch.items()} == dict.fromkeys(batch, (2, 8))
    assert batch["input_ids"][0, 6:].tolist() == [257, 257]
    assert batch["labels"][0].tolist() == [-100] * 4 + [19, 256] + [-100] * 2
    assert batch["attention_mask"].sum(dim=1).tolist() == [6, 8]


def test_a_file_of_its_own_is_evaluated_on(tmp_path: Path) -> None:
    """Nothing of the data is held out then, and both files are identified."""
    data = write(tmp_path / "data.jsonl", COMPLETIONS * 4)
    other = write(tmp_path / "eval.csv", COMPLETIONS)
    dataset = load(data, eval_share=0, eval_data=str(other))
    described = dataset.as_dict()
    assert (len(dataset.train), len(dataset.evaluation)) == (8, 2)
    assert (described["name"], described["eval_data"]["name"]) == ("data.jsonl", "eval.csv")
    assert described["sha256"] != described["eval_data"]["sha256"]


def test_every_nth_sample_is_held_out(tmp_path: Path) -> None:
    """The same ones in every run."""
    rows = [{"prompt": "", "completion": str(number)} for number in range(9)]
    dataset = load(write(tmp_path / "rows.jsonl", rows))
    held_out = [TOKENIZER.decode(each).removesuffix(END) for each in dataset.evaluation.tokens]
    assert (held_out, len(dataset.train)) == (["3", "7"], 7)


def test_damaged_lines_of_jsonl_are_named(tmp_path: Path) -> None:
    """All of them, up to a bound, with their numbers."""
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a"}\n\nnot json\n{"text": 1}\n[1]\n')
    assert mistakes_of(file) == [
        "line 3 is 'not json': give a JSON object",
        "line 4, text is 1: give a text",
        "line 5 is '[1]': give a JSON object",
    ]
    file.write_text("not json")
    assert mistakes_of(file) == ["line 1 is 'not json': give a JSON object"]
    file.write_text('{"text": "a"}\n' + '{"txt": "b"}\n' * 7)
    told = mistakes_of(file)
    assert told[0] == "line 2, text is None: give a text"
    assert told[5:] == ["data texts.jsonl: 2 more rows are wrong"]
    file.write_text('{"text": "a"}\n' + '{"txt": "b"}\n' * 6)
    assert mistakes_of(file)[5:] == ["data texts.jsonl: 1 more row is wrong"]


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (None, 'a list of {"role": ..., "content": ...}'),
        ([], 'a list of {"role": ..., "content": ...}'),
        ([{"role": "user"}], 'a list of {"role": ..., "content": ...}'),
        (["hello"], 'a list of {"role": ..., "content": ...}'),
        ([{"role": "human", "content": "a"}], "one of system, user, assistant, tool as each role"),
        ([{"role": "user", "content": "a"}], "at least one message of the assistant"),
        ("[{]", 'a list of {"role": ..., "content": ...}'),
    ],
)
def test_a_mistaken_chat_is_named_with_its_row_and_column(
    tmp_path: Path, messages: Any, told: str
) -> None:
    """And what to give."""
    file = write(tmp_path / "chat.json", [{"messages": CHAT}, {"messages": messages}])
    (mistake,) = mistakes_of(file)
    assert mistake.startswith("row 2, messages is ")
    assert told in mistake


def test_an_empty_completion_is_a_mistake(tmp_path: Path) -> None:
    """There is nothing to learn of it; an empty prompt is none."""
    rows = [*COMPLETIONS, {"prompt": "a", "completion": ""}, {"prompt": "a"}]
    assert mistakes_of(write(tmp_path / "sums.jsonl", rows)) == [
        "line 3, completion is '': give a text that is not empty",
        "line 4, completion is None: give a text that is not empty",
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"\xff\xfe", "give UTF-8 text"),
        ("a.json", b'{"text": "a"}', "it holds a dict; give a JSON list of objects"),
        ("a.json", b'[{"text": "a"}, 1]', "row 2 is 1: give a JSON object"),
        ("a.json", b'[{"text": "a"},\n]', "line 2 column 1"),
        ("a.json", b"[" * 100_000, "give a JSON list of objects"),
        ("a.jsonl", b"", "has no rows"),
        ("a.csv", b"", "names no columns"),
        ("a.csv", b"text,text\na,b\n", "names no columns"),
        ("a.csv", b"prompt,completion\na,b\na\n\na,b,c\n", "line 3 has 1 cells: give 2"),
        ("a.csv", b'text\n"a\n', "is no CSV"),
        ("a.parquet", b"PAR1", "give a Parquet file"),
        ("a.jsonl", b'{"question": 1}', "line 1 has the columns question: give messages, or"),
        ("a.jsonl", b'{"text": "a", "messages": []}', "give data_format, one of chat, text"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    """Whatever its kind, in sentences of ours."""
    file = tmp_path / name
    file.write_bytes(content)
    assert told in " ".join(mistakes_of(file))


def test_a_form_that_is_given_is_what_is_looked_for(tmp_path: Path) -> None:
    """Columns that would be found otherwise do not matter."""
    both = [{"text": "a", "prompt": "a", "completion": "b"}]
    file = write(tmp_path / "both.jsonl", both)
    assert load(file, data_format="completion", eval_share=0).as_dict()["format"] == "completion"
    assert mistakes_of(file, data_format="chat") == [
        'line 1, messages is None: give a list of {"role": ..., "content": ...}'
    ]


def test_a_missing_library_is_told_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parquet needs one that no other file does."""
    file = write(tmp_path / "a.parquet", [{"text": "a"}])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "pip install pyarrow" in " ".join(mistakes_of(file))


def test_mistakes_of_both_files_are_told_together(tmp_path: Path) -> None:
    """Each under the option that gave it."""
    data = write(tmp_path / "data.jsonl", [{"text": 1}])
    other = write(tmp_path / "other.jsonl", [{"text": 2}])
    config = TrainingConfig(data=str(data), eval_data=str(other))
    with pytest.raises(ConfigurationError) as caught:
        read_sources(config)
    assert caught.value.mistakes == (
        "data data.jsonl, line 1, text is 1: give a text",
        "eval_data other.jsonl, line 1, text is 2: give a text",
    )


def test_a_text_too_short_for_one_block_is_refused(tmp_path: Path) -> None:
    """An empty training set would fail later and less clearly."""
    file = tmp_path / "short.txt"
    file.write_text("short")
    assert "fill no block to use: give a longer text" in " ".join(mistakes_of(file))


def test_the_built_in_text_is_identified_by_its_digest() -> None:
    """Two runs on the same text can be told to be so."""
    described = load(None).as_dict()
    assert described["name"] == "logbook.txt"
    assert len(described["sha256"]) == 64
