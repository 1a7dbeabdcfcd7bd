"""Plasticity: 100 tasks over the same 100 digits, each with the classes renamed at random. How well is the hundredth
task still learned?"""

from ml_collections import ConfigDict

from experiments import split_digits


def get_config() -> ConfigDict:
  config = split_digits.get_config()
  config.stream = ConfigDict({"kind": "label_permuted", "tasks": 100, "rows": 100, "validation": 0.0})
  config.eval = ConfigDict({"block": 128})
  return config
