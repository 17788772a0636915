"""`python -m rlgym`."""

import sys

from rlgym.cli import main

if __name__ == "__main__":
    sys.exit(main())
