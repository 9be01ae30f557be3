"""`tiebreak study` from a checkout: python scripts/study.py ..."""

import sys

from tiebreak.cli import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]]))
