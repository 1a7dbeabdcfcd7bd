"""A folder that only its owner can read and write, for files whose content is trusted: what another user could have
put there is refused, not read.

Each file is a line that says what it is, the SHA-256 of the rest, and the rest; it appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat

HEAD = b"cljax private file 1\n"


class Refused(Exception):
  """A folder or a file that somebody else could have written, or that is damaged; the text says which and why."""


def _check(found: os.stat_result, what: str, others: int) -> None:
  if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
    raise Refused(f"{what} belongs to user {found.st_uid}")
  if found.st_mode & others:
    raise Refused(f"{what} is open to others (mode {stat.S_IMODE(found.st_mode):o})")


@contextlib.contextmanager
def opened(folder: str, make: bool = False):
  """A descriptor of the folder, made with mode 0700 where there is none and ``make`` says so. Raises Refused where it
  is a link, another user's or open to others; FileNotFoundError."""
  if not hasattr(os, "O_DIRECTORY"):
    raise Refused("this system has no descriptors of folders")
  if make:
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with contextlib.suppress(FileExistsError):
      os.mkdir(folder, 0o700)
  try:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
  except FileNotFoundError:
    raise
  except OSError as error:
    raise Refused(f"{folder}: {error.strerror}") from error
  try:
    _check(os.fstat(descriptor), folder, 0o077)
    yield descriptor
  finally:
    os.close(descriptor)


def read(folder: str, name: str) -> bytes | None:
  """The content of a file; None where there is no such file. Raises Refused."""
  try:
    with opened(folder) as descriptor:
      file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=descriptor)
  except FileNotFoundError:
    return None
  except OSError as error:
    raise Refused(f"{folder}/{name}: {error.strerror}") from error
  with open(file, "rb") as stream:
    found = os.fstat(stream.fileno())
    if not stat.S_ISREG(found.st_mode):
      raise Refused(f"{folder}/{name} is no file")
    _check(found, f"{folder}/{name}", 0o022)
    whole = stream.read()
  head, digest, content = whole[: len(HEAD)], whole[len(HEAD) : len(HEAD) + 32], whole[len(HEAD) + 32 :]
  if head != HEAD or hashlib.sha256(content).digest() != digest:
    raise Refused(f"{folder}/{name} is damaged")
  return content


def write(folder: str, name: str, content: bytes) -> None:
  """Writes a file whole, with mode 0600, in the place of one of that name. Raises Refused, OSError."""
  with opened(folder, make=True) as descriptor:
    temporary = f".{name}.{os.getpid()}.{os.urandom(6).hex()}.part"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=descriptor)
    try:
      with open(file, "wb") as stream:
        stream.write(HEAD + hashlib.sha256(content).digest() + content)
      os.replace(temporary, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
    except BaseException:
      with contextlib.suppress(OSError):
        os.unlink(temporary, dir_fd=descriptor)
      raise
