"""``python -m launch.parity``, from a checkout: :mod:`cljax.cli.parity`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.parity import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
