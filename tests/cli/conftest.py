"""Small runs of the launchers, called in this process: a subprocess would spend seconds on imports."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFIG = """
from ml_collections import ConfigDict

def get_config():
  config = ConfigDict()
  config.data = ConfigDict({"name": "digits"})
  config.stream = ConfigDict({"kind": "class", "tasks": 5, "task_fractions": (0.3,) * 5})
  config.model = ConfigDict({"name": "mlp", "hidden": (8,)})
  config.train = ConfigDict({"epochs": 2, "chunk_steps": 4})
  config.method_defaults = ConfigDict({"er": {"capacity": 20}})
  return config

def get_hyper(h):
  return h.chainit([
    h.fixed("method.name", "finetune"),
    h.product([h.fixed("method.name", "si"), h.sweep("method.strength", [0.0, 1.0])]),
  ])
"""


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> Path:
  path = tmp_path_factory.mktemp("config") / "small.py"
  path.write_text(CONFIG)
  return path


@pytest.fixture(scope="session")
def command(config):
  """``command("--seeds=2", ...)``: the argument vector of a small run."""
  return lambda *more: ["launch", f"--config={config}", "--compilation_cache=", *more]
