"""``python -m launch.report``, from a checkout: :mod:`cljax.cli.report`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.report import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
