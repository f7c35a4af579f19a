"""What a row of data means: a conversation, a prompt with its completion, or a text.

A sample is made of pieces of text, of which some are learned and the others only read. Rows are
checked without a tokenizer; only a chat template can refuse one later.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinja2 import TemplateError

from pillion_trainer.config import ConfigurationError
from pillion_trainer.rows import DataFile, MistakenRowsError, Row, in_words, read_file, shown

COLUMNS = {"chat": ("messages",), "completion": ("prompt", "completion"), "text": ("text",)}
"""The columns that a form needs; others may stand beside them."""

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] + ':\\n' + message['content'] + (eos_token or '') + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)
"""The chat template of a tokenizer that brings none."""

ROLES = ("system", "user", "assistant", "tool")


class Piece(NamedTuple):
    """A part of a sample. Nothing is learned of a prompt."""

    text: str
    is_learned: bool


@dataclass(frozen=True, slots=True)
class Data:
    """A file whose rows are known to have one form: chat, completion or text."""

    file: DataFile
    form: str


def read_data(option: str, path: str | None, data_format: str) -> Data:
    """Read a file, find its form by its columns if that is `auto`, and check all rows.

    Raises:
        ConfigurationError: the first rows that cannot be used, with line or row and column.
    """
    file = read_file(option, path)
    if not file.rows:
        raise ConfigurationError(f"{option} is {path!r}, which has no rows: give some")
    readable = [row for row in file.rows if not row.damage]
    form = data_format
    if data_format == "auto":
        form = _form(file, readable[0]) if readable else "text"  # all are damaged, whatever form
    sentences = [sentence for row in file.rows for sentence in _mistakes(row, form)]
    if sentences:
        raise ConfigurationError(*in_words(option, file.name, tuple(sentences)))
    return Data(file, form)


def pieces_of(data: Data, tokenizer: Any) -> list[list[Piece]]:
    """Return the sample of each row of chats, or of prompts with completions.

    A tokenizer without a chat template gets the plain one, which is saved with it.

    Raises:
        ConfigurationError: rows that the template refuses.
    """
    if data.form == "chat" and tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    make = _chat if data.form == "chat" else _completion
    samples: list[list[Piece]] = []
    sentences: list[str] = []
    for row in data.file.rows:
        try:
            samples.append(make(row, tokenizer))
        except MistakenRowsError as error:
            sentences += error.sentences
    if sentences:
        raise ConfigurationError(*in_words(data.file.option, data.file.name, tuple(sentences)))
    return samples


def _form(file: DataFile, first: Row) -> str:
    """Return the form whose columns the first row has that can be read."""
    columns = first.values.keys()
    forms = [form for form, needed in COLUMNS.items() if columns >= set(needed)]
    if len(forms) == 1:
        return forms[0]
    found = ", ".join(map(str, columns)) or "none"
    remedy = (
        f"give data_format, one of {', '.join(forms)}"
        if forms
        else "give messages, or prompt and completion, or text"
    )
    raise ConfigurationError(
        f"{file.option} {file.name}, {first.place} has the columns {found}: {remedy}"
    )


def _mistakes(row: Row, form: str) -> list[str]:
    if row.damage:
        return [row.place + row.damage]
    return [
        f"{row.place}, {column} is {shown(row.values.get(column))}: give {remedy}"
        for column in COLUMNS[form]
        if (remedy := _CHECKS[column](row.values.get(column)))
    ]


def _check_text(value: Any) -> str:
    return "" if isinstance(value, str) else "a text"


def _check_completion(value: Any) -> str:
    return "" if isinstance(value, str) and value else "a text that is not empty"


def _check_messages(value: Any) -> str:
    """Return what to give instead, if anything; a cell of CSV holds the list as JSON."""
    messages = _messages(value)
    wanted = 'a list of {"role": ..., "content": ...}'
    if not isinstance(messages, list) or not messages:
        return wanted
    for each in messages:
        if not (isinstance(each, dict) and isinstance(each.get("content"), str)):
            return wanted
        if each.get("role") not in ROLES:
            return f"one of {', '.join(ROLES)} as each role"
    if not any(each["role"] == "assistant" for each in messages):
        return "at least one message of the assistant, to learn from"
    return ""


_CHECKS: dict[str, Callable[[Any], str]] = {
    "messages": _check_messages,
    "prompt": _check_text,
    "completion": _check_completion,
    "text": _check_text,
}


def _messages(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _completion(row: Row, tokenizer: Any) -> list[Piece]:
    """Return prompt and completion, begun as the tokenizer begins texts, and ended."""
    return [
        Piece(_begin(tokenizer) + row.values["prompt"], is_learned=False),
        Piece(row.values["completion"] + (tokenizer.eos_token or ""), is_learned=True),
    ]


def _begin(tokenizer: Any) -> str:
    """Return the token that this tokenizer puts before every text; empty if it puts none."""
    is_put = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if is_put else ""


def _chat(row: Row, tokenizer: Any) -> list[Piece]:
    """Return the conversation, of which the assistant's messages are learned.

    Where a template writes earlier messages otherwise once later ones are there, it cannot be told
    which part is whose, and all is learned.
    """
    messages = _messages(row.values["messages"])

    def written(count: int, *, is_asking: bool = False) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages[:count], tokenize=False, add_generation_prompt=is_asking
            )
        )

    pieces: list[Piece] = []
    done = ""
    try:
        whole = written(len(messages))
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked = written(index, is_asking=True)
            answered = written(index + 1)
            if not (
                asked.startswith(done) and answered.startswith(asked) and whole.startswith(answered)
            ):
                return [Piece(whole, is_learned=True)]
            pieces.append(Piece(asked.removeprefix(done), is_learned=False))
            pieces.append(Piece(answered.removeprefix(asked), is_learned=True))
            done = answered
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        told = " ".join(str(error).split())
        raise MistakenRowsError(
            f"{row.place}, messages: the model's chat template refuses it: {told}"
        ) from error
    return [*pieces, Piece(whole.removeprefix(done), is_learned=False)]
