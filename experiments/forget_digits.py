"""Learning and forgetting in one stream: split digits; class 3 is to be forgotten after task 1, 20 rows after the last
task.

``forget.name`` picks what answers the requests: ``retrain`` (exact) or an approximate method. ``get_hyper`` compares
them.
"""

from ml_collections import ConfigDict

from experiments import split_digits


def get_config() -> ConfigDict:
  config = split_digits.get_config()
  config.stream.forget = "2:class=3; 5:ids=40-47,49,51-57,59-62"
  config.method = ConfigDict({"name": "er"})
  config.forget = ConfigDict({"name": "retrain"})
  # After two tasks class 3 is a quarter of the data, so I_f <= 4 I_D: an alpha of 4 or more could select nothing.
  config.method_defaults.ssd = ConfigDict({"alpha": 2.0})
  return config


def get_hyper(h):
  return h.chainit([
    h.fixed("forget.name", "retrain"),
    h.product([h.fixed("forget.name", "ssd"), h.sweep("forget.alpha", [2.0, 10.0])]),
    h.product([h.fixed("forget.name", "graddiff"), h.sweep("forget.forget_weight", [0.05, 0.1])]),
  ])  # fmt: skip
