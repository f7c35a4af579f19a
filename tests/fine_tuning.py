"""A base model that is trained in a second, and a run that keeps what crosses the seam."""

from typing import Any

from pillion_trainer.base_model import Recipe

MINIATURE = Recipe(
    hidden_size=64,
    intermediate_size=128,
    layers=2,
    heads=2,
    context_tokens=64,
    sequence_length=32,
    batch_size=16,
    steps=120,
    learning_rate=5e-3,
)


class FakeRun:
    """Keeps what crosses the seam; `at_step` is called with each row's step."""

    def __init__(self) -> None:
        self.id = self.name = "fake"
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.exit_codes: list[int] = []
        self.artifacts: list[tuple[Any, list[str]]] = []
        self.used: list[str] = []
        self.should_stop = False
        self.at_step: Any = lambda _step: None

    def log(self, metrics: dict[str, Any], *, step: int) -> None:
        """Keep the row."""
        self.rows.append((step, dict(metrics)))
        self.at_step(step)

    def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        """Keep the artifact."""
        self.artifacts.append((artifact, aliases))

    def use_artifact(self, artifact: str) -> None:
        """Keep what was used."""
        self.used.append(artifact)

    def finish(self, exit_code: int = 0, *, state: str = "", reason: str = "") -> None:
        """Keep how it ended."""
        self.exit_codes.append(exit_code)
        self.state, self.reason = state, reason

    def log_checkpoint(self, *_: Any) -> None:
        """Take it."""

    def series(self, key: str) -> list[float]:
        """Return all values of one metric."""
        return [row[key] for _, row in self.rows if key in row]
