"""Split glyphs, class-incremental: 10 tasks of 10 characters, 28x28, three convolutions (84 thousand parameters)."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.data = ConfigDict({"name": "glyphs", "classes": 100})
  config.stream = ConfigDict({"kind": "class", "tasks": 10})
  config.model = ConfigDict({"name": "cnn"})
  config.method = ConfigDict({"name": "finetune"})
  config.optimizer = ConfigDict({"name": "adam", "learning_rate": 0.003})
  config.train = ConfigDict({"batch_size": 32, "epochs": 5})
  config.method_defaults = ConfigDict({name: {"capacity": 1000} for name in ("er", "derpp", "agem")})
  return config
