"""`tiebreak run` from a checkout: python scripts/run.py ..."""

import sys

from tiebreak.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
