"""Rules of the trainer's configuration."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from pillion_trainer.cli import main
from pillion_trainer.config import ConfigurationError, TrainingConfig
from pillion_trainer.config_file import load_config


def test_the_defaults_are_a_valid_configuration() -> None:
    """Nothing has to be set."""
    assert TrainingConfig() == load_config(None, {})


def test_all_mistakes_are_told_at_once() -> None:
    """One look shows each wrong field, its value and what to give."""
    with pytest.raises(ConfigurationError) as caught:
        TrainingConfig(lora_r=0, learning_rate=-1.0, precision="int4", eval_share=0.9)
    assert caught.value.mistakes == (
        "lora_r is 0: give a whole number of at least 1",
        "eval_share is 0.9: give a number from 0 to 0.5",
        "precision is 'int4': give one of fp32, bf16, fp16",
        "learning_rate is -1.0: give a number above 0",
    )


def test_mistakes_of_file_and_flags_are_told_together(tmp_path: Path) -> None:
    """Unknown names, wrong kinds and wrong values of both sources come in one error."""
    file = tmp_path / "tune.toml"
    file.write_text('learning_rat = 1\nbatch_size = "eight"\ntarget_modules = []\n')
    with pytest.raises(ConfigurationError) as caught:
        load_config(file, {"epochs": "many", "data": str(tmp_path / "none.txt")})
    assert caught.value.mistakes == (
        f"{file}, line 1: learning_rat is no option: did you mean learning_rate?",
        f"{file}, line 3: target_modules is (): give one or more names, joined by commas",
        f"data is {str(tmp_path / 'none.txt')!r}: give a file that exists",
        "epochs is 'many': give a number",
        f"{file}, line 2: batch_size is 'eight': give a whole number",
    )


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    """What is typed last counts; the file's other values stay."""
    file = tmp_path / "tune.toml"
    file.write_text('lora_r = 4\nlearning_rate = 1\ntags = ["a", "b"]\n')
    config = load_config(file, {"lora_r": "32", "target_modules": "q_proj, v_proj"})
    assert (config.lora_r, config.learning_rate, config.tags) == (32, 1, ("a", "b"))
    assert config.target_modules == ("q_proj", "v_proj")


def test_an_unreadable_file_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    """A file that is missing or no TOML is told like any other mistake."""
    broken = tmp_path / "broken.toml"
    broken.write_text("lora_r = = 4")
    for file in (broken, tmp_path / "missing.toml"):
        with pytest.raises(ConfigurationError, match="give a readable TOML file"):
            load_config(file, {})


def test_true_is_no_number() -> None:
    """Python's booleans are integers, a configuration's are not."""
    with pytest.raises(ConfigurationError, match="lora_r is True: give a whole number"):
        TrainingConfig(lora_r=True)


@pytest.mark.parametrize("path", ["", "~nobody-here/a", "a" * 5000, "\0"])
def test_what_can_be_no_path_is_a_mistake_like_any_other(path: str) -> None:
    """Whatever the system says of it."""
    with pytest.raises(ConfigurationError) as caught:
        TrainingConfig(data=path, eval_data=path, resume_from=path)
    assert len(caught.value.mistakes) == 3


def test_as_dict_names_every_option() -> None:
    """What is logged leaves no option out."""
    assert set(TrainingConfig().as_dict()) == {each.name for each in fields(TrainingConfig)}


def test_the_command_line_prints_each_mistake_and_exits_with_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A mistake costs no import of torch and no run."""
    assert main(["--r", "0", "--learning-rate", "fast"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "trainer: lora_r is 0: give a whole number of at least 1",
        "trainer: learning_rate is 'fast': give a number",
    ]


def test_nothing_heavy_is_imported_for_help() -> None:
    """`--help` and mistakes come before torch, transformers and grpc."""
    code = (
        "import sys, pillion_trainer.cli as cli\n"
        "assert cli.main(['--r', '0']) == 2\n"
        "assert not {'torch', 'transformers', 'peft', 'grpc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_missing_extra_is_told_in_one_line_that_works_in_a_checkout() -> None:
    """Without torch and its kin there is an installation line, not a traceback."""
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'transformers', 'peft', 'accelerate']))\n"
        "from pillion_trainer.cli import main\n"
        "sys.exit(main([]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "pip install -e '.[trainer]'" in ended.stderr


def test_own_data_and_epochs_go_by_epochs(tmp_path: Path) -> None:
    """The default number of steps is for the built-in text; a number that is given counts."""
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"text": "a"}')
    assert load_config(None, {}).max_steps == 120
    assert load_config(None, {"epochs": "1"}).max_steps == 0
    assert load_config(None, {"data": str(mine)}).max_steps == 0
    assert load_config(None, {"data": str(mine), "max_steps": "7"}).max_steps == 7
