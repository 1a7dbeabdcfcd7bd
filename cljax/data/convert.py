"""Adds ArrayRecord files to a TFDS set prepared as TFRecord: ``python -m cljax.data.convert DIR``.

``DIR`` is the folder of one version, with ``dataset_info.json`` in it. Both formats hold the same serialized examples,
so records are copied unread and TensorFlow is not needed. The TFRecord files stay, and ``dataset_info.json`` lists
ArrayRecord as an alternative only when every shard is written and its count is right.
"""

from __future__ import annotations

import functools
import json
import os
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from cljax.core.extras import needed
from cljax.core.types import UsageError
from cljax.data import store, tfds_sets

_SHARD = re.compile(r"(?P<stem>.+)-(?P<split>[^-]+)\.tfrecord-(?P<part>\d{5}-of-\d{5})")


@functools.cache
def _table() -> tuple[int, ...]:
  out = []
  for n in range(256):
    for _ in range(8):
      n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
    out.append(n)
  return tuple(out)


def masked_crc(data: bytes) -> int:
  """TFRecord's checksum: CRC-32C, rotated right by 15 bits, plus 0xa282ead8."""
  c = 0xFFFFFFFF
  for b in data:
    c = _table()[(c ^ b) & 255] ^ c >> 8
  c ^= 0xFFFFFFFF
  return ((c >> 15 | c << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[bytes]:
  """The records of a TFRecord file.

  The checksum of each length is verified, so a file that is cut or out of step is refused; the checksum of the contents
  is not (it would take hours on a large set).
  """
  with open(path, "rb") as f:
    while head := f.read(12):
      if len(head) < 12 or struct.unpack("<I", head[8:])[0] != masked_crc(head[:8]):
        raise UsageError(f"{path}: is no TFRecord file, or is damaged at byte {f.tell() - len(head)}")
      (n,) = struct.unpack("<Q", head[:8])
      data, tail = f.read(n), f.read(4)
      if len(data) != n or len(tail) != 4:
        raise UsageError(f"{path}: is cut short: a record of {n} bytes ends at byte {f.tell()}")
      yield data


def convert(folder: Path) -> int:
  """Converts every shard under ``folder``; returns the number of records. Raises :class:`UsageError`."""
  with needed("converting to ArrayRecord"):
    from array_record.python.array_record_module import ArrayRecordWriter
    from tqdm import tqdm

  info_file = folder / "dataset_info.json"
  if not info_file.is_file():
    raise UsageError(f"DIR: {folder} has no dataset_info.json; give the folder of one version of a prepared TFDS set")
  with store.locked(folder / ".convert.lock"):
    info = tfds_sets.read_info(folder)
    if "array_record" in (info.get("fileFormat"), *info.get("alternativeFileFormats", [])):
      return 0
    expected = {s["name"]: sum(map(int, s.get("shardLengths", []))) for s in info.get("splits", [])}
    shards = [(p, m) for p in sorted(folder.iterdir()) if (m := _SHARD.fullmatch(p.name))]
    counts = dict.fromkeys(expected, 0)
    for path, match in tqdm(shards, desc="converting", unit="shard", disable=not sys.stderr.isatty()):
      name = f"{match['stem']}-{match['split']}.array_record-{match['part']}"
      temporary = folder / f".{name}.partial"
      writer = ArrayRecordWriter(str(temporary), "group_size:1")  # as TFDS writes it
      for record in records(path):
        writer.write(record)
        counts[match["split"]] = counts.get(match["split"], 0) + 1
      writer.close()
      os.replace(temporary, folder / name)
    if counts != expected:
      raise UsageError(f"DIR: {folder} holds {counts} records; dataset_info.json says {expected}")
    info["alternativeFileFormats"] = [*info.get("alternativeFileFormats", []), "array_record"]
    temporary = folder / ".dataset_info.json.partial"
    temporary.write_text(json.dumps(info, indent=2))
    os.replace(temporary, info_file)
  return sum(counts.values())


def main(arguments: list[str]) -> int:
  if len(arguments) != 1:
    print("usage: python -m cljax.data.convert DIR", file=sys.stderr)
    return 2
  try:
    count = convert(Path(arguments[0]).expanduser())
  except UsageError as e:
    print(f"error: {e}", file=sys.stderr)
    return 2
  print(f"{count} records converted to ArrayRecord" if count else "already prepared as ArrayRecord")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
