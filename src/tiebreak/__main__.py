"""`tiebreak`, also as `python -m tiebreak`."""

import sys


def main() -> int:
    """Run a verb; a Ctrl-C while modules are still being imported needs no traceback either."""
    try:
        from tiebreak.cli import main

        return main()
    except KeyboardInterrupt:
        print("tiebreak: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
