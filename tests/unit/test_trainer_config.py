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
    """A mistake costs no run."""
    assert main(["--r", "0", "--learning-rate", "fast"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "trainer: lora_r is 0: give a whole number of at least 1",
        "trainer: learning_rate is 'fast': give a number",
    ]


def test_nothing_heavy_is_imported_for_help() -> None:
    """`--help` comes before torch, transformers and grpc."""
    code = (
        "import sys, pillion_trainer.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'peft', 'grpc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_flags_that_there_are_not_are_told_with_all_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What each was meant to be, other names of it included; then options, machine and data."""
    pytest.importorskip("peft", reason="needs the extra [trainer]")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": 1}\n')
    flags = ["--lr", "1e-3", "--dropuot=4", "stray", "--thread", "-1", "--method", "lorra"]
    flags += ["--data", "rows.jsonl", "--optimizer", "adamm", "--resume-from", "latest"]
    assert main(flags) == 2
    told = [line.removeprefix("trainer: ") for line in capsys.readouterr().err.splitlines()]
    assert [each.partition(": give one of")[0] for each in told] == [
        "--lr is no option: did you mean --learning-rate?",
        "--dropuot is no option: did you mean --dropout?",
        "stray is no option: see --help for the options",
        "--thread is no option: did you mean --threads?",
        "method is 'lorra'",
        "optimizer is 'adamm'",
        "data rows.jsonl, line 1, text is 1: give a text",
        "resume_from is 'latest': give output_dir or --run-id too",
    ]


@pytest.mark.parametrize(
    "flags",
    [
        ["--output-dri", "out", "--resume-from", "latest"],
        ["--scheduler", "cosine_with_min_lr", "--scheduler-options", "x"],
        ["--data-format", "chats", "--data", "rows.jsonl"],
    ],
)
def test_what_follows_from_a_mistake_is_not_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
) -> None:
    """Options that depend on a wrong one, or on what an unknown one was meant to be."""
    pytest.importorskip("peft", reason="needs the extra [trainer]")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"message": "hm"}\n')
    assert main(flags) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


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
