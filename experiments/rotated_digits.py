"""Rotated digits, domain-incremental: 5 tasks, all ten classes in each, turned by 0, 36, 72, 108 and 144 degrees."""

from ml_collections import ConfigDict

from experiments import split_digits


def get_config() -> ConfigDict:
  config = split_digits.get_config()
  config.stream = ConfigDict({"kind": "rotated", "tasks": 5})
  return config
