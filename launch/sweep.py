"""``python -m launch.sweep``, from a checkout: :mod:`cljax.cli.sweep`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.sweep import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
