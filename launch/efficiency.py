"""``python -m launch.efficiency``, from a checkout: :mod:`cljax.cli.efficiency`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.efficiency import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
