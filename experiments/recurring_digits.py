"""Digits that come back, class-incremental: tasks A B A C A of three or four classes. What does A keep in between?"""

from ml_collections import ConfigDict

from experiments import split_digits


def get_config() -> ConfigDict:
  config = split_digits.get_config()
  config.stream = ConfigDict({"kind": "class", "tasks": 3, "classes_per_task": (4, 3, 3), "order": (0, 1, 0, 2, 0)})
  return config
