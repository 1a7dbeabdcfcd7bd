"""``python -m launch.forget``, from a checkout: :mod:`cljax.cli.forget`."""

import sys

from cljax.cli import _environment

_environment.prepare(__name__)

from cljax.cli.forget import main  # noqa: E402

if __name__ == "__main__":
  sys.exit(main())
