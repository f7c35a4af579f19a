"""LoRA fine-tuning that logs through Pillion: `python -m pillion_trainer`.

Importing this package loads neither torch nor transformers, so that `--help` and mistakes in a
configuration come at once. `pillion_trainer.callback` holds the callback for a Trainer of your own,
`pillion_trainer.training` the whole fine-tune.
"""

from pillion_trainer.config import ConfigurationError, TrainingConfig, load_config

__all__ = ["ConfigurationError", "TrainingConfig", "load_config"]
