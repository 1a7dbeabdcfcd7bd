"""Digits as one task, for ``launch.unlearn``: an MLP trained for 20 epochs, then asked to forget."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict({
    "data": {"name": "digits"},
    "stream": {"kind": "class", "tasks": 1, "validation": 0.0},
    "model": {"name": "mlp", "hidden": (100, 100)},
    "method": {"name": "finetune"},
    "optimizer": {"name": "sgd", "learning_rate": 0.05},
    "train": {"batch_size": 32, "epochs": 20},
    # A class is a tenth of the data, so I_f <= 10 I_D: ssd's alpha of 10 could select nothing.
    "method_defaults": {"ssd": {"alpha": 2.0}},
  })  # fmt: skip
