"""The folder of compiled programs: listed, cleared by age, and kept below its limit, the oldest going first."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

import cljax
from cljax.cli import _environment, cache
from cljax.engine import kept as programs
from cljax.io import private


@pytest.fixture
def folder(tmp_path):
  """Four programs of 1,000 bytes, used 0, 1, 2 and 40 days ago, and a file that is none."""
  for i, days in enumerate((0, 1, 2, 40)):
    path = tmp_path / f"jit_chunk_{i}-{'0' * 64}-cache"
    path.write_bytes(bytes(1000))
    os.utime(path, (time.time() - days * cache.DAY,) * 2)
  (tmp_path / "notes.txt").write_text("mine")
  return tmp_path


def left(folder):
  return sorted(p.name[:11] for p in folder.iterdir())


def command(folder, *argv, code=0):
  assert cache.main(["cache", f"--compilation_cache={folder}", *argv]) == code


def test_it_lists_and_deletes_nothing(folder, capsys):
  command(folder)
  said = capsys.readouterr().out
  assert f"{folder}: 4 compiled programs, 0.0 MiB; used between 40 days ago and 0.0 hours ago" in said
  assert said.count("jit_chunk_") == 4
  assert len(left(folder)) == 5


def test_it_clears_by_age_and_then_all(folder, capsys):
  command(folder, "--clear", "--days=30")
  assert left(folder) == ["jit_chunk_0", "jit_chunk_1", "jit_chunk_2", "notes.txt"]
  command(folder, "--clear")
  assert left(folder) == ["notes.txt"]
  command(folder)
  assert "3 compiled programs deleted" in (said := capsys.readouterr().out)
  assert "no compiled programs" in said


def test_programs_that_are_kept_whole_are_listed_trimmed_and_cleared_too(folder, capsys):
  kept = folder / os.path.basename(_environment.kept_folder(""))
  private.write(str(kept), f"chunk-{'1' * 64}-program", bytes(3000))
  private.write(str(kept), "notes.txt", b"mine")
  os.utime(kept / f"chunk-{'1' * 64}-program", (time.time() - 50 * cache.DAY,) * 2)
  command(folder)
  said = capsys.readouterr().out
  assert f"{folder}: 5 compiled programs, 0.0 MiB; used between 50 days ago" in said
  assert "chunk  50 days ago" in said
  assert [p.name[:5] for p in _environment.trim(str(folder), 4000)] == ["chunk"]
  private.write(str(kept), f"chunk-{'1' * 64}-program", bytes(3000))
  command(folder, "--clear")
  assert "5 compiled programs deleted" in capsys.readouterr().out
  assert sorted(p.name for p in folder.rglob("*")) == ["notes.txt", "notes.txt", kept.name]


def test_what_no_cache_wrote_is_neither_counted_nor_deleted(tmp_path, capsys):
  """Other files whose names end alike, folders, links, and what a link in the place of the kept programs leads to."""
  names = (f"jit_f-{'0' * 64}-cache", f"chunk-{'1' * 64}-program")
  folder, others = tmp_path / "cache", tmp_path / "others"
  for place in (folder, others):
    place.mkdir()
    for name in (*names, "notes-cache", "mine-program"):
      (place / name).write_text("mine")
  (folder / f"folder-{'0' * 64}-cache").mkdir()
  (folder / f"link-{'0' * 64}-cache").symlink_to(others / names[0])
  kept = folder / os.path.basename(_environment.kept_folder(""))
  kept.symlink_to(others, target_is_directory=True)
  command(folder, "--clear")
  assert "1 compiled programs deleted" in capsys.readouterr().out
  assert not (folder / names[0]).exists()
  assert len(list(folder.iterdir())) == 6
  assert len(list(others.iterdir())) == 4


def test_what_goes_with_a_program_goes_too(folder):
  """JAX's note of when a program was read, and what a killed process left half written."""
  (folder / f"jit_chunk_3-{'0' * 64}-atime").write_bytes(bytes(8))
  kept = folder / os.path.basename(_environment.kept_folder(""))
  kept.mkdir(mode=0o700)
  (kept / f".chunk-{'1' * 64}-program.12.0a1b2c3d4e5f.part").write_bytes(bytes(3000))
  assert sum(p.size for p in _environment.programs(str(folder))) == 7000
  command(folder, "--clear")
  assert sorted(p.name for p in folder.rglob("*")) == ["notes.txt", kept.name]


def test_the_folder_of_the_variable_is_the_one_that_jax_writes(folder, monkeypatch, capsys):
  (folder / "~").mkdir()
  (folder / "~" / f"jit_f-{'0' * 64}-cache").write_bytes(bytes(10))
  monkeypatch.chdir(folder)
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "~")
  assert cache.main(["cache"]) == 0
  assert capsys.readouterr().out.startswith("~: 1 compiled programs")


def test_what_is_asked_wrongly_is_one_line(tmp_path, capsys):
  command(tmp_path / "none", code=2)
  command(tmp_path, "--days=3", code=2)
  command(tmp_path, "--clear", "--days=-1", code=2)
  lines = capsys.readouterr().err.splitlines()
  assert lines == [
    f"error: compilation_cache: no folder {tmp_path / 'none'}",
    "error: days: given without --clear",
    "error: days: got -1; expected at least 0",
  ]


def test_the_oldest_go_until_the_rest_fits(folder):
  assert _environment.trim(str(folder), 0) == []
  assert _environment.trim(str(folder), 4000) == []
  gone = _environment.trim(str(folder), 2999)
  assert [p.name[:11] for p in gone] == ["jit_chunk_3", "jit_chunk_2"]
  assert left(folder) == ["jit_chunk_0", "jit_chunk_1", "notes.txt"]
  assert _environment.trim(str(folder / "none"), 1) == []


def test_the_limit_is_the_user_s(monkeypatch):
  monkeypatch.setenv("CLJAX_CACHE_BYTES", "77")
  assert _environment.cache_limit() == 77
  monkeypatch.setenv("CLJAX_CACHE_BYTES", "2GB")
  with pytest.raises(cljax.UsageError, match="CLJAX_CACHE_BYTES: got '2GB'; expected a number of bytes"):
    _environment.cache_limit()


def test_a_launcher_trims_its_own_folder_alone(folder, monkeypatch):
  import jax

  names = [f"jax_{n}" for n in ("compilation_cache_dir", "persistent_cache_min_compile_time_secs")]
  names += ["jax_persistent_cache_min_entry_size_bytes"]
  before = {name: getattr(jax.config, name) for name in names}
  monkeypatch.setenv("CLJAX_CACHE_BYTES", "1000")
  try:
    _environment.use_compilation_cache(str(folder))
    assert len(left(folder)) == 5
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(_environment, "CACHE", str(folder))
    _environment.use_compilation_cache(str(folder))
    assert left(folder) == ["jit_chunk_0", "notes.txt"]
  finally:
    programs.use("")
    for name, value in before.items():
      jax.config.update(name, value)


def test_a_bucket_is_no_folder_of_this_machine(tmp_path, monkeypatch, capsys):
  """Nothing is kept whole there, nor in a local folder of that name; what can not be listed is not called empty."""
  import jax

  monkeypatch.chdir(tmp_path)
  before = jax.config.jax_compilation_cache_dir
  minimum = jax.config.jax_persistent_cache_min_compile_time_secs, jax.config.jax_persistent_cache_min_entry_size_bytes
  try:
    _environment.use_compilation_cache("gs://bucket/programs")
    assert not programs.in_use()
  finally:
    programs.use("")
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", minimum[0])
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", minimum[1])
  command("gs://bucket/programs", code=2)
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/programs")
  assert cache.main(["cache", "--clear"]) == 2
  line = "error: compilation_cache: got 'gs://bucket/programs'; only folders of this machine are listed and cleared"
  assert capsys.readouterr().err.splitlines() == [line, line]
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["environment", "configuration"])
def test_the_user_s_own_folder_wins_over_the_default_and_not_over_what_is_given(tmp_path, how):
  """In a process of its own: JAX reads the variable at its start."""
  code = """
import sys, jax
from cljax.cli import _environment
from cljax.engine import kept
if sys.argv[1] == "configuration":
  jax.config.update("jax_compilation_cache_dir", sys.argv[2])
_environment.use_compilation_cache(_environment.CACHE)
print(jax.config.jax_compilation_cache_dir, kept._FOLDER)
_environment.use_compilation_cache(sys.argv[3])
print(jax.config.jax_compilation_cache_dir, kept._FOLDER)
"""
  mine, given = str(tmp_path / "mine"), str(tmp_path / "given")
  environment = {k: v for k, v in os.environ.items() if k not in ("JAX_COMPILATION_CACHE_DIR", "CLJAX_KEEP_PROGRAMS")}
  environment |= {"JAX_COMPILATION_CACHE_DIR": mine} if how == "environment" else {}
  done = subprocess.run(
    [sys.executable, "-c", code, how, mine, given], env=environment, capture_output=True, text=True, check=True
  )
  assert done.stdout.splitlines() == [f"{f} {[_environment.kept_folder(f)]}" for f in (mine, given)]
