"""`python -m tlperf`: the command line."""

import sys

from tlperf.cli import main

if __name__ == "__main__":
    sys.exit(main())
