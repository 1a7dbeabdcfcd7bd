"""Certified removal: residuals far under their bounds, and the tight constant answers more requests by a step."""

import numpy as np

from experiments.claims import Claim, Measured

CLAIM = Claim(
  methods=("certified_removal",),
  paper="Guo et al. 2020",
  sentence="A Newton step removes a row from a convex head with a certificate, many times before retraining.",
  protocol="Digits 3 against 8 and the other classes, features of an untrained MLP 64-100, one head a class, strength "
  "0.001, sigma 10; 40 single rows removed in turn: log10 of the sum of bounds over the true residual, the number of "
  "removals that a budget of a fifth of the released sum pays under 1 / (6 sqrt 3) minus that under 1/4, and test "
  "accuracy after all removals minus that of heads trained anew with the same noise, plus one point.",
)


def measure(seeds):
  import jax
  import jax.numpy as jnp

  from cljax import data, models, unlearning

  digits = data.load("digits")
  model = models.mlp(digits.train.x.shape[1:], 10, hidden=(100,))
  fit, remove = jax.jit(unlearning.fit_head), jax.jit(unlearning.remove_rows, static_argnames=("loss", "constant"))
  grad = jax.jit(unlearning.head_gradient)
  effects: dict = {
    "log10 of bounds / residual - 1": [],
    "removals, tight - released": [],
    "accuracy, steps - anew + 1": [],
  }
  figures: dict = {"residual": [], "sum of bounds": [], "accuracy": []}
  for seed in range(seeds) if isinstance(seeds, int) else seeds:
    key = jax.random.key(seed)
    params, state = model.init(key)
    look = lambda x, p=params, s=state: unlearning.unit_features(
      model.apply(p, s, jnp.asarray(x, jnp.float32) * (digits.scale or 1.0), train=False, key=None)[0].features
    )
    x, test = look(digits.train.x), look(digits.test.x)
    t = 2.0 * jax.nn.one_hot(digits.train.y, 10).T - 1.0
    noise = 10.0 * jax.random.normal(jax.random.fold_in(key, 1), (10, x.shape[1]))
    fitted = fit(x, t, jnp.ones(len(x)), noise, 1e-3)
    head, weight, bounds = fitted.head, np.ones(len(x), np.float32), []
    for i in np.random.default_rng(seed).permutation(len(x))[:40]:
      step = remove(head, x, t, jnp.asarray(weight), jnp.arange(len(x)) == i, 1e-3)
      head = step.head
      bounds.append(np.asarray(step.residual))
      weight[i] = 0
    total = np.cumsum(bounds, 0).max(1)
    left = float(jnp.linalg.norm(grad(head, x, t, jnp.asarray(weight), noise, 1e-3), axis=1).max())
    released = total * 0.25 * 6 * np.sqrt(3)
    budget = released[-1] / 5
    anew = fit(x, t, jnp.asarray(weight), noise, 1e-3).head
    accuracy = lambda h, f=test: 100 * float((jnp.argmax(f @ h.T, 1) == digits.test.y).mean())
    effects["log10 of bounds / residual - 1"].append(np.log10(total[-1] / left) - 1)
    effects["removals, tight - released"].append(float((total <= budget).sum() - (released <= budget).sum()))
    effects["accuracy, steps - anew + 1"].append(accuracy(head) - accuracy(anew) + 1)
    for name, value in (("residual", left), ("sum of bounds", total[-1]), ("accuracy", accuracy(head))):
      figures[name].append(value)
  return Measured(*({k: np.asarray(v) for k, v in d.items()} for d in (effects, figures)))
