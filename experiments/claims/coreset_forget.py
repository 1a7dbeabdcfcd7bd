"""Edits over a tenth of the forget rows: of a class as over all of them; of random rows, the others stay."""

from typing import Any

import numpy as np

from experiments.claims import Claim, Measured

SHARE, STEPS = 0.1, 100
SELECTORS = ("random", "influence", "gradient", "margin")
CLAIM = Claim(
  methods=("coreset_forget",),
  paper="Pal et al. 2025",
  sentence="A small part of the forget set, even a random one, unlearns as the whole.",
  protocol="Digits in one task, MLP 64-100-100-10, SGD 0.05, batch 32, 20 epochs; graddiff (100 steps of 0.05 at batch "
  "64, its other defaults) over a tenth of the forget rows and over all of them, as many updates, for class 3 "
  "and for 150 random rows: for the class, 5 points minus the absolute gap in accuracy on all its test rows, "
  "selectors random and influence; for random rows, that the full edit raises the loss of the rows left out by "
  "more than the part does. A first measurement, without the edit's bound, diverged under the full edit too.",
)


def measure(seeds):
  import jax
  import jax.numpy as jnp
  import optax

  from cljax import data, losses, models, unlearning

  digits = data.load("digits")
  x, test_x = (jnp.asarray(s.x, jnp.float32) * (digits.scale or 1.0) for s in (digits.train, digits.test))
  y, test_y = jnp.asarray(digits.train.y), jnp.asarray(digits.test.y)
  model = models.mlp(x.shape[1:], 10, hidden=(100, 100))
  apply_fn = lambda params, batch: model.apply(params, {}, batch.x, train=False, key=None)[0]
  logits = lambda params, x: model.apply(params, {}, x, train=False, key=None)[0].logits
  each = jax.jit(lambda params, x, y: losses.cross_entropy(logits(params, x), y))

  @jax.jit
  def trained(key):
    params, tx = model.init(key)[0], optax.sgd(0.05)

    def step(carry, i):
      params, state = carry
      at = jax.random.randint(jax.random.fold_in(key, i), (32,), 0, len(x))
      grads = jax.grad(lambda p: losses.cross_entropy(logits(p, x[at]), y[at]).mean())(params)
      updates, state = tx.update(grads, state)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(20 * len(x) // 32))[0][0]

  def edited(params, key, away, gone, share, selector):
    forget, retain = ({"x": x, "y": y, "weight": w} for w in (away, 1 - away))
    core: Any = forget
    if selector:
      given = {"share": share, "selector": selector, "key": key}
      core = unlearning.coreset_rows(apply_fn, params, forget, retain, **given)
    loss_fn = lambda params, batch: losses.cross_entropy(logits(params, batch.x), batch.y)
    given = {"steps": STEPS, "optimizer": optax.sgd(0.05), "classes": gone}
    new = unlearning.graddiff(loss_fn, params, forget=core, retain=retain, key=key, **given)
    return new, (core.batch(0, len(x)).id if selector else jnp.arange(len(x))), (
      core.batch(0, len(x)).weight if selector else away
    )  # fmt: skip

  edit = jax.jit(edited, static_argnames=("selector",))
  right = lambda params, at: 100 * float((logits(params, test_x[at]).argmax(-1) == test_y[at]).mean())
  effects: dict[str, list] = {}
  figures: dict[str, list] = {}
  for seed in range(seeds) if isinstance(seeds, int) else seeds:
    key = jax.random.key(seed)
    params = trained(key)
    of_class = np.asarray(test_y == 3)
    asked = {"class": (y == 3).astype(jnp.float32), "rows": jnp.zeros(len(x)).at[
      np.random.default_rng(seed).choice(len(x), 150, replace=False)].set(1.0)}  # fmt: skip
    for what, away in asked.items():
      gone = jnp.arange(10) == (3 if what == "class" else -1)
      full = edit(params, key, away, gone, SHARE, "")[0]
      for selector in SELECTORS:
        part, ids, kept = edit(params, key, away, gone, SHARE, selector)
        chosen = np.zeros(len(x), bool)
        chosen[np.asarray(ids)[np.asarray(kept) > 0]] = True
        out = np.flatnonzero((np.asarray(away) > 0) & ~chosen)
        rise = lambda p, out=out, old=params: float(each(p, x[out], y[out]).mean() - each(old, x[out], y[out]).mean())
        name = f"{what}, {selector}"
        if what == "class":
          gap = right(part, of_class) - right(full, of_class)
          figures.setdefault(f"gap on the class, {selector}", []).append(gap)
          figures.setdefault(f"gap elsewhere, {selector}", []).append(right(part, ~of_class) - right(full, ~of_class))
          if selector in ("random", "influence"):
            effects.setdefault(f"5 points - absolute gap, {selector}", []).append(5 - abs(gap))
        else:
          figures.setdefault(f"rise of the loss on rows left out, full edit, beside {selector}", []).append(rise(full))
          figures.setdefault(f"rise of the loss on rows left out, {selector}", []).append(rise(part))
          if selector == "random":
            effects.setdefault("rise on random rows left out: full - part", []).append(rise(full) - rise(part))
        figures.setdefault(f"retain loss, {name}", []).append(
          float(each(part, x[np.asarray(away) == 0], y[np.asarray(away) == 0]).mean())
        )
  return Measured(*({k: np.asarray(v) for k, v in d.items()} for d in (effects, figures)))
