"""Matching the retrained model's answers keeps the original's features, and a downstream set tells."""

from __future__ import annotations

from typing import Any

import numpy as np

import cljax
from cljax import engine, streams
from cljax.evaluation import downstream, evidence
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, mlp
from experiments.unlearn_downstream import LEARNED, ranked

COUNT = 2
CLAIM = Claim(
  methods=("random_labels",),
  paper="arXiv 2503.06991",
  sentence="Methods that forget by the logits keep the original model's features of the forgotten rows; forgetting the "
  "classes closest to a downstream set shows it there more than forgetting random ones.",
  protocol=f"The first {LEARNED} digits as one task (MLP 64-100-100-10, SGD 0.05, batch 32, 20 epochs), {COUNT} "
  "of them forgotten by random labels at the defaults; the other four digits are downstream. CKA of the forgotten "
  "rows' features to the original's, minus that of retrained models; and how much further the downstream features are "
  f"from the retrained ones' (1 - CKA, less that of other retrained models) for the {COUNT} closest classes than for "
  f"{COUNT} drawn at random; k-NN beside it, in percent.",
)


def measured(seeds, classes):
  """``({row: {metric: [S]}})`` of the original, other retrained models and random labels."""
  stream = digits("class", 1, classes_per_task=LEARNED)
  request, model = cljax.Forget(classes=classes), mlp(stream)
  rows = downstream.with_downstream(evidence.sides(stream, request), stream)
  given: dict[str, Any] = {
    "optimizer_options": {"learning_rate": 0.05}, "training": cljax.Recipe(batch_size=32, epochs=20),
    "options": cljax.Options(on_divergence="freeze"),
  }  # fmt: skip

  def answers(on, numbers, **forget):
    made = engine.prepare(on, model, "finetune", seeds=numbers, **forget, **given)
    return evidence.answers(made.setup, made.run().learner, rows)

  plain = list(range(seeds))
  without = evidence.without_rows(stream, streams.resolve_pairs(request, stream))
  original, asked = answers(stream, plain), stream._replace(events=(*stream.events, request))
  reference, others = (answers(without, [start + s for s in plain]) for start in (10_000, 20_000))
  found = {}
  for name, own in (
    ("original", original),
    ("retrained", others),
    ("random_labels", answers(asked, plain, forget="random_labels")),
  ):
    values = downstream.measure(own, reference, rows)
    values["to_original"] = downstream.measure(own, original, rows)["retrained_cka"]
    values["forget_accuracy"] = evidence.metrics.accuracy(own.logits["forget"], rows.y["forget"])
    found[name] = values
  return found


def measure(seeds):
  closest, _ = ranked(seeds)
  drawn = np.random.default_rng(0).permutation(LEARNED).tolist()
  arms = {n: measured(seeds, tuple(order[:COUNT])) for n, order in (("closest", closest), ("random", drawn))}
  gap = lambda of: of["retrained"]["downstream_cka"] - of["random_labels"]["downstream_cka"]
  kept = arms["closest"]["random_labels"]["to_original"] - arms["closest"]["retrained"]["to_original"]
  return Measured(
    {
      "CKA to the original: random labels - retrained": kept,
      "distance downstream, closest - random": gap(arms["closest"]) - gap(arms["random"]),
    },
    {
      f"{n}, {row}: {metric}": 100 * v
      for n, of in arms.items() for row, values in of.items() for metric, v in values.items()
    },
  )  # fmt: skip
