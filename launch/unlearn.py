"""``python -m launch.unlearn``, from a checkout: :mod:`cljax.cli.unlearn`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.unlearn import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
