"""``python -m launch.analyze``, from a checkout: :mod:`cljax.cli.analyze`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.analyze import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
