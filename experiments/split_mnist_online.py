"""Split MNIST seen once: 5 tasks of 2 classes, batches of 10, an MLP 100-100, as the online literature has it.

``python -m cljax.data.prepare mnist`` puts the data in its place.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.data = ConfigDict({"name": "mnist"})
  config.stream = ConfigDict({"kind": "class", "tasks": 5, "validation": 0.0})
  config.model = ConfigDict({"name": "mlp", "hidden": (100, 100)})
  config.method = ConfigDict({"name": "finetune"})
  config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.1})
  config.train = ConfigDict({"batch_size": 10, "epochs": 1})
  return config
