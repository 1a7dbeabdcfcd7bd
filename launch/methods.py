"""``python -m launch.methods``, from a checkout: :mod:`cljax.cli.methods`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.methods import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
