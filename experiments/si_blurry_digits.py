"""Si-Blurry digits, class-incremental without clear borders: half of the classes belong to one of 3 tasks each, of the
other half a tenth of the rows turns up anywhere; one pass, as the data of a stream come only once."""

from ml_collections import ConfigDict

from experiments import split_digits


def get_config() -> ConfigDict:
  config = split_digits.get_config()
  config.stream = ConfigDict({"kind": "si_blurry", "tasks": 3, "disjoint": 50, "blurry": 10})
  config.train.epochs = 1
  return config
