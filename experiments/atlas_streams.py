"""The streams of the atlas: ``--config=experiments/atlas_streams.py:NAME``. One network and one memory for all methods.

Digits: 8x8, all rows, ten epochs, 100 rows of memory. MNIST: 12,000 of its training rows, one epoch, 200 rows.
"""

from ml_collections import ConfigDict

STREAMS = {
  "digits_class": ("digits", "class"),
  "digits_domain": ("digits", "domain"),
  "digits_task": ("digits", "task"),
  "mnist_class": ("mnist", "class"),
  "mnist_domain": ("mnist", "domain"),
  "mnist_permuted": ("mnist", "permuted"),
}
# What the search's stream differs by: other classes in each task, or other pixels.
SEARCH = {
  name: "stream.seed=7" if kind == "permuted" else "stream.class_order=7" for name, (_, kind) in STREAMS.items()
}


def get_config(name: str) -> ConfigDict:
  from cljax import methods

  dataset, kind = STREAMS[name]
  small = dataset == "digits"
  config = ConfigDict()
  config.data = ConfigDict({"name": dataset})
  config.stream = ConfigDict({"kind": kind, "tasks": 5} | ({} if small else {"rows": 12000}))
  config.model = ConfigDict({"name": "mlp", "hidden": (100, 100)})
  config.method = ConfigDict({"name": "finetune"})
  config.optimizer = ConfigDict({"name": "sgd", "learning_rate": 0.1})
  config.train = ConfigDict({"batch_size": 32, "epochs": 10 if small else 1})
  capacity = {"capacity": 100 if small else 200}
  config.method_defaults = ConfigDict({n: capacity for n, e in methods.METHODS.items() if "capacity" in e.options})
  return config
