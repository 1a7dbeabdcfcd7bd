"""Real text in three languages, one after another: a small decoder from scratch, 500,352 parameters, from help pages.

``python -m cljax.data.prepare languages``, then ``python -m launch.train --config=experiments/text_domains.py
--workdir=DIR`` and ``python -m launch.report DIR``: perplexity on each language after each task, bits a byte (which
languages can be compared by), and what the model goes on to say. A task is 109 steps of 16 windows of 64 tokens, once
through its text; the tokens were learned from all three languages. ``--config.method.name=er`` replays two of 100
stored windows a task in each step; ewc's Fisher is of a window's summed loss, so its strength is small.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.data = ConfigDict({
    "name": "text:languages", "tokenizer": "own", "length": 64, "tokens": 130_000, "test_fraction": 0.05,
  })  # fmt: skip
  config.stream = ConfigDict({"kind": "group", "tasks": 3})
  config.model = ConfigDict({
    "name": "decoder", "width": 128, "mlp_width": 352, "depth": 2, "heads": 4, "kv_heads": 2,
  })  # fmt: skip
  config.objective = ConfigDict({"name": "sequence"})
  config.method = ConfigDict({"name": "finetune"})
  config.optimizer = ConfigDict({"name": "adamw", "learning_rate": 0.004, "schedule": "cosine", "warmup": 0.125})
  config.train = ConfigDict({"batch_size": 16, "epochs": 1})
  config.eval = ConfigDict({"block": 64})
  config.evaluators = "bits_per_byte,samples"
  config.method_defaults = ConfigDict({
    "er": {"capacity": 300, "replay_batch": 2},
    "ewc": {"strength": 0.25, "fisher": "empirical"},
    "lwf": {"strength": 1.0, "temperature": 2.0},
  })  # fmt: skip
  return config
