"""The command `pillion`. With the base install alone it only tells what to install."""

import sys

from pillion_sidecar.command import take_signals


def main() -> None:
    """Run the command line, or say how to get it."""
    if sys.argv[1:2] == ["run"]:
        take_signals()  # before the imports below start threads
    try:
        from pillion_sidecar.cli import app  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in {"pillion", "pillion_sidecar"}:
            raise
        sys.exit(
            f"The command `pillion` needs the sidecar's packages ({error.name} is missing). "
            "From a checkout of Pillion:\n    pip install -e '.[sidecar]'"
        )
    app()


if __name__ == "__main__":
    main()
