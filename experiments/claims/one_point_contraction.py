"""Forgetting at the logits leaves the class in the features; contraction and deep supervision leave less of it."""

from __future__ import annotations

import jax
import numpy as np

import cljax
from cljax import unlearning
from cljax.metrics.unlearning import feature_mapping_attack
from experiments.claims import Claim, Measured
from experiments.claims._retain import stream
from experiments.claims._runs import digits, mlp

CLAIM = Claim(
  methods=("one_point_contraction", "erase_at_the_core", "random_labels"),
  paper="arXiv 2507.07754, arXiv 2602.05375",
  sentence="After forgetting by the logits alone the class is recovered from the features without training; after "
  "one-point contraction and Erase at the Core less so.",
  protocol="Digits, all classes learned (MLP 64-100-100-10, SGD 0.05, batch 32, 10 epochs), then class 3 forgotten in "
  "400 steps at each method's defaults. Attack: a least-squares map (ridge 1e-4, standardised features) from the "
  "penultimate features back to the original's, fitted on the retained training rows alone, under the original head; "
  "its accuracy on the forgotten training rows, in points: of random labels minus that of the retrained model, of "
  "one-point contraction, and of Erase at the Core. A trial that stopped each method once the class was forgotten, "
  "after 10 to 100 steps, stopped contraction half way, and showed no difference; GradDiff, which at its defaults "
  "destroys this network as it forgets, was left out after it.",
)

STEPS = 400


def trained(on, seeds, **forget):
  """Parameters [S] after training, and after the stream's request where it has one."""
  training = cljax.Recipe(batch_size=32, epochs=10)
  options = {"optimizer_options": {"learning_rate": 0.05}, "training": training, "seeds": seeds}
  return cljax.run(on, mlp(on), **options, **forget).learner.params


def measure(seeds):
  on = digits("class", 1)
  model, split = mlp(on), on.dataset.train
  gone = split.y == 3
  sides = {"forget": (split.x[gone], split.y[gone]), "retain": (split.x[~gone], split.y[~gone])}
  original = trained(on, seeds)
  head = jax.tree.map(np.asarray, original["head"])

  def apply_fn(params, batch):
    return model.apply(params, {}, batch.x, train=False, key=None)[0]

  look = jax.jit(jax.vmap(lambda p: model.apply(p, {}, split.x, train=False, key=None)[0]))

  def after(call):
    return jax.jit(jax.vmap(lambda p: call(apply_fn, p, **sides, steps=STEPS)))(original)

  arms = {
    "random labels": after(unlearning.random_labels),
    "one-point contraction": after(unlearning.one_point_contraction),
    "Erase at the Core": after(unlearning.erase_at_the_core),
    "retrained": trained(stream(), seeds, forget="retrain"),
  }
  outputs = {name: jax.tree.map(np.asarray, look(params)) for name, params in {**arms, "original": original}.items()}

  def recovered(out, fit):
    """[S] accuracy in percent on the forgotten rows outside of ``fit``, by the map fitted on the rows of ``fit``."""
    rows, base = gone & ~fit, outputs["original"].features
    values = []
    for h, h_0, kernel, bias in zip(out.features, base, head["kernel"], head["bias"], strict=True):
      back = lambda v, kernel=kernel, bias=bias: v @ kernel + bias
      values.append(100 * feature_mapping_attack(h[fit], h_0[fit], back, h[rows], split.y[rows]))
    return np.array(values)

  half = ~gone | (np.cumsum(gone) % 2 == 0)
  got = {name: recovered(outputs[name], ~gone) for name in arms}
  figures = {}
  for name in arms:
    right = outputs[name].logits.argmax(-1) == split.y
    figures[f"{name}: retained accuracy"] = 100 * right[:, ~gone].mean(1)
    figures[f"{name}: forget accuracy"] = 100 * right[:, gone].mean(1)
    figures[f"{name}: recovered"] = got[name]
    figures[f"{name}: recovered, half the class in the fit"] = recovered(outputs[name], half)
  mine = got.pop("random labels")
  return Measured({f"recovered after random labels - {name}": mine - value for name, value in got.items()}, figures)
