"""What the launchers share: flags, ``--config.*`` overrides, signals, and errors as one line with an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence

from absl import flags

from cljax import CljaxError, Stopped, UsageError
from cljax.cli import _workdir
from cljax.cli._config import Override
from cljax.cli._environment import CACHE
from cljax.io.interrupts import Stop

LONGEST = 1000  # characters of an error's line: it may hold what was given


def common_flags() -> flags.FlagValues:
  """A fresh set of flags with those that every launcher has."""
  values = flags.FlagValues()
  flags.DEFINE_string("config", "", "Configuration file that defines get_config().", flag_values=values)
  flags.DEFINE_string("workdir", "", "Folder for results and checkpoints; run again to resume.", flag_values=values)
  flags.DEFINE_string("seeds", "1", "A number of seeds (5 is seeds 0 to 4) or a list such as 3,7.", flag_values=values)
  flags.DEFINE_bool("overwrite", False, "Discard what an earlier run left in the workdir.", flag_values=values)
  flags.DEFINE_string("compilation_cache", CACHE, "Folder of compiled programs; empty for none.", flag_values=values)
  return values


def mesh_flags(values: flags.FlagValues) -> None:
  """Adds the flags of a launcher that trains one learner on several devices or machines."""
  flags.DEFINE_string("mesh", "", "Devices for each axis, such as population:1,data:2,fsdp:1.", flag_values=values)
  flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, or 'auto': as JAX finds out; tasks of a SLURM step need neither.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes there are.", flag_values=values)
  flags.DEFINE_integer("process_id", None, "With --coordinator: which of them this is, from 0.", flag_values=values)


class Help(Exception):
  """``--help`` was asked for; the text."""


def parse(argv: Sequence[str], values: flags.FlagValues, about: str = "") -> list[Override]:
  """Fills ``values`` from ``argv`` (program name first) and returns the ``--config.*`` overrides, in order.

  Behind them come, with their prefix, the ``--slurm.*`` options of a launcher that has an ``--executor``.

  Raises UsageError, and Help with ``about`` and the list of flags where ``--help`` is among them.
  """
  if {"--help", "-h", "--helpfull", "-help"} & set(argv[1:]):
    known = [f"  --{n}: {values[n].help} (default: {values[n].default!r})" for n in values]
    if "config" in values:
      known.append("  --config.SECTION.FIELD=VALUE: a field of the configuration, such as --config.method.name=er")
    if "executor" in values:
      known.append("  --slurm.OPTION=VALUE: an option of sbatch, such as --slurm.partition=gpu --slurm.time=60")
    raise Help("\n".join([about.strip(), "", *known]))
  prefixes = tuple(p for p, flag in (("config.", "config"), ("slurm.", "executor")) if flag in values)
  rest: list[str] = [argv[0]]
  overrides: list[Override] = []
  options: list[Override] = []
  tokens = list(argv[1:])
  while tokens:
    token = tokens.pop(0)
    bare = token.lstrip("-")
    if not token.startswith("-") or not bare.startswith(prefixes or ("\0",)):
      rest.append(token)
      continue
    key, equals, value = bare.removeprefix("config.").partition("=")
    if not equals:
      # '--config.a.b VALUE', or a switch.
      value = tokens.pop(0) if tokens and not tokens[0].startswith("--") else "true"
    (options if key.startswith("slurm.") else overrides).append(Override(key, value, True))
  try:
    left = values(rest)
  except flags.Error as error:
    raise UsageError(_flag_error(error, values)) from None
  if len(left) > 1:
    raise UsageError(f"arguments: got {left[1]!r}; expected flags only, such as --{next(iter(values))}=VALUE")
  if "workdir" in values and not values.workdir:
    raise UsageError("workdir: not given; expected --workdir=DIR, a folder for results and checkpoints")
  return overrides + options


def _flag_error(error: Exception, values: flags.FlagValues) -> str:
  text = " ".join(str(error).split())
  if isinstance(error, flags.UnrecognizedFlagError):
    return f"--{error.flagname}: no such flag; allowed: {', '.join(f'--{n}' for n in sorted(values))}" + (
      ", --config.KEY" if "config" in values else ""
    )
  return text


def guarded(run: Callable[[Sequence[str], Stop], int], argv: Sequence[str]) -> int:
  """Calls ``run(argv, stop)``; errors that people cause become one line on stderr.

  Exit codes: 0 done; 1 failed (diverged, disk full, damaged checkpoints); 2 usage; 129, 130 and 143 stopped by a
  signal, the state saved.
  """
  with Stop() as stop:
    try:
      with piped():
        return run(argv, stop)
    except Help as text:
      with piped():
        print(text)
      return 0
    except UsageError as error:
      _line(str(error))
      return 2
    except Stopped as error:
      _line(f"{error}; saved, run the same command again to resume", "stopped")
      return 128 + (stop.signal or signal.SIGTERM)
    except KeyboardInterrupt:
      _line("interrupted before the state was saved; run the same command again to resume from the last checkpoint")
      return 128 + (stop.signal or signal.SIGINT)
    except CljaxError as error:
      _line(str(error))
      return 1
    except Exception as error:
      full = disk_full(error)
      if full is None and out_of_memory(error):
        _line(f"out of memory: {error}; smaller sizes or fewer seeds at a time may fit")
        return 1
      if full is None:
        raise
      _line(f"workdir: {full}; what was written before is intact, free some space and run the same command again")
      return 1


@contextlib.contextmanager
def piped():
  """Where nobody reads any more what is printed (``| head``), the block ends without a word."""
  try:
    yield
    sys.stdout.flush()
  except BrokenPipeError:
    # Python flushes once more at its end, and would complain then.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def where(workdir, files: str, command: str) -> str:
  """The last line of a launcher: where its results lie, and which command shows them."""
  return f"results: {os.fspath(workdir)} ({files}); look at them: python -m launch.{command} {os.fspath(workdir)}"


def out_of_memory(error: BaseException) -> bool:
  """Whether NumPy or a device could not hold what was asked for."""
  text = str(error)
  return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory allocating" in text


def disk_full(error: BaseException | None) -> str | None:
  """A line about a full disk, where that is what an error or one of its causes is about; else None."""
  seen = set()
  while error is not None and id(error) not in seen:
    seen.add(id(error))
    if isinstance(error, OSError) and error.errno in _workdir.FULL:
      return f"cannot write {error.filename or 'a file'}: {os.strerror(error.errno or 0)}"
    if "No space left on device" in str(error) or "Disk quota exceeded" in str(error):
      return "cannot write a checkpoint: No space left on device"
    error = error.__cause__ or error.__context__
  return None


def _line(text: str, label: str = "error") -> None:
  text = " ".join(text.split())
  if len(text) > LONGEST:
    text = f"{text[:LONGEST]}... ({len(text):,} characters)"
  # What was typed may hold what no terminal shows, such as half of a surrogate pair.
  text = text.encode(errors="backslashreplace").decode()
  print(f"{label}: {text}", file=sys.stderr, flush=True)
