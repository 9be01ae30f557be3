"""`tiebreak fetch` from a checkout: python scripts/fetch.py ..."""

import sys

from tiebreak.cli import main

if __name__ == "__main__":
    sys.exit(main(["fetch", *sys.argv[1:]]))
