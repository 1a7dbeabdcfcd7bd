"""Rows that were to be forgotten, found again from gradients: ``python -m experiments.gradient_inversion`` writes
``experiments/results/unlearning/gradient_inversion.md`` and a picture of what was found.

The digits of one class are forgotten by each edit at its defaults; a small CNN of tanh units without pooling, whose
first layer is a convolution; three seeds. The attacker is given the gradient that the edited model makes on one row,
under noise of a fixed size (``--noise``, its norm over all leaves), and looks for the row. *identified*: the share of
10 rows that are then the nearest of a pool of 100 digits (chance 1 %), of forgotten rows and of test rows of the class,
which no model saw; *gradient*: the norm of what is given. Retraining is **no floor** here: a row that was never seen is
found as well, since the gradient says what the row is, not that it was trained on. An edit below the others has made
the model blind to the class; look at relearning before calling that deep. One-point contraction, spec S7 of additions.

As found: no edit hides its rows. A model that knows a row well hardly has a gradient there, and is the hardest to read;
every edit that lowers the class makes the gradient larger and the rows easier to find, one-point contraction at its
defaults too, which the paper has resist.
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from absl import app, flags

from cljax import data, models, unlearning
from cljax.core import tree
from cljax.core.types import Outputs
from cljax.io import tables
from cljax.metrics import unlearning as evidence

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = pathlib.Path(__file__).parent / "results" / "unlearning"
CLASS, ROWS, POOL = 3, 10, 100
EDITS = ("nothing", "retrained", "finetune_retain", "gradient_ascent", "random_labels", "scrub", "ssd",
         "one_point_contraction")  # fmt: skip


def sides():
  """``{name: (x, y)}``: training rows of the class and of the others, and the test rows."""
  whole = data.load("digits")
  scale = whole.scale or 1.0
  (x, y), (u, v) = ((np.asarray(s.x, np.float32) * scale, np.asarray(s.y)) for s in (whole.train, whole.test))
  own = y == CLASS
  return {"forget": (x[own], y[own]), "retain": (x[~own], y[~own]), "test": (u, v)}


def network(widths=(8, 16)):
  """Two 3x3 convolutions, the second of stride 2, and a dense layer on all places."""
  one, two = widths
  shapes = {"one": (3, 3, 1, one), "two": (3, 3, one, two), "head": (16 * two, 10)}

  def init(key):
    draw = lambda name, shape: jax.nn.initializers.lecun_normal()(tree.fold(key, name), shape, jnp.float32)
    return {n: {"kernel": draw(n, shape), "bias": jnp.zeros(shape[-1])} for n, shape in shapes.items()}

  def apply(params, x):
    for name, stride in (("one", 1), ("two", 2)):
      x = jax.lax.conv_general_dilated(x, params[name]["kernel"], (stride,) * 2, "SAME",
                                       dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
      x = jnp.tanh(x + params[name]["bias"])
    features = x.reshape(len(x), -1)
    return Outputs(features @ params["head"]["kernel"] + params["head"]["bias"], features)

  return models.from_apply(init, apply)


def trained(model, key, x, y, steps: int = 1200):
  """SGD 0.1 with momentum 0.9 on batches of 64."""
  x, y = jnp.asarray(x), jnp.asarray(y)
  optimizer = optax.sgd(0.1, momentum=0.9)
  params = model.init(key)[0]

  def loss(p, a, b):
    logits = model.apply(p, {}, a, train=True, key=None)[0].logits
    return optax.softmax_cross_entropy_with_integer_labels(logits, b).mean()

  def step(carry, key):
    p, state = carry
    at = jax.random.randint(key, (64,), 0, len(y))
    updates, state = optimizer.update(jax.grad(loss)(p, x[at], y[at]), state)
    return (optax.apply_updates(p, updates), state), None

  keys = jax.random.split(jax.random.fold_in(key, 1), steps)
  return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


def edited(name: str, model, params, anew, rows, key):
  if name in ("nothing", "retrained"):
    return params if name == "nothing" else anew
  apply = lambda p, b: model.apply(p, {}, b.x, train=False, key=None)[0]
  each = lambda p, b: optax.softmax_cross_entropy_with_integer_labels(apply(p, b).logits, b.y)
  classes = jnp.arange(10) == CLASS
  forget, retain = rows["forget"], rows["retain"]
  if name == "finetune_retain":
    return unlearning.finetune_retain(each, params, retain=retain, key=key)
  if name == "gradient_ascent":
    return unlearning.gradient_ascent(each, params, forget=forget, key=key, classes=classes)
  if name == "ssd":
    return unlearning.ssd(each, params, forget=forget, retain=retain)
  more = {"classes": classes} if name == "random_labels" else {}
  return getattr(unlearning, name)(apply, params, forget=forget, retain=retain, key=key, **more)


def attacked(model, params, x, y, key, noise: float, steps: int):
  """``(found [N, ...], size [N])``."""

  def loss(p, row, label):
    logits = model.apply(p, {}, row[None], train=False, key=None)[0].logits
    return optax.softmax_cross_entropy_with_integer_labels(logits, label[None])[0]

  def one(given):
    key, row, label = given
    gradient = jax.grad(loss)(params, row, label)
    count = tree.size(gradient)
    drawn = tree.map_named(lambda n, g: jax.random.normal(tree.fold(key, n), g.shape), gradient)
    given = jax.tree.map(lambda g, d: g + noise * d / count**0.5, gradient, drawn)
    got = evidence.gradient_inversion(
      lambda p, r: loss(p, r, label), params, given, row, jax.random.fold_in(key, 1), steps=steps, restarts=2,
      smooth=1e-4,
    )  # fmt: skip
    return got.x, tree.norm(gradient)

  return jax.lax.map(one, (jax.random.split(key, len(x)), jnp.asarray(x), jnp.asarray(y)), batch_size=len(x))


def leaked(rows, name: str = "one_point_contraction") -> float:
  """The mean cosine of forgotten rows with what an MLP's first layer gives away after the edit, without a search."""
  model, key = models.mlp((8, 8, 1), 10, hidden=(32,)), jax.random.key(0)
  x, y = (np.concatenate([rows[s][i] for s in ("forget", "retain")]) for i in (0, 1))
  params = edited(name, model, trained(model, key, x, y), None, rows, key)

  def loss(p, row):
    logits = model.apply(p, {}, row[None], train=False, key=None)[0].logits
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray([CLASS]))[0]

  found = []
  for row in rows["forget"][0][:ROWS]:
    layer = jax.grad(loss)(params, jnp.asarray(row))["hidden_0"]
    found.append(np.asarray(evidence.dense_leak(layer["kernel"], layer["bias"])).reshape(row.shape))
  true = rows["forget"][0][:ROWS]
  return float(evidence.recovered(np.stack(found), true, true).cosine.mean())


def main(argv) -> None:
  del argv
  f, rows = flags.FLAGS, sides()
  model = network()
  u, v = rows["test"]
  mine, rest = np.flatnonzero(v == CLASS), np.flatnonzero(v != CLASS)
  targets = {"forgotten": rows["forget"][0][:ROWS], "unseen": u[mine[:ROWS]]}
  fill = u[rest[: POOL - 3 * ROWS]], rows["forget"][0][ROWS : 2 * ROWS]
  pool = np.concatenate([*targets.values(), *fill])
  x, y = (np.concatenate([rows[s][i] for s in ("forget", "retain")]) for i in (0, 1))

  @jax.jit
  def first(key):
    return trained(model, key, x, y), trained(model, jax.random.fold_in(key, 5), *rows["retain"])

  @jax.jit
  def second(params, key):
    answer = jnp.argmax(model.apply(params, {}, jnp.asarray(u), train=False, key=None)[0].logits, -1)
    label = np.full(ROWS, CLASS)
    got = {
      n: attacked(model, params, x, label, jax.random.fold_in(key, 3), f.noise, f.steps) for n, x in targets.items()
    }
    return got, jnp.mean((answer == v)[mine]), jnp.mean((answer == v)[rest])

  lines: dict = {}
  shown: dict = {}
  for name in EDITS:
    every = []
    for seed in range(f.seeds):
      key = jax.random.key(seed)
      before, anew = first(key)
      params = jax.jit(lambda p, q, name=name, key=key: edited(name, model, p, q, rows, key))(before, anew)
      got, own, others = jax.tree.map(np.asarray, second(params, key))
      scores = {n: evidence.recovered(got[n][0], x, pool) for n, x in targets.items()}
      one = scores["forgotten"]
      shares = [100 * scores[n].identified.mean() for n in targets]
      every.append([100 * own, 100 * others, *shares, one.cosine.mean(), one.psnr.mean(), got["forgotten"][1].mean()])
      shown.setdefault(name, got["forgotten"][0][:6, ..., 0])
    lines[name] = np.mean(every, 0)
    print(name, np.round(lines[name], 3), flush=True)
  head = (
    "edit",
    "test accuracy, class",
    "others",
    "identified: forgotten, %",
    "unseen, %",
    "cosine",
    "PSNR, dB",
    "gradient",
  )
  body = [
    [n, *(f"{x:.1f}" for x in row[:4]), f"{row[4]:.2f}", f"{row[5]:.1f}", f"{row[6]:.2g}"] for n, row in lines.items()
  ]
  about = (__doc__ or "").split("\n\n", 1)[1].strip()
  command = f"`python -m experiments.gradient_inversion --noise={f.noise:g} --seeds={f.seeds} --steps={f.steps}`"
  text = ["# Rows found again from gradients", "", command, "", about, "", *tables.markdown(head, body)]
  dense = (
    f"Of an MLP after one-point contraction the first layer's gradient alone gives the row: cosine {leaked(rows):.3f}."
  )
  text += ["", dense, "", "![six forgotten rows, and what was found of them](gradient_inversion.png)"]
  (OUT / "gradient_inversion.md").write_text("\n".join(text) + "\n")
  draw(targets["forgotten"][:6, ..., 0], shown, OUT / "gradient_inversion.png")


def draw(true, shown, file) -> None:
  names = ["true", *shown]
  figure, axes = plt.subplots(len(names), 6, figsize=(7, 1.05 * len(names)), layout="constrained")
  for name, line in zip(names, axes, strict=True):
    for i, axis in enumerate(line):
      axis.imshow((true if name == "true" else shown[name])[i], cmap="gray_r", vmin=0, vmax=1)
      axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center", fontsize=8)
  figure.savefig(file, dpi=110)


if __name__ == "__main__":
  flags.DEFINE_float("noise", 0.005, "Norm of the noise on a gradient.")
  flags.DEFINE_integer("seeds", 3, "Models of each.")
  flags.DEFINE_integer("steps", 400, "Of the attack.")
  app.run(main)
