"""What was trained can be loaded again, and says something else than its base."""

import json
import shutil
import warnings
from pathlib import Path

import pytest

pytest.importorskip("peft", reason="needs the extra [trainer]")

import torch
from fine_tuning import FakeRun
from transformers.utils import logging

from pillion_trainer import ConfigurationError, TrainingConfig
from pillion_trainer.cli import main
from pillion_trainer.generation import asks_in_chats, generate, load_adapter
from pillion_trainer.lineage import TRAINING_FILE
from pillion_trainer.samples import PLAIN_TEMPLATE
from pillion_trainer.training import fine_tune

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

PROMPT = "DAY 412 | "


@pytest.fixture(scope="module")
def adapter(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an adapter that has learned something."""
    folder = tmp_path_factory.mktemp("adapter")
    config = TrainingConfig(
        model=str(small_base),
        output_dir=str(folder),
        learning_rate=1e-2,
        max_steps=30,
        sequence_length=32,
        eval_interval_steps=0,
    )
    fine_tune(config, FakeRun())
    return folder


def test_an_adapter_says_the_same_each_time_and_not_what_its_base_says(adapter: Path) -> None:
    """Always the likeliest token, or drawn by the seed; the caller's random numbers stay."""
    model, tokenizer = load_adapter(adapter)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    said = generate(model, tokenizer, PROMPT, 20)
    assert said == generate(model, tokenizer, PROMPT, 20, seed=7)
    assert said != generate(model, tokenizer, PROMPT, 20, uses_adapter=False)
    drawn = [generate(model, tokenizer, PROMPT, 20, seed=seed, temperature=1) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.rand(1), expected)


def test_an_adapter_tuned_on_chats_is_asked_in_a_chat(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Base and adapter get a user's turn and the beginning of the answer, unless it is raw."""
    folder = tmp_path / "chats"
    shutil.copytree(adapter, folder)
    told = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))
    told["dataset"]["format"] = "chat"
    (folder / TRAINING_FILE).write_text(json.dumps(told), encoding="utf-8")
    model, tokenizer = load_adapter(folder)
    assert not asks_in_chats(tokenizer), "it has no template"
    tokenizer.chat_template = PLAIN_TEMPLATE
    tokenizer.save_pretrained(folder)
    turn = f"user:\nport?{tokenizer.eos_token}\nassistant:\n"
    for is_tuned in (True, False):
        written = generate(model, tokenizer, turn, 8, raw=True, uses_adapter=is_tuned)
        assert generate(model, tokenizer, "port?", 8, uses_adapter=is_tuned) == written
    answer = generate(model, tokenizer, "port?", 8)
    assert generate(model, tokenizer, "port?", 8, raw=True) != answer
    command = ["--generate", "port?", "--adapter", str(folder), "--max-new-tokens", "8"]
    assert main(command) == 0
    assert f"With the adapter:\n{answer}\n" in capsys.readouterr().out
    assert main([*command, "--raw"]) == 0
    assert "With the adapter:\nport?" in capsys.readouterr().out
    tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(ConfigurationError, match=r"no users here; give --raw, or raw=True"):
        generate(model, tokenizer, "port?", 8)


def test_loading_an_adapter_prints_nothing(
    adapter: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No bar, and no warning of what transformers will rename; who wants bars has them after."""
    logging.enable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_adapter(adapter)
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()


def test_a_long_prompt_is_cut_at_its_beginning(adapter: Path) -> None:
    """The model reads 64 tokens: what is said follows from the last of them."""
    model, tokenizer = load_adapter(adapter)
    end = "lamp: lit 18:54 | out 05:09 | oil 2.1\nQ: "[-40:]
    said = generate(model, tokenizer, end, 24)
    assert generate(model, tokenizer, "x" * 500 + end, 24) == said


@pytest.mark.parametrize(("prompt", "count"), [("", 5), ("a", 64), ("a", 0)])
def test_what_cannot_be_said_is_refused_with_a_sentence(
    adapter: Path, prompt: str, count: int
) -> None:
    """Nothing to go on from, or no room for it."""
    model, tokenizer = load_adapter(adapter)
    with pytest.raises(ConfigurationError, match="give"):
        generate(model, tokenizer, prompt, count)


def test_the_command_shows_base_and_adapter(
    adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both from the prompt on; without an adapter it says what to give."""
    command = ["--generate", PROMPT, "--max-new-tokens", "10"]
    assert main([*command, "--adapter", str(adapter)]) == 0
    base, tuned = capsys.readouterr().out.split("With the adapter:\n")
    assert base.startswith(f"The base model:\n{PROMPT}")
    assert tuned.startswith(PROMPT)
    for wrong, told in (
        ([], "adapter is not given"),
        (["--adapter", "/nowhere"], "has no adapter"),
    ):
        assert main([*command, *wrong]) == 2
        assert told in capsys.readouterr().err


def test_an_adapter_without_its_base_says_so(adapter: Path, tmp_path: Path) -> None:
    """The base was in a folder that is gone."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in adapter.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        if path.name == "adapter_config.json":
            start = text.index('"base_model_name_or_path": "') + len('"base_model_name_or_path": "')
            text = text[:start] + "/nonexistent/base" + text[text.index('"', start) :]
        (copy / path.name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match="base model is still there"):
        load_adapter(copy)
