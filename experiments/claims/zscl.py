"""A network that distils its first self from the rows it learns keeps what it could do beside them."""

from __future__ import annotations

import functools

import jax
import numpy as np

from cljax import data, models
from experiments.claims import Claim, Measured
from experiments.claims._pretrained import UPSTREAM, _with, downstream, rows
from experiments.claims._runs import percent, train

CLAIM = Claim(
  methods=("zscl", "finetune"),
  paper="Zheng et al. 2023",
  sentence="Feature-space distillation against the frozen original, weight consolidation and a weight ensemble keep "
  "what a pre-trained network could do without training while it learns other tasks.",
  protocol="ViT 8x8, patches of 2, 32 wide, 4 blocks, which has learned digits 6 to 9 with its classifier (Adam 0.001, "
  "20 epochs); then digits 0 to 5 in three tasks of two classes, 5 epochs in batches of 32, Adam 0.001; zscl with the "
  "step's own rows as reference, weights 1, temperature 2, a snapshot every 10 steps. Accuracy on test rows of digits "
  "6 to 9, among these four, behind the last task, of zscl minus that of finetune, in points.",
  seeds=5,
)


@functools.cache
def _network():
  model = models.vit((8, 8, 1), downstream().num_classes, patch=2, width=32, depth=4, heads=4)
  learned = train(rows([UPSTREAM]), "finetune", 1, model=model, optimizer="adam", learning_rate=1e-3, epochs=20)
  return _with(model, {k: jax.tree.map(lambda a: np.asarray(a)[0], v) for k, v in learned.learner.params.items()})


def _kept(model, params) -> np.ndarray:
  """[S] accuracy in percent on the first digits, among them, which the stream does not have."""
  whole = data.load("digits")
  there = np.isin(whole.test.y, UPSTREAM)
  x, y = np.float32(whole.test.x[there]) * (whole.scale or 1.0), whole.test.y[there]
  state = model.init(jax.random.key(0))[1]
  answer = jax.jit(lambda p: model.apply(p, state, x, train=False, key=None)[0].logits)
  found = [answer(jax.tree.map(lambda a, s=s: a[s], params)) for s in range(len(jax.tree.leaves(params)[0]))]
  places = np.asarray(UPSTREAM)
  return np.asarray([100 * np.mean(places[np.asarray(z)[:, places].argmax(-1)] == y) for z in found])


def measure(seeds):
  how = {"epochs": 5, "optimizer": "adam", "learning_rate": 1e-3, "model": _network()}
  runs = {"zscl": train(downstream(), "zscl", seeds, every=10, **how)}
  runs["finetune"] = train(downstream(), "finetune", seeds, **how)
  kept = {n: _kept(how["model"], r.learner.params) for n, r in runs.items()}
  figures = {f"{n} on digits 6 to 9": k for n, k in kept.items()}
  figures |= {f"{n} accuracy": percent(r) for n, r in runs.items()}
  return Measured({"kept by zscl - finetune": kept["zscl"] - kept["finetune"]}, figures)
