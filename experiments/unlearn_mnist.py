"""1,000 rows of MNIST as one task, for ``launch.unlearn``: a CNN trained for 10 epochs, then asked to forget.

``python -m launch.unlearn --config=experiments/unlearn_mnist.py --request='class=3' --oracles=20 --seeds=3
--methods=ssd,scrub --workdir=DIR``; ``python -m cljax.data.prepare mnist`` fetches the data.
"""

from ml_collections import ConfigDict

from experiments import unlearn_digits


def get_config() -> ConfigDict:
  config = unlearn_digits.get_config()
  config.data = ConfigDict({"name": "mnist"})
  config.stream.rows = 1000  # of training, and as many of test: what two cores train 40 networks on in minutes
  config.model = ConfigDict({"name": "cnn", "widths": (8, 8, 16)})
  config.optimizer = ConfigDict({"name": "adam", "learning_rate": 0.003})
  config.train.epochs = 10
  return config
