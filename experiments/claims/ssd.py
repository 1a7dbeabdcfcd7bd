"""Dampening against training: which comes closer to the retrained model."""

from typing import Any

import numpy as np

import cljax
from cljax import engine, streams
from cljax.evaluation import evidence
from cljax.metrics import unlearning as metrics
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, mlp

CLAIM = Claim(
  methods=("ssd", "finetune_retain", "graddiff"),
  paper="Foster et al. 2024",
  sentence="Selective synaptic dampening is competitive with methods that train, at a fraction of the cost.",
  protocol=(
    "Digits as one task (MLP 64-100-100-10, SGD 0.05, batch 32, 20 epochs), then class 3 forgotten: ssd (alpha 2, for "
    "the class is a tenth of the data; one pass of gradients over all rows, no step) against finetune_retain and "
    "graddiff at their defaults (50 steps). Effect: the average gap of forget, retain and test accuracy to the mean of "
    "10 models retrained without the class, in points: the smaller of the two trained methods' + 2 (the margin of "
    "'competitive') - ssd's. Written before its first run; a table seen before had shown what ssd costs here."
  ),
)


def measure(seeds):
  stream, request = digits("class", 1), cljax.Forget(classes=(3,))
  stream = stream._replace(events=tuple(e for e in stream.events if isinstance(e, cljax.Learn)))
  shared: dict[str, Any] = {
    "optimizer_options": {"learning_rate": 0.05},
    "training": cljax.Recipe(batch_size=32, epochs=20),
  }
  rows = evidence.sides(stream, request)
  gone = streams.resolve_pairs(request, stream)
  original = engine.prepare(stream, mlp(stream), seeds=seeds, **shared)
  trained = original.run()
  bank = engine.prepare(evidence.without_rows(stream, gone), mlp(stream), seeds=range(1000, 1010), **shared)

  def accuracies(made, learner):
    said = evidence.answers(made.setup, learner, rows)
    return metrics.accuracies(*((said.logits[s], rows.y[s]) for s in evidence.SIDES))

  reference = [np.mean(a) for a in accuracies(bank, bank.run().learner)]
  asked = stream._replace(events=(*stream.events, request))
  gaps: dict[str, np.ndarray] = {}
  figures: dict[str, np.ndarray] = {}
  for name, hyper in (("ssd", {"alpha": 2.0}), ("finetune_retain", {}), ("graddiff", {})):
    made = engine.prepare(asked, mlp(stream), forget=name, forget_hyper=hyper, seeds=seeds, **shared)
    found = accuracies(made, made.run(start=engine.continued(made, trained)).learner)
    gaps[name] = 100 * metrics.average_gap(found, reference)
    figures |= {f"{name}: {side} accuracy": 100 * v for side, v in found._asdict().items()}
    figures[f"{name}: average gap"] = gaps[name]
  best = np.minimum(gaps["finetune_retain"], gaps["graddiff"])
  return Measured({"gap of the better trained method + 2 - gap of ssd": best + 2 - gaps["ssd"]}, figures)
