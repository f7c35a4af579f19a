"""Real loops of real frameworks, logged by a real sidecar."""

from collections.abc import Callable
from typing import Any

import pytest
from processes import WAIT_S

from pillion.api import Client, StoredRun

torch: Any = pytest.importorskip("torch", reason="needs the extra [trainer]")
pytest.importorskip("transformers", reason="needs the extra [trainer]")
lightning: Any = pytest.importorskip("lightning.pytorch", reason="needs the extra [dev]")

from accelerate import Accelerator  # noqa: E402

from pillion.integrations.accelerate import PillionTracker  # noqa: E402
from pillion.integrations.lightning import PillionLogger  # noqa: E402

TRAIN = """
import sys
import pillion
pillion.install_as_wandb()
import pillion.integrations.transformers
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

class Blocks(torch.utils.data.Dataset):
    name, fingerprint = "blocks", "f00d"
    def __len__(self):
        return 16
    def __getitem__(self, index):
        return {"input_ids": torch.arange(8) + index, "labels": torch.arange(8) + index}

def train(report_to, **more):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16))
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    arguments = TrainingArguments(
        output_dir=f"out-{report_to}", report_to=report_to, run_name=report_to, seed=1,
        per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=4, logging_steps=1,
        eval_strategy="steps", eval_steps=2, save_steps=2, save_strategy="steps", use_cpu=True,
        include_num_input_tokens_seen="all", load_best_model_at_end=True,
        dataloader_pin_memory=False, **more)
    trainer = Trainer(model=model, args=arguments, train_dataset=Blocks(), eval_dataset=Blocks())
    trainer.train()
    trainer.evaluate()
    assert pillion.run.name == report_to
    pillion.finish()

train("pillion")
train("wandb")
"""


@pytest.fixture
def stored(sidecar: Any) -> Callable[[str], StoredRun]:
    """Return what looks a run up by its name."""

    def find(name: str) -> StoredRun:
        (run,) = (run for run in Client(sidecar.address).runs() if run.name == name)
        return run

    return find


def test_trainer_logs_by_either_name(
    sidecar: Any, run_python: Callable[..., Any], stored: Callable[[str], StoredRun]
) -> None:
    """`report_to="pillion"` says all that transformers' own WandbCallback says, and more."""
    variables = {"PILLION_ADDRESS": sidecar.address, "PILLION_LOG_MODEL": "best"}
    trainer = run_python(TRAIN, TRANSFORMERS_VERBOSITY="error", WANDB_WATCH="all", **variables)
    _, errors = trainer.communicate(timeout=4 * WAIT_S)
    assert trainer.returncode == 0, errors
    ours, theirs = stored("pillion"), stored("wandb")
    assert ours.state == theirs.state == "FINISHED"
    measured = {"train/step_time_s", "train/data_time_s", "train/forward_backward_time_s"}
    measured |= {"train/optimizer_time_s", "train/samples_per_second", "train/tokens_per_second"}
    assert decided(ours, measured) == decided(theirs, set())
    assert measured <= ours.rows("train/*")[0].keys()
    config = ours.config
    assert config["learning_rate"] == theirs.config["learning_rate"] == 5e-5
    blocks = {"name": "blocks", "size": 16, "fingerprint": "f00d"}
    assert config["dataset"] == {"train": blocks, "eval": blocks}
    assert (config["precision"], config["quantization"]) == ("float32", "none")
    assert config["peft"]["default"]["r"] == 2  # type: ignore[index,call-overload]
    assert {"architecture", "hardware", "libraries", "parameters_trainable"} <= config.keys()
    assert {"final_loss", "best_val_loss", "training_time_hours", "hardware"} <= ours.summary.keys()
    assert (ours.summary["total_steps"], ours.summary["dataset_size"]) == (4, 16)
    assert {(each.type, "best" in each.aliases) for each in ours.artifacts} == {
        ("checkpoint", True)
    }


def decided(run: StoredRun, measured: set[str]) -> list[dict[str, Any]]:
    """Return what is the same in each run of the same training, of its rows with a loss."""
    left_out = {"_ordinal", "_time", "_step", "eval/runtime"} | measured
    return [
        {key: row[key] for key in row if key not in left_out and not key.endswith("_per_second")}
        for row in run.rows()
        if row.keys() & {"train/loss", "eval/loss"}
    ]


def test_accelerate_logs_through_a_tracker(
    sidecar: Any, stored: Callable[[str], StoredRun]
) -> None:
    """Config, rows and images; the run ends with the training."""
    tracker = PillionTracker("demo", name="loop", address=sidecar.address, quiet=True)
    accelerator = Accelerator(log_with=tracker, cpu=True)
    model = torch.nn.Linear(2, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    accelerator.init_trackers("demo", config={"learning_rate": 0.1})
    losses = []
    for step in range(3):
        loss = model(torch.ones(4, 2)).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        accelerator.log({"train/loss": loss}, step=step)
    accelerator.get_tracker("pillion").log_images({"samples": [torch.zeros(3, 2, 2)]}, step=3)
    accelerator.end_training()
    run = stored("loop")
    assert (run.project, run.state, run.config) == ("demo", "FINISHED", {"learning_rate": 0.1})
    assert [(row["_step"], row["train/loss"]) for row in run.rows("train/*")] == [
        *enumerate(losses)
    ]
    assert run.row_count == 4


@pytest.mark.filterwarnings("ignore")  # Lightning's own, of this machine and of its dependencies
def test_lightning_logs_through_a_logger(
    sidecar: Any, stored: Callable[[str], StoredRun], tmp_path: Any
) -> None:
    """Hyperparameters, rows and the best checkpoint; the run ends with the training."""

    class Line(lightning.LightningModule):  # type: ignore[misc,name-defined]
        """A model of two weights."""

        def __init__(self, learning_rate: float) -> None:  # noqa: ARG002 - saved below
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any, _index: int) -> Any:
            """Return the loss."""
            loss = self.layer(batch).square().mean()
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            """Return the optimizer."""
            return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)

    logger = PillionLogger("demo", name="line", log_model=True, address=sidecar.address, quiet=True)
    trainer = lightning.Trainer(
        logger=logger,
        max_epochs=1,
        log_every_n_steps=1,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Line(learning_rate=0.25), torch.utils.data.DataLoader(torch.ones(4, 2)))
    run = stored("line")
    assert (run.project, run.state, run.config) == ("demo", "FINISHED", {"learning_rate": 0.25})
    rows = run.rows("train/loss")
    assert [row["_step"] for row in rows] == [0, 1, 2, 3]
    assert all(row["train/loss"] >= 0 for row in rows)
    assert [(each.type, "best" in each.aliases) for each in run.artifacts] == [("checkpoint", True)]
