"""Where a training may write: not where an earlier one has left something, unless it goes on."""

import json
from pathlib import Path

import pytest

pytest.importorskip("peft", reason="needs the extra [trainer]")

from pillion_trainer.checks import check
from pillion_trainer.config import ConfigurationError, TrainingConfig


def _leave(folder: Path, steps: int | None = None) -> None:
    """Leave an adapter, or a checkpoint, as a training does."""
    place = folder if steps is None else folder / f"checkpoint-{steps}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    if steps is not None:
        (place / "trainer_state.json").write_text(json.dumps({"global_step": steps}))


def _mistake(run_id: str | None, steps: int = 0, output_dir: Path | None = None) -> str:
    config = TrainingConfig(output_dir=str(output_dir) if output_dir else None)
    with pytest.raises(ConfigurationError) as caught:
        check(config, run_id, steps)
    (mistake,) = caught.value.mistakes
    return mistake


def test_a_run_that_has_steps_is_not_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how to go on where there is a checkpoint, and where to go where there is none."""
    monkeypatch.chdir(tmp_path)
    assert check(TrainingConfig(), "tune-7").checkpoint is None
    assert _mistake("tune-7", 60) == "Run tune-7 has 60 steps already: take another --run-id"
    _leave(tmp_path / "outputs" / "tune-7", 40)
    assert _mistake("tune-7", 60) == (
        "Run tune-7 has 60 steps already: add --resume-from latest to go on, or take another "
        "--run-id"
    )


def test_a_folder_of_an_earlier_training_is_not_written_over(tmp_path: Path) -> None:
    """Without a sidecar only the folder can tell: of an adapter, or of a checkpoint."""
    _leave(tmp_path)
    assert _mistake(None, output_dir=tmp_path) == (
        f"output_dir is {str(tmp_path)!r}, which has the adapter of an earlier training: take "
        "another output_dir"
    )
    _leave(tmp_path, 9)
    _leave(tmp_path, 10)
    assert "which has checkpoint-10 of an earlier training: add --resume-from latest to go" in (
        _mistake("new", output_dir=tmp_path)
    )
    assert "another --run-id and another output_dir" in _mistake("old", 10, tmp_path)


def test_what_goes_on_is_no_repetition(tmp_path: Path) -> None:
    """With a checkpoint to go on from, run and folder are the same as before."""
    _leave(tmp_path, 10)
    config = TrainingConfig(output_dir=str(tmp_path), resume_from="latest", max_steps=20)
    with pytest.raises(ConfigurationError) as caught:
        check(config, "tune-7", 10)  # the checkpoint is of no real adapter
    assert all("the adapter in" in mistake for mistake in caught.value.mistakes)


@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/deep", "file/below"])
def test_a_folder_that_cannot_be_made_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It is tried, since who is root is told that all may be written; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert "which cannot be written: " in _mistake(None, output_dir=Path(place))
    check(TrainingConfig(output_dir=str(tmp_path / "new" / "deep")))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
