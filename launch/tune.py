"""``python -m launch.tune``, from a checkout: :mod:`cljax.cli.tune`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.tune import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
