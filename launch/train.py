"""``python -m launch.train``, from a checkout: :mod:`cljax.cli.train`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.train import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
