"""Split digits, task-incremental: as split_digits.py, but the task is known at test time."""

from ml_collections import ConfigDict

from experiments import split_digits


def get_config() -> ConfigDict:
  config = split_digits.get_config()
  config.stream.kind = "task"
  return config
