"""`tiebreak tabulate` from a checkout: python scripts/tabulate.py ..."""

import sys

from tiebreak.cli import main

if __name__ == "__main__":
    sys.exit(main(["tabulate", *sys.argv[1:]]))
