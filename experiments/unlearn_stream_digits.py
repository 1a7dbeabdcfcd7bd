"""Split digits learned by experience replay, for requests between the tasks: ``launch.unlearn`` with positions."""

from ml_collections import ConfigDict

from experiments import unlearn_digits


def get_config() -> ConfigDict:
  config = unlearn_digits.get_config()
  config.stream = ConfigDict({"kind": "class", "tasks": 5, "validation": 0.0})
  config.method = ConfigDict({"name": "er", "capacity": 200})
  config.train.epochs = 5
  return config
