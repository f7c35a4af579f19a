"""LoRA fine-tuning that logs through Pillion: `python -m pillion_trainer`.

Importing this package loads neither torch nor transformers, so that `--help` and mistakes in a
configuration come at once. `pillion_trainer.training` holds the whole fine-tune; the callback for a
Trainer of your own is `pillion.integrations.transformers`.
"""

from pillion_trainer.config import ConfigurationError, TrainingConfig
from pillion_trainer.config_file import load_config

__all__ = ["ConfigurationError", "TrainingConfig", "load_config"]
