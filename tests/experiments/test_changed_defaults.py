"""The table of defaults is of the code as it is."""

from __future__ import annotations

import pathlib

import pytest

from experiments import changed_defaults


def test_the_table_is_on_its_page():
  assert changed_defaults.table() in pathlib.Path(changed_defaults.PAGE).read_text()


def test_a_change_without_a_reason_and_a_reason_without_a_change_are_found(monkeypatch):
  reasons = dict(changed_defaults.CHANGED)
  monkeypatch.setattr(changed_defaults, "CHANGED", {k: v for k, v in reasons.items() if k != "method gpm.skip"})
  with pytest.raises(ValueError, match=r"^method gpm\.skip: 'head' -> 'auto' has no reason in CHANGED$"):
    changed_defaults.changes()
  monkeypatch.setattr(changed_defaults, "CHANGED", {**reasons, "method er.capacity": ("", "")})
  with pytest.raises(ValueError, match=r"^CHANGED: method er\.capacity did not change$"):
    changed_defaults.changes()
