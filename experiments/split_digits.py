"""Split digits, class-incremental: 5 tasks of 2 classes, 8x8 digits, an MLP with two hidden layers of 100.

``method_defaults`` holds, by method, the options that differ here from the registry's defaults.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.data = ConfigDict({"name": "digits"})
  config.stream = ConfigDict({"kind": "class", "tasks": 5})
  config.model = ConfigDict({"name": "mlp", "hidden": (100, 100)})
  config.method = ConfigDict({"name": "finetune"})
  config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.1})
  config.train = ConfigDict({"batch_size": 32, "epochs": 10})
  config.method_defaults = ConfigDict({"er": {"capacity": 100}, "derpp": {"capacity": 100}})
  return config
