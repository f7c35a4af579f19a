"""Real fine-tunes, really small: torch, transformers and peft, and a run that keeps everything."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft", reason="needs the extra [trainer]")

import torch
from fine_tuning import MINIATURE, FakeRun
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import pillion
from pillion_trainer.base_model import Recipe, ensure_base_model
from pillion_trainer.cli import main
from pillion_trainer.config import ConfigurationError, TrainingConfig
from pillion_trainer.dataset import make_dataset, read_sources
from pillion_trainer.training import FineTune, fine_tune

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

Tuned = tuple[FakeRun, FineTune, TrainingConfig]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are slower on more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a miniature of the built-in base model."""
    return ensure_base_model(tmp_path_factory.mktemp("cache"), recipe=MINIATURE)


@pytest.fixture(scope="module")
def tuned(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Return a run, its result and its configuration, after a fine-tune of 60 steps."""
    run = FakeRun()
    config = TrainingConfig(
        output_dir=str(tmp_path_factory.mktemp("adapter")),
        learning_rate=1e-2,
        max_steps=60,
        sequence_length=32,
        eval_interval_steps=20,
        checkpoint_interval_steps=30,
    )
    return run, fine_tune(config, run, base_dir=base_dir), config


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """Return the run that `pillion.init` hands to the command line."""
    run = FakeRun()
    monkeypatch.setattr(pillion, "init", lambda **_: run)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    return run


def flags(base_dir: Path, output_dir: Path, *more: str) -> list[str]:
    """Return the flags of a small fine-tune."""
    small = ["--sequence-length", "32", "--max-steps", "6", "--eval-interval-steps", "0"]
    return ["--model", str(base_dir), "--output-dir", str(output_dir), *small, *more]


def test_training_lowers_both_losses(tuned: Tuned) -> None:
    """The adapter learns the register of the logbook."""
    run, result, _ = tuned
    assert len(run.series("train/loss")) == 60
    assert run.series("train/loss")[-1] < run.series("train/loss")[0] - 0.5
    assert run.series("eval/loss")[-1] < run.series("eval/loss")[0]
    assert run.summary["final_loss"] == result.final_loss == run.series("train/loss")[-1]
    assert run.summary["best_val_loss"] == min(run.series("eval/loss"))


def test_each_logged_step_has_its_metrics(tuned: Tuned) -> None:
    """Loss, rate, norm, epoch and throughput stand in one row at the Trainer's step."""
    run, _, _ = tuned
    rows = [(step, row) for step, row in run.rows if "train/loss" in row]
    assert [step for step, _ in rows] == list(range(1, 61))
    wanted = {
        "train/loss",
        "train/learning_rate",
        "train/grad_norm",
        "train/epoch",
        "train/global_step",
        "train/step_time_s",
        "train/samples_per_second",
        "train/tokens_per_second",
    }
    assert all(wanted <= set(row) for _, row in rows)


def test_every_hyperparameter_is_logged(tuned: Tuned) -> None:
    """All options, the LoRA, the architecture, the data, the machine and the libraries."""
    run, _, config = tuned
    where_it_goes = {"output_dir", "resume_from", "log_model", "project", "name", "group", "tags"}
    options = {each.name for each in fields(TrainingConfig)} - where_it_goes
    options -= {name for name in options if name.startswith("lora_")}  # a group, see below
    assert options <= set(run.config)
    assert run.config["learning_rate"] == config.learning_rate
    assert run.config["lora"]["r"] == config.lora_r
    adapted = {name.rpartition(".")[2] for name in run.config["lora"]["target_modules"]}
    assert adapted == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    assert run.config["architecture"]["hidden_size"] == MINIATURE.hidden_size
    assert 0 < run.config["parameters_trainable"] < run.config["parameters_total"]
    assert run.config["quantization"] == "none"
    assert run.config["dataset"]["name"] == "logbook.txt"
    assert run.config["hardware"]["torch_threads"] == 1
    assert {"torch", "transformers", "peft"} <= set(run.config["libraries"])


def test_the_summary_says_what_came_out(tuned: Tuned) -> None:
    """Totals, sizes, and where adapter and last checkpoint are."""
    run, result, _ = tuned
    assert run.summary["total_steps"] == 60
    assert run.summary["last_checkpoint"] == str(result.adapter_dir / "checkpoint-60")
    assert run.summary["last_checkpoint_step"] == 60
    assert run.summary["adapter_size_bytes"] > 0
    assert {"training_time_hours", "hardware", "dataset_size", "train_runtime"} <= set(run.summary)


def test_the_adapter_loads_again(tuned: Tuned, base_dir: Path) -> None:
    """What was saved is the tuned model: base plus adapter give the last evaluation loss."""
    run, result, config = tuned
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    model = PeftModel.from_pretrained(base, result.adapter_dir)
    model.eval()
    assert model.peft_config["default"].r == config.lora_r
    tokenizer = AutoTokenizer.from_pretrained(result.adapter_dir)
    tokens = make_dataset(read_sources(config), tokenizer, config).evaluation.tokens
    with torch.no_grad():
        loss = model(input_ids=tokens, labels=tokens).loss.item()
    assert loss == pytest.approx(run.series("eval/loss")[-1], rel=1e-3)


def test_what_cannot_be_done_here_is_refused_at_once(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names the libraries do not know, and fp16 without a GPU, are told together."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = TrainingConfig(precision="fp16", optimizer="adamm", scheduler="cosinus")
    with pytest.raises(ConfigurationError) as caught:
        fine_tune(config, FakeRun(), base_dir=base_dir)
    assert [mistake.split(" is ")[0] for mistake in caught.value.mistakes] == [
        "optimizer",
        "scheduler",
        "precision",
    ]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"target_modules": ("nonesuch",)},
            "target_modules is 'nonesuch'.*: give some of down_proj,",
        ),
        ({"target_modules": ("v_proj", "q_prj")}, "is 'q_prj'.* did you mean q_proj"),
        ({"modules_to_save": ("embed_token",)}, "did you mean embed_tokens"),
        ({"sequence_length": 65}, "give 64 or less"),
    ],
)
def test_what_does_not_fit_the_model_is_a_mistake_of_the_configuration(
    base_dir: Path, changed: dict[str, Any], told: str
) -> None:
    """Found as soon as the model is loaded, told like every other mistake."""
    config = TrainingConfig(**{"sequence_length": 32, **changed})
    with pytest.raises(ConfigurationError, match=told):
        fine_tune(config, FakeRun(), base_dir=base_dir)


def test_a_text_too_short_to_evaluate_on_is_still_trained_on(
    base_dir: Path, tmp_path: Path
) -> None:
    """With fewer blocks than the share asks for, nothing is evaluated and nothing fails."""
    text = tmp_path / "short.txt"
    text.write_text("A few words, and some more of them, to fill two blocks of the model.")
    run = FakeRun()
    config = TrainingConfig(
        data=str(text), output_dir=str(tmp_path / "out"), max_steps=2, sequence_length=32
    )
    assert fine_tune(config, run, base_dir=base_dir).best_val_loss is None
    assert run.config["dataset"]["eval_samples"] == 0


def test_bf16_trains_on_a_cpu(base_dir: Path, tmp_path: Path) -> None:
    """The precision that a CPU can do works."""
    run = FakeRun()
    config = TrainingConfig(
        output_dir=str(tmp_path), precision="bf16", max_steps=2, sequence_length=32, eval_share=0
    )
    fine_tune(config, run, base_dir=base_dir)
    assert run.config["architecture"]["dtype"] == "bfloat16"
    assert len(run.rows) == 2


def test_the_command_line_finishes_the_run_with_0(
    started: FakeRun, base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that ends well says so, in three lines at the start and two at the end."""
    assert main(flags(base_dir, tmp_path)) == 0
    assert started.exit_codes == [0]
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_step_and_keeps_the_adapter(
    started: FakeRun, base_dir: Path, tmp_path: Path, number: int, exit_code: int
) -> None:
    """The step goes to its end, the next is the last; adapter and exit code are there."""
    started.at_step = lambda step: signal.raise_signal(number) if step == 2 else None
    assert main(flags(base_dir, tmp_path, "--quiet")) == exit_code
    assert started.exit_codes == [exit_code]
    assert started.summary["total_steps"] == 3
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_a_diverged_training_fails_with_a_clear_message(
    started: FakeRun, base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss that is no number is logged, told, and the run is failed."""
    more = ["--learning-rate", "1e30", "--warmup-steps", "0", "--quiet"]
    assert main(flags(base_dir, tmp_path, *more)) == 1
    assert started.exit_codes == [1]
    assert "give a smaller learning_rate" in capsys.readouterr().err


def test_an_exception_fails_the_run_and_shows_where(
    started: FakeRun, base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever breaks, the run is finished and the traceback is there."""

    def broken(_step: int) -> None:
        raise OSError("the disk is gone")

    started.at_step = broken
    assert main(flags(base_dir, tmp_path, "--quiet")) == 1
    assert started.exit_codes == [1]
    assert "the disk is gone" in capsys.readouterr().err


def test_a_base_is_built_once_and_found_again(tmp_path: Path) -> None:
    """The second call trains nothing; another recipe is another base."""
    steps: list[int] = []
    recipe = Recipe(hidden_size=8, intermediate_size=8, layers=1, heads=1, steps=2, batch_size=1)

    def build(**changed: Any) -> Path:
        return ensure_base_model(
            tmp_path, lambda step, _all, _loss: steps.append(step), replace(recipe, **changed)
        )

    first = build()
    assert (build(), steps) == (first, [1, 2])
    assert build(seed=2) != first
    assert steps == [1, 2, 1, 2]


def test_the_same_recipe_gives_the_same_weights(tmp_path: Path, base_dir: Path) -> None:
    """The base depends on its recipe alone, and the caller's random numbers go on undisturbed."""
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again = ensure_base_model(tmp_path, recipe=MINIATURE)
    assert torch.equal(torch.rand(1), expected)
    weights = "model.safetensors"
    assert (again / weights).read_bytes() == (base_dir / weights).read_bytes()


def test_a_broken_build_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    """After a builder that died, the next one begins anew."""

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_base_model(tmp_path, die, MINIATURE)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    leftover = next(tmp_path.glob("*.lock")).with_suffix(".partial")
    leftover.mkdir()
    (leftover / "junk").touch()
    folder = ensure_base_model(tmp_path, recipe=MINIATURE)
    assert not (folder / "junk").exists()
    assert not leftover.exists()


def test_two_processes_at_once_build_one_base(tmp_path: Path) -> None:
    """A process that comes while another builds waits, and then has nothing to do."""
    code = (
        "import sys; from pathlib import Path\n"
        "from pillion_trainer.base_model import Recipe, ensure_base_model\n"
        f"recipe = {MINIATURE!r}\n"
        "folder = ensure_base_model(Path(sys.argv[1]), lambda *_: print('trained'), recipe)\n"
        "print(folder)"
    )
    others: list[subprocess.Popen[str]] = []

    def start_another(step: int, _steps: int, _loss: float) -> None:
        if step == 1:
            others.append(
                subprocess.Popen(
                    [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
                )
            )

    folder = ensure_base_model(tmp_path, start_another, MINIATURE)
    output, _ = others[0].communicate(timeout=300)
    assert output == f"{folder}\n"


def test_the_trainer_imports_neither_wandb_nor_the_sidecar() -> None:
    """No W&B, no key, no sidecar in a training process."""
    code = (
        "import sys, pillion_trainer.training\n"
        "assert not {'wandb', 'pillion_sidecar'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
