"""Runs the command: `python -m understudy.cli`."""

import sys

from understudy.cli import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
