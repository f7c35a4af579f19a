"""`python -m pillion_trainer`."""

import sys

from pillion_trainer.cli import main

if __name__ == "__main__":
    sys.exit(main())
