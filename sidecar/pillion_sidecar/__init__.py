"""The sidecar: one process that keeps what trainers log and owns all W&B state."""
