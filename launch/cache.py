"""``python -m launch.cache``, from a checkout: :mod:`cljax.cli.cache`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.cache import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
