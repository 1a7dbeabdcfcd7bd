"""SCoLe: 200 events, each of two digits drawn anew, the softmax over these two. The last column of the matrix is the
whole test set: it rises although every event forgets."""

from ml_collections import ConfigDict

from experiments import split_digits


def get_config() -> ConfigDict:
  config = split_digits.get_config()
  config.stream = ConfigDict({"kind": "scole", "tasks": 200, "classes_per_task": 2})
  config.train.epochs = 1
  return config
