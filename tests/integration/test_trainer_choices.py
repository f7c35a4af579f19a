"""Every method, form of data and way to go on, as short real fine-tunes on a CPU."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft", reason="needs the extra [trainer]")

import torch
from fine_tuning import FakeRun
from peft import PeftModel
from processes import SidecarProcess
from safetensors.torch import load_file
from training import FOR_EVER, end_of, run_of, start_training, state_of
from transformers import AutoModelForCausalLM
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

import pillion
from pillion.values import from_key_values
from pillion_trainer.checkpoint import find_checkpoint
from pillion_trainer.cli import main
from pillion_trainer.config import ConfigurationError, TrainingConfig
from pillion_trainer.machine import refuse_the_impossible
from pillion_trainer.training import FineTune, fine_tune

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

CHAT = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}]
COMPLETION = [{"prompt": "Two and two is ", "completion": "four"}]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are slower on more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tune(small_base: Path, output_dir: Path, **changed: Any) -> tuple[FakeRun, FineTune]:
    """Fine-tune for a few steps."""
    options: dict[str, Any] = {
        "output_dir": str(output_dir),
        "log_model": "none",
        "max_steps": 3,
        "sequence_length": 32,
        "eval_share": 0.0,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        **changed,
    }
    run = FakeRun()
    return run, fine_tune(TrainingConfig(**options), run, base_dir=small_base)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "lora", "lora_bias": "lora_only", "use_rslora": True},
        {"method": "lora", "target_modules": "q_proj", "modules_to_save": "embed_tokens"},
        {"method": "dora"},
        {"method": "dora", "precision": "bf16", "modules_to_save": "lm_head"},
        {"method": "ia3"},
        {"method": "ia3", "target_modules": "k_proj,down_proj", "feedforward_modules": "down_proj"},
        {"method": "ia3", "target_modules": "v_proj,mlp.down_proj", "precision": "bf16"},
    ],
    ids=lambda changed: "-".join(str(value) for value in changed.values()),
)
def test_every_method_learns_and_its_adapter_loads_again(
    small_base: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    """The loss falls, what was trained is fp32, and peft reads what was saved."""
    text = tmp_path / "text.txt"
    text.write_text("All hands on deck before the glass runs out. " * 3)
    run, _ = tune(small_base, tmp_path, data=str(text), **changed)
    losses = run.series("train/loss")
    assert losses[-1] < losses[0]
    weights = load_file(tmp_path / "adapter_model.safetensors")
    assert weights
    assert {each.dtype for each in weights.values()} == {torch.float32}
    base = AutoModelForCausalLM.from_pretrained(small_base)
    PeftModel.from_pretrained(base, tmp_path)
    group = run.config["ia3" if changed["method"] == "ia3" else "lora"]
    assert group["peft_type"] == ("IA3" if changed["method"] == "ia3" else "LORA")
    assert group.get("use_dora", False) == (changed["method"] == "dora")
    trained, total = run.config["parameters_trainable"], run.config["parameters_total"]
    assert run.config["trainable_share"] == trained / total


@pytest.mark.parametrize(("rows", "form"), [(CHAT, "chat"), (COMPLETION, "completion")])
def test_samples_of_several_lengths_are_learned_and_evaluated(
    small_base: Path, tmp_path: Path, rows: list[dict[str, Any]], form: str
) -> None:
    """What is learned of them falls in loss; tokens are counted without what fills up."""
    data, held_out = tmp_path / "data.jsonl", tmp_path / "held-out.jsonl"
    longer = json.dumps(rows[0]).replace("Ho", "Hohoho").replace("four", "four, four")
    data.write_text(f"{json.dumps(rows[0])}\n{longer}\n" * 8)
    held_out.write_text(json.dumps(rows[0]))
    run, result = tune(
        small_base,
        tmp_path / "out",
        data=str(data),
        eval_data=str(held_out),
        sequence_length=64,
        max_steps=8,
        eval_interval_steps=1,
    )
    assert run.series("eval/loss")[-1] < run.series("eval/loss")[0]
    assert result.best_val_loss == min(run.series("eval/loss"))
    described = run.config["dataset"]
    assert (described["format"], described["rows"], described["eval_data"]["rows"]) == (form, 16, 1)
    assert 0 < described["tokens_learned"] < described["tokens"]


def test_gradient_checkpointing_changes_no_loss(small_base: Path, tmp_path: Path) -> None:
    """It costs time for memory, and the adapter still gets its gradients."""
    plain, _ = tune(small_base, tmp_path / "plain")
    saving, _ = tune(small_base, tmp_path / "saving", gradient_checkpointing=True)
    assert saving.series("train/loss") == pytest.approx(plain.series("train/loss"), rel=1e-4)


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(
    small_base: Path, tmp_path: Path
) -> None:
    """Steps, rates, data and losses are those of a training that was never stopped."""
    common = {"max_steps": 6, "checkpoint_interval_steps": 1, "checkpoints_kept": 9}
    whole, _ = tune(small_base, tmp_path / "whole", **common)
    part = tmp_path / "part"
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", part / "checkpoint-4")
    (part / "checkpoint-5").mkdir()  # as a trainer leaves it that is killed while it saves
    resumed, result = tune(small_base, part, resume_from="latest", **common)
    assert [step for step, row in resumed.rows if "train/loss" in row] == [5, 6]
    for key in ("train/loss", "train/learning_rate"):
        assert resumed.series(key) == pytest.approx(whole.series(key)[4:], rel=1e-4)
    assert (result.steps, result.in_words().split(" in ")[0]) == (6, "2 steps")
    again, _ = tune(
        small_base, tmp_path / "again", resume_from=str(part / "checkpoint-4"), **common
    )
    assert again.series("train/loss") == pytest.approx(resumed.series("train/loss"))


def test_a_training_that_was_killed_goes_on_in_its_run(
    small_base: Path,
    tmp_path: Path,
    sidecar: SidecarProcess,
    wait_until: Callable[[Callable[[], Any]], Any],
) -> None:
    """A kill leaves checkpoints; with the same id and the latest of them the steps go on."""
    out = tmp_path / "out"
    flags = ("--checkpoint-interval-steps", "2", "--log-model", "none")
    killed = start_training(small_base, out, sidecar.address, *FOR_EVER, *flags)
    wait_until((out / "checkpoint-4" / "trainer_state.json").is_file)
    wait_until(lambda: (run := run_of(sidecar)) and run.row_count > 3)
    killed.kill()
    end_of(killed)
    wait_until(lambda: state_of(run_of(sidecar)) == "CRASHED")
    checkpoint = find_checkpoint(TrainingConfig(resume_from="latest", max_steps=0), out)
    assert checkpoint
    rows = run_of(sidecar).row_count
    again = start_training(small_base, out, sidecar.address, *FOR_EVER, *flags)
    assert "steps already: add --resume-from latest to go on" in end_of(again)
    assert again.returncode == 2
    assert (state_of(run_of(sidecar)), run_of(sidecar).row_count) == ("CRASHED", rows)
    steps = checkpoint.steps + 3
    more = ("--max-steps", str(steps), "--resume-from", "latest")
    resumed = start_training(small_base, out, sidecar.address, *flags, *more)
    output = end_of(resumed)
    assert resumed.returncode == 0, output
    assert f"going on from {checkpoint.folder.name}, step {checkpoint.steps}" in output
    run = run_of(sidecar)
    assert state_of(run) == "FINISHED"  # as its last life did
    assert (run.last_step, from_key_values(run.summary)["total_steps"]) == (steps, steps)


def test_a_checkpoint_of_another_adapter_is_refused(small_base: Path, tmp_path: Path) -> None:
    """Each option that differs is told, and with how the checkpoint has it."""
    common = {"max_steps": 2, "checkpoint_interval_steps": 1, "target_modules": "q_proj"}
    tune(small_base, tmp_path, lora_r=4, **common)
    resumed = common | {"resume_from": "latest", "max_steps": 5}
    with pytest.raises(ConfigurationError) as caught:
        tune(small_base, tmp_path, lora_r=8, **resumed | {"target_modules": "q_proj,v_proj"})
    assert [mistake.split(", but ")[0] for mistake in caught.value.mistakes] == [
        "lora_r gives 8",
        "target_modules gives q_proj, v_proj",
    ]
    with pytest.raises(
        ConfigurationError, match=r"method gives ia3, but the adapter in .* has lora"
    ):
        tune(small_base, tmp_path, method="ia3", **resumed)
    with pytest.raises(ConfigurationError, match="target_modules gives"):
        tune(small_base, tmp_path, lora_r=4, **resumed | {"target_modules": "all-linear"})
    with pytest.raises(ConfigurationError, match="has 2 steps behind it: give more"):
        tune(small_base, tmp_path, lora_r=4, **common | {"resume_from": "latest"})


@pytest.mark.parametrize("resume_from", ["latest", "empty"])
def test_there_must_be_something_to_go_on_from(
    small_base: Path, tmp_path: Path, resume_from: str
) -> None:
    """A training that silently begins anew would be worse than one that does not start."""
    (tmp_path / "empty").mkdir()
    source = resume_from if resume_from == "latest" else str(tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="resume_from is"):
        tune(small_base, tmp_path / "out", resume_from=source)


def test_all_mistakes_are_told_before_anything_is_loaded(tmp_path: Path) -> None:
    """Those of the machine, the data and the checkpoint, in one error."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": 1}')
    with pytest.raises(ConfigurationError) as caught:
        tune(
            tmp_path / "no base",
            tmp_path / "out",
            optimizer="adamm",
            data=str(data),
            resume_from="latest",
        )
    starts = [mistake.split(" is ")[0] for mistake in caught.value.mistakes]
    assert starts == ["optimizer", "data data.jsonl, line 1, text", "resume_from"]


def test_check_says_the_plan_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a run nor a model; mistakes are those of a training."""
    monkeypatch.setattr(pillion, "init", None)  # no run is wanted
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text(json.dumps(COMPLETION[0]))
    flags = ["--check", "--model", "no/such", "--data", "data.jsonl", "--method", "ia3"]
    assert main(flags) == 0
    assert capsys.readouterr().out.splitlines() == [
        "trainer: no/such: IA3, fp32",
        "trainer: no/such is no folder here: it would come from the hub, not asked yet",
        "trainer: data data.jsonl: completion, 1 row, 51 bytes",
        "trainer: 3 epochs, 8 samples of 1024 tokens at most each step",
    ]
    assert main([*flags, "--optimizer", "adamm"]) == 2
    assert "trainer: optimizer is 'adamm'" in capsys.readouterr().err
    assert not list(tmp_path.glob("outputs*"))


def names(kind: Any) -> list[str]:
    """Return the names that transformers has for something."""
    return sorted(each.value for each in kind)


OPTIONS = {
    "cosine_with_min_lr": "min_lr_rate=0.1",
    "cosine_warmup_with_min_lr": "min_lr_rate=0.1",
    "warmup_stable_decay": "num_decay_steps=1",
}
"""What some schedules cannot do without."""


@pytest.mark.parametrize("name", names(SchedulerType))
def test_every_schedule_of_transformers_trains(small_base: Path, tmp_path: Path, name: str) -> None:
    """Those that need options of their own say so before anything is loaded."""
    common: dict[str, Any] = {"scheduler": name, "eval_interval_steps": 1, "eval_share": 0.1}
    if name in OPTIONS:
        with pytest.raises(ConfigurationError, match=f"scheduler is '{name}' with no"):
            refuse_the_impossible(TrainingConfig(**common))
        common["scheduler_options"] = OPTIONS[name]
    run, _ = tune(small_base, tmp_path, max_steps=2, **common)
    assert len(run.series("train/loss")) == 2


@pytest.mark.parametrize("name", names(OptimizerNames))
def test_every_optimiser_of_transformers_trains_or_is_refused_at_once(
    small_base: Path, tmp_path: Path, name: str
) -> None:
    """Most need a library more, and say which one before anything is loaded."""
    told: tuple[str, ...] = ()
    try:
        refuse_the_impossible(TrainingConfig(optimizer=name))
    except ConfigurationError as error:
        told = error.mistakes
    if told:
        assert [mistake.startswith(f"optimizer is {name!r}") for mistake in told] == [True]
    else:
        run, _ = tune(small_base, tmp_path, max_steps=2, optimizer=name)
        assert len(run.series("train/loss")) == 2


def test_options_of_an_optimiser_reach_it_or_are_refused() -> None:
    """A name that it does not know is a mistake like any other."""
    refuse_the_impossible(TrainingConfig(optimizer="sgd", optimizer_options=("momentum=0.9",)))
    config = TrainingConfig(
        optimizer="sgd", optimizer_options=("momentun=0.9",), scheduler_options=("cycles=1",)
    )
    with pytest.raises(ConfigurationError) as caught:
        refuse_the_impossible(config)
    idle, refused = caught.value.mistakes
    assert idle.startswith("optimizer_options has 'momentun=0.9', which changes nothing of sgd")
    assert refused.startswith("scheduler is 'cosine' with cycles=1 scheduler_options: ")


def test_quantised_bases_need_a_gpu_and_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told with what to do, 8-bit optimisers too."""
    config = TrainingConfig(quantization="4bit", optimizer="paged_adamw_8bit")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError) as caught:
        refuse_the_impossible(config)
    assert [each.split(":")[0] for each in caught.value.mistakes] == [
        "optimizer is 'paged_adamw_8bit', which needs a CUDA GPU and none is here",
        "quantization is '4bit', which needs a CUDA GPU and none is here",
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("pillion_trainer.machine.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match="pip install bitsandbytes"):
        refuse_the_impossible(config)
