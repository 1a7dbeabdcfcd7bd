"""Six of ten digits as one task, for ``launch.unlearn --downstream=rest``: features are probed on the other four.

The protocol of "Are We Truly Forgetting?": the same comparison for classes at random and for those closest to the
downstream ones. ``python -m experiments.unlearn_downstream`` (about ten minutes of one core at its defaults) chooses
both by models trained on the six, has ``launch.unlearn`` make both tables and prints them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from experiments import unlearn_digits

LEARNED = 6


def get_config() -> ConfigDict:
  config = unlearn_digits.get_config()
  config.stream.classes_per_task = LEARNED
  return config


def ranked(seeds: int) -> tuple[list[int], Any]:
  """The learned classes, the closest to the downstream rows first, by the features of models of seeds 0, 1, ...; the
  mean of their places."""
  import jax

  import cljax
  from cljax import data, models, streams
  from cljax.metrics.unlearning import closest_classes

  config = get_config()
  stream = streams.build(data.load("digits"), "class", tasks=1, classes_per_task=LEARNED, validation=0.0)
  split = stream.dataset.train
  model = models.mlp(split.x.shape[1:], stream.num_classes, hidden=config.model.hidden)
  result = cljax.run(
    stream, model, "finetune",
    optimizer_options={"learning_rate": config.optimizer.learning_rate}, seeds=seeds,
    training=cljax.Recipe(batch_size=config.train.batch_size, epochs=config.train.epochs),
  )  # fmt: skip
  own, rest = stream.train[0], np.flatnonzero(split.y >= LEARNED)
  x = split.x.astype(np.float32) * stream.dataset.scale
  look = jax.jit(jax.vmap(lambda params: model.apply(params, {}, x, train=False, key=None)[0].features))
  places = np.zeros(LEARNED)
  for features in np.asarray(look(result.learner.params)):
    places[closest_classes(features[own], split.y[own], features[rest])] += np.arange(LEARNED) / seeds
  return np.argsort(places, kind="stable").tolist(), places


def main(argv: Sequence[str]) -> int:
  from cljax.cli import unlearn

  parsed = flags.FlagValues()
  flags.DEFINE_integer("classes", 2, "Classes to forget.", 1, LEARNED - 1, flag_values=parsed)
  flags.DEFINE_integer("seeds", 5, "Models that unlearn.", 1, flag_values=parsed)
  flags.DEFINE_integer("oracles", 20, "Retrained models.", 0, flag_values=parsed)
  flags.DEFINE_list("methods", ["retrain", "random_labels", "graddiff", "scrub", "ssd"], "Methods.", flag_values=parsed)
  flags.DEFINE_string("workdir", "/tmp/unlearn_downstream", "Where runs are kept.", flag_values=parsed)
  parsed(argv)
  closest, places = ranked(parsed.seeds)
  print("classes by closeness to the downstream ones:", *(f"{c} (mean place {places[c]:.1f})" for c in closest))
  drawn = np.random.default_rng(0).permutation(LEARNED).tolist()
  for name, order in (("closest", closest), ("random", drawn)):
    chosen = sorted(order[: parsed.classes])
    print(f"\n## {name}: classes {chosen}\n", flush=True)
    code = unlearn.main([
      "unlearn", f"--config={os.path.relpath(__file__)}", f"--methods={','.join(parsed.methods)}",
      f"--request=class={','.join(map(str, chosen))}", f"--seeds={parsed.seeds}", f"--oracles={parsed.oracles}",
      "--downstream=rest", f"--workdir={parsed.workdir}/{name}",
    ])  # fmt: skip
    if code:
      return code
  return 0


if __name__ == "__main__":
  app.run(lambda argv: sys.exit(main(argv)))
