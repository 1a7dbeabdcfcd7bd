"""``python -m launch.merge``, from a checkout: :mod:`cljax.cli.merge`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.merge import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
