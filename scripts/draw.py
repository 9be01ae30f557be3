"""`tiebreak draw` from a checkout: python scripts/draw.py ..."""

import sys

from tiebreak.cli import main

if __name__ == "__main__":
    sys.exit(main(["draw", *sys.argv[1:]]))
