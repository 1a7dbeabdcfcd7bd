"""A private folder gives back what was written, whole, and nothing that somebody else could have put there."""

from __future__ import annotations

import os

import pytest

from cljax.io import private


@pytest.fixture
def folder(tmp_path):
  path = str(tmp_path / "made" / "private")
  private.write(path, "a", b"content")
  return path


def test_what_is_written_is_read(folder):
  assert private.read(folder, "a") == b"content"
  assert private.read(folder, "b") is None
  assert private.read(folder + "x", "a") is None
  assert os.stat(folder).st_mode & 0o777 == 0o700
  assert os.stat(f"{folder}/a").st_mode & 0o777 == 0o600
  private.write(folder, "a", b"other")
  assert private.read(folder, "a") == b"other"
  assert os.listdir(folder) == ["a"]


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o770, 0o701])
def test_a_folder_that_is_open_to_others_is_refused(folder, mode):
  os.chmod(folder, mode)
  for attempt in (lambda: private.read(folder, "a"), lambda: private.write(folder, "b", b"")):
    with pytest.raises(private.Refused, match="is open to others"):
      attempt()
  assert os.listdir(folder) == ["a"]


def test_a_file_that_others_can_write_is_refused(folder):
  os.chmod(f"{folder}/a", 0o666)
  with pytest.raises(private.Refused, match="is open to others"):
    private.read(folder, "a")


def test_links_are_refused(folder, tmp_path):
  os.symlink(folder, tmp_path / "link")
  with pytest.raises(private.Refused):
    private.read(str(tmp_path / "link"), "a")
  os.rename(f"{folder}/a", f"{folder}/elsewhere")
  os.symlink(f"{folder}/elsewhere", f"{folder}/a")
  with pytest.raises(private.Refused):
    private.read(folder, "a")
  os.mkdir(f"{folder}/inside")
  with pytest.raises((private.Refused, IsADirectoryError)):
    private.read(folder, "inside")


def test_another_user_s_are_refused(folder, monkeypatch):
  monkeypatch.setattr(os, "geteuid", lambda: 12345)
  with pytest.raises(private.Refused, match="belongs to user"):
    private.read(folder, "a")
  with pytest.raises(private.Refused, match="belongs to user"):
    private.write(folder, "b", b"")


@pytest.mark.parametrize(
  "damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"", lambda b: b[:60] + b"X" + b[61:]]
)
def test_a_damaged_file_is_refused(folder, damage):
  path = f"{folder}/a"
  with open(path, "rb") as file:
    whole = file.read()
  with open(path, "wb") as file:
    file.write(damage(whole))
  with pytest.raises(private.Refused, match="is damaged"):
    private.read(folder, "a")


def test_nothing_is_left_of_a_write_that_fails(folder, monkeypatch):
  def fails(*_, **more):
    raise OSError("full")

  monkeypatch.setattr(os, "replace", fails)
  with pytest.raises(OSError, match="full"):
    private.write(folder, "b", b"content")
  assert os.listdir(folder) == ["a"]
