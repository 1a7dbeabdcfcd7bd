"""A class of digits is forgotten; what brings it back from the features without training."""

from __future__ import annotations

import functools

import jax
import numpy as np

import cljax
from cljax import unlearning
from cljax.metrics.unlearning import feature_mapping_attack
from experiments.claims._retain import stream
from experiments.claims._runs import digits, mlp

PROTOCOL = (
  "Digits, all classes learned (MLP 64-100-100-10, SGD 0.05, batch 32, 10 epochs), then class 3 forgotten in 400 steps "
  "at each method's defaults. Attack: a least-squares map (ridge 1e-4, standardised features) from the penultimate "
  "features back to the original's, fitted on the retained training rows alone, under the original head; its accuracy "
  "on the forgotten training rows, in points: of random labels minus that of the retrained model, and of {}."
)
STEPS = 400


@functools.cache
def trained(seeds, **forget):
  """Parameters [S] after training, and after the request where there is one."""
  on = stream() if forget else digits("class", 1)
  training = cljax.Recipe(batch_size=32, epochs=10)
  options = {"optimizer_options": {"learning_rate": 0.05}, "training": training, "seeds": seeds}
  return cljax.run(on, mlp(on), **options, **forget).learner.params


@functools.cache
def recovered(seeds, name):
  """After forgetting by a pure call, or 'retrain': ``(effect, figures)``, [S] each, in percent."""
  on = digits("class", 1)
  model, split = mlp(on), on.dataset.train
  gone, x = split.y == 3, split.x.astype(np.float32) * on.dataset.scale  # what the engine's models see
  original = trained(seeds)
  head = jax.tree.map(np.asarray, original["head"])
  if name == "retrain":
    after = trained(seeds, forget="retrain")
  else:
    apply_fn = lambda params, batch: model.apply(params, {}, batch.x, train=False, key=None)[0]
    sides = {"forget": (x[gone], split.y[gone]), "retain": (x[~gone], split.y[~gone])}
    after = jax.jit(jax.vmap(lambda p: getattr(unlearning, name)(apply_fn, p, **sides, steps=STEPS)))(original)
  look = jax.jit(jax.vmap(lambda p: model.apply(p, {}, x, train=False, key=None)[0]))
  out, base = (jax.tree.map(np.asarray, look(p)) for p in (after, original))

  def attack(fit):
    """By the map fitted on the rows of ``fit``, on the forgotten rows outside of it."""
    rows, values = gone & ~fit, []
    for h, h_0, kernel, bias in zip(out.features, base.features, head["kernel"], head["bias"], strict=True):
      back = lambda v, kernel=kernel, bias=bias: v @ kernel + bias
      values.append(100 * feature_mapping_attack(h[fit], h_0[fit], back, h[rows], split.y[rows]))
    return np.array(values)

  right, value = out.logits.argmax(-1) == split.y, attack(~gone)
  return value, {
    f"{name}: retained accuracy": 100 * right[:, ~gone].mean(1),
    f"{name}: forget accuracy": 100 * right[:, gone].mean(1),
    f"{name}: recovered": value,
    f"{name}: recovered, half the class in the fit": attack(~gone | (np.cumsum(gone) % 2 == 0)),
  }


def beyond(seeds, *names):
  """``(effects, figures)``: what is recovered after random labels beyond what it is after each of the others."""
  mine, figures = recovered(seeds, "random_labels")
  effects = {}
  for name in names:
    value, more = recovered(seeds, name)
    effects[f"recovered after random labels - {name}"] = mine - value
    figures = {**figures, **more}
  return effects, figures
