"""What looks like a secret is left out, and nothing else is."""

import pytest

from pillion.plain import Value
from pillion.redaction import REDACTED, is_secret_name, redact, redact_arguments

KEY = "0123456789abcdef" * 2 + "01234567"
"""Of W&B's shape."""


@pytest.mark.parametrize(
    "name",
    [
        *("api_key", "apiKey", "WANDB_API_KEY", "--api-key", "hf_token", "token", "auth-token"),
        *("password", "db.password", "client_secret", "clientSecret", "AWS_SECRET_ACCESS_KEY"),
        *("credentials", "private_key", "Authorization", "OPENAI_API_KEY", "accessToken"),
    ],
)
def test_names_of_secrets_are_known(name: str) -> None:
    """However their words are joined."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer", "max_tokens", "num_tokens", "pad_token", "eos_token", "token_count", "key"),
        *("key_dim", "keys", "monkey", "author", "learning_rate", "passthrough", "tokens_per_s"),
    ],
)
def test_names_that_trainers_use_are_no_secrets(name: str) -> None:
    """Tokens of texts and keys of attention are a trainer's everyday."""
    assert not is_secret_name(name)


def test_config_is_redacted_however_deep_it_is() -> None:
    """By name whatever the text says, by shape whatever the name is; numbers are no secrets."""
    nested: dict[str, Value] = {"password": "x", "list": [f"sk-{'a' * 20}", 3]}
    assert redact(
        {
            "lr": 0.1,
            "token": 5,
            "hf_token": "short",
            "note": f"use {KEY} here",
            "git_commit": KEY,
            "url": "postgres://me:word@host/db",
            "secrets": {"anything": "x", "bytes": b"x"},
            "nested": nested,
        }
    ) == {
        "lr": 0.1,
        "token": 5,
        "hf_token": REDACTED,
        "note": f"use {REDACTED} here",
        "git_commit": KEY,
        "url": "postgres://host/db",
        "secrets": {"anything": REDACTED, "bytes": REDACTED},
        "nested": {"password": REDACTED, "list": [REDACTED, 3]},
    }
    assert nested["password"] == "x"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--api-key X --lr 1", f"--api-key {REDACTED} --lr 1"),
        ("--api_key=X -p 1", f"--api_key={REDACTED} -p 1"),
        ("--password -x", f"--password {REDACTED}"),
        ("--use-token --lr 1", "--use-token --lr 1"),
        (f"WANDB_API_KEY={KEY}", f"WANDB_API_KEY={REDACTED}"),
        ("logger.wandb.api_key=X", f"logger.wandb.api_key={REDACTED}"),
        (f"{KEY} --rev {KEY}", f"{REDACTED} --rev {KEY}"),
        ("https://me:word@host/x?token=X&q=1", f"https://host/x?token={REDACTED}&q=1"),
        ('{"api_key":"X","b":1}', f'{{"api_key":"{REDACTED}","b":1}}'),
        (f"hf_{'a' * 34}", REDACTED),
    ],
)
def test_arguments_are_redacted(arguments: str, told: str) -> None:
    """Options in both forms, assignments, addresses, and what stands alone."""
    assert " ".join(redact_arguments(arguments.split())) == told


@pytest.mark.parametrize(
    "text",
    [
        *("x", "=", "a.", "-", "eyJ-", "sk-", "a=", "a= ", "a:", "://", "a://", "a ://b", "a:b@"),
        *("token", "token_", "0123456789abcdef", " ", "\"'", "A", "aA"),
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """Half a megabyte of anything, as a name or as a value, is looked through once."""
    text *= 500_000 // len(text)
    redact({"a": text, text[:1000]: "x"})
    redact_arguments([text, f"--{text}", "x", f"{text}@ b"])
