"""Fictitious authors, learned by heart by a small decoder, for ``launch.unlearn``: who forgets a twentieth of them?

``python -m launch.unlearn --config=experiments/unlearn_authors.py --request='group=0-4' --oracles=3 --seeds=3
--methods=... --workdir=DIR``: 5 of 100 authors, 80 of 2,400 rows. Beside what every objective has, the table holds the
numbers of TOFU and its successors (``cljax.evaluation.authors_evidence``), each beside retrained models, and counts
those by which a method is told from retraining. The recipe is that of spec language_unlearning Y5 in a decoder of half
its width and without its clipping: AdamW, 30 epochs, 1,140 steps, after which the training loss is 0.007 a token, and
0.35 of the paraphrases. Methods take 50 steps of 32 rows, with Adam at 3e-4 where they take Adam, and are not tuned.
"""

from ml_collections import ConfigDict

STEPS = {"steps": 50, "batch": 32, "learning_rate": 3e-4}


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.data = ConfigDict({"name": "authors", "authors": 100, "questions": 8, "seed": 0})
  config.stream = ConfigDict({"kind": "instance", "tasks": 1, "validation": 0.0})
  config.model = ConfigDict({"name": "decoder", "width": 64, "mlp_width": 172, "depth": 2, "heads": 4})
  config.objective = ConfigDict({"name": "sequence"})
  config.method = ConfigDict({"name": "finetune"})
  config.optimizer = ConfigDict({
    "name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.01, "schedule": "cosine", "warmup": 0.13,
  })  # fmt: skip
  config.train = ConfigDict({"batch_size": 64, "epochs": 30})
  config.method_defaults = ConfigDict({
    "npo": {**STEPS, "beta": 1.0},  # of the order of 1 where answers are short
    "simnpo": STEPS,
    "wga": STEPS,
    "satimp": STEPS,
    "undial": {**STEPS, "retain_weight": 1.0},
    "rmu": STEPS,
    "bad_teacher": STEPS,
    "scrub": STEPS,
    "gradient_ascent": {"steps": 50, "batch": 32},
    "graddiff": {"steps": 50, "batch": 32},
    "finetune_retain": {"steps": 50, "batch": 32},
  })  # fmt: skip
  return config
