"""Ten glyphs as one task, for ``launch.unlearn``: an MLP on 28x28 renderings."""

from ml_collections import ConfigDict

from experiments import unlearn_digits


def get_config() -> ConfigDict:
  config = unlearn_digits.get_config()
  config.data = ConfigDict({"name": "glyphs", "classes": 10})
  config.optimizer = ConfigDict({"name": "adam", "learning_rate": 0.001})
  config.train.epochs = 10
  return config
