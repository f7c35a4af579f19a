"""`pillion configure` and the key that it is given: what is refused before anybody is asked."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pillion_sidecar.cli import app


@pytest.mark.parametrize("text", ["", "\n", " \n\n"])
@pytest.mark.parametrize("name", ["key", "-"])
def test_an_empty_key_is_refused(tmp_path: Path, text: str, name: str) -> None:
    """Forgetting a key is asked for by name, and no slip of a script."""
    file = tmp_path / "key"
    file.write_text(text, encoding="ascii")
    flags = ("--data-dir", str(tmp_path), "--address", f"unix:{tmp_path}/nobody.sock")
    given = "-" if name == "-" else str(file)
    result = CliRunner().invoke(app, ["configure", "--api-key-file", given, *flags], input=text)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "holds no W&B key, it is empty" in result.stderr
    assert "--forget-api-key" in result.stderr


def test_a_key_is_given_or_forgotten(tmp_path: Path) -> None:
    """Both at once is no wish."""
    flags = ("--data-dir", str(tmp_path), "--address", f"unix:{tmp_path}/nobody.sock")
    both = ("--forget-api-key", "--api-key-file", "-")
    result = CliRunner().invoke(app, ["configure", *both, *flags])
    assert result.exit_code == 1
    assert "Give a key or forget it" in result.stderr
