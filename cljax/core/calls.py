"""Functions whose arguments are others than in an earlier version."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from cljax import _callers
from cljax.core.types import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def since_0_2(instead: str) -> Callable[[F], F]:
  """Marks a function that took other arguments in 0.1: a call that does not fit it ends in one line with the place of
  the call, Python's own words and what to write ``instead``. Errors from its inside pass."""

  def marked(function: F) -> F:
    @functools.wraps(function)
    def called(*values, **given):
      try:
        return function(*values, **given)
      except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
          raise
        text = f"{error} ({_callers.place()}); since 0.2 {instead} (docs/porting.md)"
        raise UsageError(text) from None

    return called  # type: ignore[return-value]

  return marked
