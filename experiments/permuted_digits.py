"""Permuted digits, domain-incremental: 5 tasks, all ten classes in each, the pixels of each task in an order of its
own."""

from ml_collections import ConfigDict

from experiments import split_digits


def get_config() -> ConfigDict:
  config = split_digits.get_config()
  config.stream = ConfigDict({"kind": "permuted", "tasks": 5})
  return config
