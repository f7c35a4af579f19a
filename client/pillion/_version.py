"""The version, for the client and the sidecar alike; `pyproject.toml` reads it from here."""

__version__ = "0.0.1"
