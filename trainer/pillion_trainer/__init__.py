"""LoRA fine-tuning that logs through Pillion: `python -m pillion_trainer`.

Importing this package loads neither torch nor transformers, so that `--help` and mistakes in a
configuration come at once. `TrainingOrchestrator` runs several fine-tunes as processes;
`pillion_trainer.training` holds the whole of one; the callback for a Trainer of your own is
`pillion.integrations.transformers`.
"""

from pillion_trainer.config import ConfigurationError, TrainingConfig
from pillion_trainer.config_file import load_config
from pillion_trainer.jobs import Job, JobState, JobStatus
from pillion_trainer.orchestrator import TrainingOrchestrator

__all__ = [
    "ConfigurationError",
    "Job",
    "JobState",
    "JobStatus",
    "TrainingConfig",
    "TrainingOrchestrator",
    "load_config",
]
