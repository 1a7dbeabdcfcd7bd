"""Signals that end a process: a run saves first."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator


def stop_signals() -> tuple[int, ...]:
  """SIGTERM, SIGINT and SIGHUP (a closed terminal); in a SLURM job also the signals that announce the end of its
  time. SIGHUP that is ignored, as under nohup, stays so."""
  more = (signal.SIGUSR1, signal.SIGUSR2) if "SLURM_JOB_ID" in os.environ else ()
  hangs_up = getattr(signal, "SIGHUP", None)
  hang = () if hangs_up is None or signal.getsignal(hangs_up) is signal.SIG_IGN else (hangs_up,)
  return (signal.SIGTERM, signal.SIGINT, *hang, *more)


class Stop:
  """Set by a stop signal; asked by the engine between chunks. A second SIGINT interrupts at once.

  Until it is first asked there is nothing to save, and any stop signal interrupts at once: data of any size are read,
  and streams of any length built, without a look at it.
  """

  def __init__(self, signals: Callable[[], tuple[int, ...]] = stop_signals):
    self.signal = 0
    self.asked = False
    self._signals = signals

  def __call__(self) -> bool:
    self.asked = True
    return bool(self.signal)

  def _receive(self, number, frame):
    del frame
    self.signal = number
    if not self.asked:
      raise KeyboardInterrupt
    if number == signal.SIGINT:
      signal.signal(signal.SIGINT, signal.default_int_handler)

  def __enter__(self):
    self._before = {}
    for number in self._signals():
      # Elsewhere than in the main thread, whoever runs us handles signals.
      with contextlib.suppress(ValueError):
        self._before[number] = signal.signal(number, self._receive)
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)


def _unclaimed() -> tuple[int, ...]:
  """Those stop signals of which nobody has said what they do."""
  usual = (signal.SIG_DFL, signal.default_int_handler)
  return tuple(n for n in stop_signals() if signal.getsignal(n) in usual)


@contextlib.contextmanager
def saved_first(stop: Callable[[], bool] | None, stopped: type[Exception]) -> Iterator[Callable[[], bool]]:
  """The ``stop`` to run with: also where a signal asks to end that would have ended the process. Once the run has
  saved and raised ``stopped``, the signal does what it would have done."""
  own = Stop(_unclaimed)
  try:
    with own:
      yield lambda: own() or bool(stop and stop())
  except (stopped, KeyboardInterrupt):
    if own.signal in (0, signal.SIGINT):
      if own.signal:
        raise KeyboardInterrupt("saved; run it again to go on") from None
      raise
    signal.raise_signal(own.signal)
    raise
