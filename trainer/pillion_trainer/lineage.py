"""What a training leaves as artifacts: the adapter, and which base model it was trained on.

The base is referred to, never copied: an artifact of type `base-model` that names its weight files
with their digests, the same version for all runs on the same weights. A run that has trained an
adapter has used it, so that the lineage of the adapter leads to it.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pillion
from pillion.artifact_names import NAME_CHARACTERS_MAX
from pillion.plain import to_plain_dict
from pillion.redaction import redact
from pillion_trainer.base_files import BaseFiles
from pillion_trainer.config import TrainingConfig

TRAINING_FILE = "training.json"
"""Beside an adapter: how it was trained, and what came of it."""

BASE_TYPE, MODEL_TYPE = "base-model", "model"

_ODD = re.compile(r"[^A-Za-z0-9_.-]+")
_DIGEST_CHARACTERS = 16


def write_training_file(
    folder: Path,
    run: Any,
    config: TrainingConfig,
    base: BaseFiles,
    metrics: Mapping[str, Any],
    described: Mapping[str, Any],
) -> None:
    """Write beside an adapter how it was trained; secrets are left out. Raises OSError.

    Args:
        folder: The adapter's.
        run: As `pillion.init` returns it.
        config: All options.
        base: The base model.
        metrics: What came out of it.
        described: What else is known: data, hardware, libraries.
    """
    told = {
        "run_id": run.id,
        "config": config.as_dict(),
        "base_model": base.as_dict(),
        "metrics": _finite(metrics),
        **described,
    }
    text = json.dumps(redact(to_plain_dict(told)), indent=2, ensure_ascii=False)
    (folder / TRAINING_FILE).write_text(text + "\n", encoding="utf-8")


def log_base(run: Any, base: BaseFiles) -> str:
    """Log which base a training begins with; return how it is called, empty if it is unknown."""
    if not base.sha256:
        return ""
    name = f"base-{_ODD.sub('_', base.name.rstrip('/').rpartition('/')[2]) or 'model'}"
    artifact = pillion.Artifact(
        name[:NAME_CHARACTERS_MAX],
        BASE_TYPE,
        description=f"The weights of {base.name}, where they are; none is kept here.",
        metadata=base.as_dict(),
    )
    with artifact.new_file("base.json", "w", encoding="utf-8") as file:
        json.dump(asdict(base), file, indent=2)  # tells weights apart that were replaced in place
    for each in base.files:
        artifact.add_reference(each.uri, each.name, each.size_bytes, each.sha256)
    alias = f"sha256-{base.sha256[:_DIGEST_CHARACTERS]}"
    run.log_artifact(artifact, aliases=[alias])
    return f"{artifact.name}:{alias}"


def log_adapter(
    run: Any,
    base: BaseFiles,
    base_reference: str,
    files: Iterable[Path],
    metadata: Mapping[str, Any],
    *,
    is_stopped: bool,
) -> None:
    """Log a trained adapter, and that it comes from its base.

    Args:
        run: As `pillion.init` returns it.
        base: The base model.
        base_reference: What `log_base` returned.
        files: Its weights, its configuration, the tokenizer's, and how it was trained.
        metadata: What else is known of it.
        is_stopped: Whether its training was ended early; else it has the alias `final`.
    """
    if base_reference:
        run.use_artifact(base_reference)
    artifact = pillion.Artifact(
        f"model-{run.id}"[:NAME_CHARACTERS_MAX],
        MODEL_TYPE,
        description=f"An adapter for {base.name}.",
        metadata={"base_model": base.as_dict(), **_finite(metadata)},
    )
    for path in files:
        if path.is_file():  # tokenizers also name files that they had no need to write
            artifact.add_file(path)
    run.log_artifact(artifact, aliases=["stopped" if is_stopped else "final"])


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave numbers that are none, which JSON does not have, as texts."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
