"""``python -m cljax``: the command of :mod:`cljax.cli.main`."""

import sys

from cljax.cli.main import main

if __name__ == "__main__":
  sys.exit(main())
