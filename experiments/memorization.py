"""Which rows are memorised, what it costs not to, and which rows are hard to forget: ``python -m
experiments.memorization`` writes ``experiments/results/memorization/`` (README.md, memorization.json, and a picture).

Three parts, after Feldman (2020) and Feldman and Zhang (2020), spec S6 of additions:

*rows*: 500 digits, of which 5 % have a wrong label; an MLP 64-64-10 on each of ``--models`` random halves; memorisation
of each row with its error, and how many of the wrong labels are in the top tenth.
*tail*: Gaussian clusters with a label each, 200 drawn by Zipf's law or 20 uniformly; accuracy on clusters that were
seen at most twice, and on the others, of plain training, weight decay, early stopping, clipped noisy gradients, and of
leaving rows out that stand alone.
*requests*: tenths of the rows by memorisation (top, middle, bottom) are to be forgotten; for each edit, at its
defaults, and for doing nothing, how far accuracy on these rows is from that of training anew without them.
"""

from __future__ import annotations

import json
import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from absl import app, flags

from cljax import data, metrics, models, unlearning
from cljax.io import tables

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = pathlib.Path(__file__).parent / "results" / "memorization"
ROWS, WRONG, EPOCHS, BATCH = 500, 0.05, 40, 50
EDITS = ("nothing", "finetune_retain", "gradient_ascent", "random_labels", "scrub", "ssd", "one_point_contraction")


def digits(seed: int = 0):
  """``(x, y, wrong)`` of ROWS training digits, WRONG of which have another label; and the test rows."""
  whole, rng = data.load("digits"), np.random.default_rng(seed)
  at = rng.choice(len(whole.train.y), ROWS, replace=False)
  x, y = np.asarray(whole.train.x, np.float32)[at] / 16, np.asarray(whole.train.y, np.int32)[at]
  wrong = np.zeros(ROWS, bool)
  wrong[rng.choice(ROWS, int(WRONG * ROWS), replace=False)] = True
  y[wrong] = (y[wrong] + rng.integers(1, 10, wrong.sum())) % 10
  return (x, y, wrong), (np.float32(whole.test.x) / 16, np.int32(whole.test.y))


def trainer(x, y, classes: int, hidden=(64,), epochs: int = EPOCHS, decay=0.0, clip=0.0, noise=0.0):
  """``(key, included [N]) -> params``: SGD 0.1 with momentum 0.9 on the rows that are included, jitted.

  ``clip`` and ``noise``: each row's gradient is cut to that norm, and noise of so many times it is added to the sum.
  """
  model, (x, y) = models.mlp(x.shape[1:], classes, hidden=hidden), (jnp.asarray(x), jnp.asarray(y))
  optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(0.1, momentum=0.9))
  steps = len(y) // BATCH

  def loss(params, x, y, weight):
    logits = model.apply(params, {}, x, train=True, key=None)[0].logits
    each = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.sum(each * weight) / jnp.maximum(weight.sum(), 1)

  def gradient(key, params, x, y, weight):
    if not clip:
      return jax.grad(loss)(params, x, y, weight)
    each = jax.vmap(lambda a, b, w: jax.grad(loss)(params, a[None], b[None], w[None]))(x, y, weight)
    size = jax.vmap(optax.global_norm)(each)
    each = jax.tree.map(lambda g: jnp.tensordot(jnp.minimum(1, clip / jnp.maximum(size, 1e-12)), g, 1), each)
    leaves, form = jax.tree.flatten(each)
    keys = jax.random.split(key, len(leaves))
    drawn = [clip * noise * jax.random.normal(k, g.shape) for k, g in zip(keys, leaves, strict=True)]
    count = jnp.maximum(weight.sum(), 1)
    return jax.tree.unflatten(form, [(g + d) / count for g, d in zip(leaves, drawn, strict=True)])

  def train(key, included):
    start = model.init(jax.random.fold_in(key, 0))[0]

    def step(carry, at):
      params, state, key = carry
      key, own = jax.random.split(key)
      updates, state = optimizer.update(gradient(own, params, x[at], y[at], included[at]), state, params)
      return (optax.apply_updates(params, updates), state, key), None

    orders = jax.vmap(lambda k: jax.random.permutation(k, len(y))[: steps * BATCH].reshape(steps, BATCH))
    places = orders(jax.random.split(jax.random.fold_in(key, 1), epochs)).reshape(-1, BATCH)
    return jax.lax.scan(step, (start, optimizer.init(start), jax.random.fold_in(key, 2)), places)[0][0]

  return model, train


def answers(model, params, x):
  return jnp.argmax(model.apply(params, {}, jnp.asarray(x), train=False, key=None)[0].logits, -1)


def bank(x, y, others, included, classes: int = 10, **options):
  """``(right [R, N], right on others [R, M])`` of a model for each row of ``included [R, N]``."""
  model, train = trainer(x, y, classes, **options)

  def one(given):
    key, mask = given
    params = train(key, mask)
    return tuple(answers(model, params, a) == jnp.asarray(b) for a, b in ((x, y), others))

  keys = jax.random.split(jax.random.key(7), len(included))
  batched = jax.jit(lambda k, m: jax.lax.map(one, (k, m), batch_size=20))
  return jax.tree.map(np.asarray, batched(keys, jnp.asarray(included, jnp.float32)))


def halves(count: int, rows: int, seed: int = 1):
  rng = np.random.default_rng(seed)
  return np.stack([rng.permutation(rows) < rows // 2 for _ in range(count)])


def of_rows(count: int):
  (x, y, wrong), others = digits()
  included = halves(count, ROWS)
  right, tested = bank(x, y, others, included)
  on_others = metrics.influence(included, tested).value
  found = metrics.memorisation(included, right)
  order = np.argsort(-found.value, kind="stable")
  top = order[: ROWS // 10]
  return found, order, {
    "models": count,
    "error at most": float(found.error.max()),
    "memorisation of wrong labels": float(found.value[wrong].mean()),
    "of right labels": float(found.value[~wrong].mean()),
    "wrong labels in the top tenth": float(wrong[top].sum() / wrong.sum()),
    "rows above 0.5": float((found.value > 0.5).mean()),
    "test rows that one row moves by 0.25": float((np.abs(on_others) > 0.25).any(1).mean()),
  }  # fmt: skip


def clusters(law: str, seed: int, rows: int = 600, classes: int = 10, width: int = 20):
  """Training rows of Gaussian clusters drawn by ``law``, and 5 test rows of each; a cluster has a label by lot."""
  rng, kinds = np.random.default_rng(seed), KINDS[law]
  centre, label = rng.normal(size=(kinds, width)), rng.integers(0, classes, kinds)
  share = 1 / np.arange(1, kinds + 1) if law == "zipf" else np.ones(kinds)
  share = share / share.sum()
  kind = rng.choice(kinds, rows, p=share)
  near = lambda k: np.float32(centre[k] + 0.15 * rng.normal(size=(len(k), width)))
  test = np.repeat(np.arange(kinds), 5)
  return (near(kind), np.int32(label[kind]), kind), (near(test), np.int32(label[test]), test), share


KINDS = {"zipf": 200, "uniform": 20}
ARMS: dict[str, dict] = {
  "plain": {},
  "weight decay 0.01": {"decay": 0.01},
  "early stopping, 5 epochs": {"epochs": 5},
  "clipped, noise 1": {"clip": 1.0, "noise": 1.0},
  "without rows that stand alone": {"alone": False},
}


def of_tail(seeds: int):
  lines = []
  for law in ("zipf", "uniform"):
    for arm, options in ARMS.items():
      found = []
      for seed in range(seeds):
        (x, y, kind), test, share = clusters(law, seed)
        counts = np.bincount(kind, minlength=len(share))
        kept = np.ones(len(y), bool) if options.get("alone", True) else counts[kind] > 1
        given = {k: v for k, v in options.items() if k != "alone"}
        _, right = bank(x, y, test[:2], kept[None], hidden=(128,), **given)
        by_kind = right[0].reshape(len(share), -1).mean(1)
        rare = (counts > 0) & (counts <= 2)
        # Weighed as they come: what a fresh draw would be answered.
        once = metrics.singleton_mass(counts)
        found.append(
          [by_kind[rare].mean() if rare.any() else np.nan, by_kind[counts > 2].mean(), by_kind @ share, once]
        )
      mean, spread = 100 * np.mean(found, 0), 100 * np.std(found, 0, ddof=1) / np.sqrt(seeds)
      means = {"rare": mean[0], "often": mean[1], "all": mean[2], "all, error": spread[2], "seen once": mean[3]}
      lines.append({"law": law, "arm": arm, **{k: float(v) for k, v in means.items() if np.isfinite(v)}})
  return lines


def edited(name: str, model, params, forget, retain, key):
  if name == "nothing":
    return params
  apply = lambda p, b: model.apply(p, {}, b.x, train=False, key=None)[0]
  loss = lambda p, b: optax.softmax_cross_entropy_with_integer_labels(apply(p, b).logits, b.y)
  both = {"forget": forget, "retain": retain}
  if name == "finetune_retain":
    return unlearning.finetune_retain(loss, params, retain=retain, key=key)
  if name == "gradient_ascent":
    return unlearning.gradient_ascent(loss, params, forget=forget, key=key, classes=jnp.zeros(10, bool))
  if name == "ssd":
    return unlearning.ssd(loss, params, **both)
  return getattr(unlearning, name)(apply, params, **both, key=key)


def of_requests(order, seeds: int):
  """Accuracy on the rows to be forgotten: of each edit, and of training anew without them, by tenth."""
  (x, y, _), _ = digits()
  model, train = trainer(x, y, 10)
  size, keys, lines = ROWS // 10, jax.random.split(jax.random.key(3), seeds), []
  middle = ROWS // 2 - size // 2
  tenths = {"top": order[:size], "middle": order[middle : middle + size], "bottom": order[-size:]}
  for tenth, gone in tenths.items():
    kept = np.setdiff1d(np.arange(ROWS), gone)
    forget, retain = (x[gone], y[gone]), (x[kept], y[kept])
    mask = jnp.asarray(np.isin(np.arange(ROWS), kept), jnp.float32)

    def one(key, forget=forget, retain=retain, mask=mask):
      share = lambda params: jnp.mean(answers(model, params, forget[0]) == forget[1])
      before = train(key, jnp.ones(ROWS))
      after = {name: share(edited(name, model, before, forget, retain, key)) for name in EDITS}
      return share(train(jax.random.fold_in(key, 9), mask)), after

    anew, after = jax.tree.map(np.asarray, jax.jit(lambda keys, one=one: jax.lax.map(one, keys))(keys))
    for name in EDITS:
      gap = 100 * (after[name].mean() - anew.mean())
      error = 100 * np.hypot(after[name].std(ddof=1), anew.std(ddof=1)) / np.sqrt(seeds)
      means = {"after": 100 * after[name].mean(), "anew": 100 * anew.mean(), "gap": gap, "error": error}
      lines.append({"tenth": tenth, "edit": name, **{k: float(v) for k, v in means.items()}})
  return lines


def draw(found, order, requests, file) -> None:
  figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
  left.fill_between(range(ROWS), (found.value - found.error)[order], (found.value + found.error)[order], alpha=0.3)
  left.plot(found.value[order])
  left.set(xlabel="rows, most memorised first", ylabel="memorisation", title="memorisation of 500 digits, ± its error")
  for i, name in enumerate(EDITS):
    mine = [line for line in requests if line["edit"] == name]
    at, gaps, errors = np.arange(3) + 0.08 * (i - 3), [m["gap"] for m in mine], [m["error"] for m in mine]
    right.errorbar(at, gaps, errors, fmt="o", label=name.replace("_", " "), capsize=2)
  right.axhline(0, color="black", linewidth=0.8)
  right.set_xticks(range(3), ["top tenth", "middle", "bottom tenth"])
  right.set(ylabel="points above training anew", title="accuracy on the rows to be forgotten")
  right.legend(fontsize=8)
  figure.savefig(file, dpi=110)


def main(argv) -> None:
  del argv
  found, order, rows = of_rows(flags.FLAGS.models)
  tail = of_tail(flags.FLAGS.seeds)
  requests = of_requests(order, 4 * flags.FLAGS.seeds)
  OUT.mkdir(parents=True, exist_ok=True)
  content = {"rows": rows, "tail": tail, "requests": requests}
  (OUT / "memorization.json").write_text(json.dumps(content, indent=1) + "\n")
  draw(found, order, requests, OUT / "memorization.png")
  show = lambda v: v if isinstance(v, str) else f"{v:.1f}"
  cells = lambda lines: [[show(line.get(k, "-")) for k in lines[0]] for line in lines]
  about = (__doc__ or "").split("\n\n", 1)[1].strip()
  text = ["# Which rows are memorised, and which are hard to forget", "", "`python -m experiments.memorization`", ""]
  text += [about, "", "## Rows", "", *tables.markdown(list(rows), [[f"{v:.3g}" for v in rows.values()]])]
  text += ["", "## Tail", "", "Percent right; *all*: clusters weighed as they come; *seen once*: 2 N2 / n.", ""]
  text += tables.markdown(list(tail[0]), cells(tail))
  text += ["", "## Requests", "", "Percent right on the rows to be forgotten; gap, with its error, in points.", ""]
  text += tables.markdown(list(requests[0]), cells(requests))
  text += ["", "![memorisation by row, and gaps to training anew](memorization.png)"]
  (OUT / "README.md").write_text("\n".join(text) + "\n")
  print("\n".join(text))


if __name__ == "__main__":
  flags.DEFINE_integer("models", 300, "Models of the bank.")
  flags.DEFINE_integer("seeds", 5, "Draws of clusters; four times as many models answer a request.")
  app.run(main)
