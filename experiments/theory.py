"""Theory against measurement: ``python -m experiments.theory --out=DIR [--only=rotation,...]`` draws the figures.

Lines are closed forms, points with bars are means of exact experiments and their standard errors (where there is no
bar, it is smaller than the point). All numbers go into ``theory.json``. The measurements are the public functions of
``cljax.theory``, ``cljax.projectors`` and ``cljax.metrics``; here they are only run and drawn.
"""

from __future__ import annotations

import json
import pathlib
import platform
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax.flatten_util import ravel_pytree

from cljax import data, metrics, models, projectors, streams, theory
from cljax.core import tree
from experiments._theory_ideal import factorisation, rehearsal, summary


def rotation(size: int = 96, draws: int = 24) -> dict:
  """Forgetting of two tasks over the square of (share turned, over-parameterisation)."""
  step = size // 12
  pairs = np.asarray([(m, d) for m in range(0, size + 1, step) for d in range(step, size + 1, step)])
  keys = jax.random.split(jax.random.key(0), (len(pairs), draws))

  def point(args):
    keys, (turned, rank) = args
    return jax.vmap(lambda key: theory.rotation_draw(key, size, rank, turned))(keys)

  values = jax.jit(lambda keys, pairs: jax.lax.map(point, (keys, pairs)))(keys, jnp.asarray(pairs))
  turned, slack = pairs[:, 0] / size, 1 - pairs[:, 1] / size
  out = {"size": size, "turned": turned, "slack": slack, "theory": theory.rotation_forgetting(turned, slack)}
  return {**out, "measured": summary(values)}


def linear(features: int = 60, noise: float = 0.5, draws: int = 2000) -> dict:
  """Forgetting and generalisation against the rows of each task, for several numbers of tasks."""
  rows = np.asarray([2, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50])
  fine = np.linspace(1, 50, 99)
  base = np.random.default_rng(0).normal(size=(9, features)) / np.sqrt(features)
  out: dict[str, Any] = {"features": features, "noise": noise, "rows": rows, "fine": fine, "tasks": {}}
  for tasks in (2, 4, 8):
    teachers = jnp.asarray(base[0] + base[1 : tasks + 1], jnp.float32)
    keys = jax.random.split(jax.random.key(tasks), draws)
    point = lambda n, w=teachers, k=keys: jax.vmap(lambda key: theory.draw_errors(key, w, n, noise, 50))(k)
    got = jax.jit(lambda rows, point=point: jax.lax.map(point, rows))(jnp.asarray(rows))
    line = jax.vmap(lambda n, w=teachers: theory.expected_errors(w, n, noise))(jnp.asarray(fine))
    at = jax.vmap(lambda n, w=teachers: theory.expected_errors(w, n, noise))(jnp.asarray(rows, jnp.float32))
    out["tasks"][tasks] = {
      name: {"measured": summary(getattr(got, name)), "theory": getattr(at, name), "line": getattr(line, name)}
      for name in ("forgetting", "generalisation")
    }
  return out


def digits_pair(seed: int, classes, rows: int = 20):
  """``rows`` digits of two classes, ``x [rows, 8, 8, 1]`` in [0, 1] and ``y [rows, 1]`` of -1 and 1."""
  split = data.load("digits").train
  rng = np.random.default_rng([seed, *classes])
  index = np.concatenate([rng.choice(np.flatnonzero(split.y == c), rows // 2, replace=False) for c in classes])
  return pixels(split.x[index]), jnp.asarray(np.where(split.y[index] == classes[0], 1.0, -1.0)[:, None], jnp.float32)


def pixels(x):
  return jnp.asarray(np.asarray(x) * data.load("digits").scale, jnp.float32)


def overlap(width: int = 512, seeds: int = 5, steps: int = 1500) -> dict:
  """Forgetting of digits 0 and 1 from learning 2 and 3 under PCA-OGD, by the number of directions kept.

  The identity of the NTK overlap; the model linearised at its start, by descent; and the network itself, by the same
  descent on its own gradients. All with the same ridge, towards the weights after the first task.
  """
  model = models.mlp((8, 8, 1), 1, hidden=(width,), activation="tanh")
  kept = [0, 2, 4, 8, 14, 20]

  def one(seed, xs, ys, xt, yt):
    start, state = model.init(jax.random.key(seed))
    output = lambda w, x: model.apply(w, state, x, train=False, key=jax.random.key(0))[0].logits
    origin = [output(start, x) for x in (xs, xt)]
    flat, unravel = ravel_pytree(start)
    phi = lambda x: jax.jacrev(lambda v: output(unravel(v), x)[:, 0])(flat)
    fs, ft = phi(xs), phi(xt)
    top = jnp.linalg.norm(jnp.concatenate([fs, ft]), 2) ** 2
    ridge = 0.01 * top
    # After the first task, of the linearised model: by the same ridge regression, from the start.
    ws = fs.T @ jnp.linalg.solve(fs @ fs.T + ridge * jnp.eye(len(xs)), ys - origin[0])
    ogd = projectors.pca_ogd(len(xs))
    stack = jax.vmap(unravel)(fs)
    basis = projectors.pca_ogd_extend(ogd.init(start), stack, len(xs))

    def descend(gradient, at, basis):
      """Steps along ``-gradient(w) - ridge (w - at)``, projected as OGD does."""
      chain = optax.chain(ogd, optax.scale(-1.0 / (top + ridge)))

      def step(carry, _):
        w, state = carry
        pull = tree.axpy(ridge, jax.tree.map(jnp.subtract, w, at), gradient(w))
        updates, state = chain.update(pull, state, w)
        return (optax.apply_updates(w, updates), state), None

      return jax.lax.scan(step, (at, (basis, optax.EmptyState())), None, length=steps)[0][0]

    network = lambda x, y: jax.grad(lambda w: 0.5 * jnp.sum((output(w, x) - y) ** 2))
    line = lambda f, y: lambda w: unravel(f.T @ (f @ ravel_pytree(w)[0][:, None] - y)[:, 0])
    own = descend(network(xs, ys), start, ogd.init(start))
    after = unravel(ws[:, 0])
    rest = yt - origin[1] - ft @ ws

    def with_kept(count):
      mask = lambda b: b * (jnp.arange(len(xs)) < count).reshape(-1, *(1,) * (b.ndim - 1))
      part = basis._replace(basis=jax.tree.map(mask, basis.basis))
      rows = jax.vmap(lambda b: ravel_pytree(b)[0])(part.basis)
      left = ft - (ft @ rows.T) @ rows
      moved = descend(line(ft, yt - origin[1]), after, part)
      change = fs @ (ravel_pytree(tree.axpy(-1.0, after, moved))[0])
      end = descend(network(xt, yt), own, part)
      real = output(end, xs) - output(own, xs)
      return theory.ntk_forgetting(fs, left, rest, ridge), jnp.sum(change**2), jnp.sum(real**2)

    values = jax.lax.map(with_kept, jnp.asarray(kept))
    cosines = jnp.linalg.svd(theory.ntk_overlap(fs, ft), compute_uv=False)
    return {**dict(zip(("theory", "linearised", "network"), values, strict=True)), "cosines": cosines}

  runs = []
  run = jax.jit(one)
  for seed in range(seeds):
    runs.append(run(seed, *digits_pair(seed, (0, 1)), *digits_pair(seed, (2, 3))))
  stacked = {k: np.stack([np.asarray(r[k], np.float64) for r in runs], -1) for k in runs[0]}
  worst = np.abs(stacked["linearised"] - stacked["theory"]).max() / stacked["theory"].max()
  return {"kept": kept, "width": width, "rows": 20, "worst_relative_gap": worst} | {
    k: summary(v) for k, v in stacked.items()
  }


def ideal(features: int = 60, rows: int = 10, tasks: int = 8, draws: int = 200) -> dict:
  """One teacher, tasks of Gaussian inputs without noise: the ideal continual learner against plain minimum norm.

  Distance to the teacher, of 1 at the start: ``max(0, 1 - t n / p)`` (the learner projects on what no task has seen)
  and ``(1 - n/p)^t``. And the loss on the first task's rows, which the ideal learner never changes; for minimum norm
  ``l_t = (A + B) l_{t-1} + B p (1 - n/p)^(t-1)`` from ``l_1 = 0``, where ``E[Q M Q] = (A + B) M + B tr(M) I`` for a
  random projection Q of rank ``k = p - n``: ``B = k (p - k) / (p (p - 1)(p + 2))``, ``A = (k^2 - 2 p B) / p^2``.
  """
  teacher = jnp.zeros(features).at[0].set(1.0)

  def one(key):
    x = jax.random.normal(key, (tasks, rows, features))
    y = x @ teacher

    def task(carry, now):
      state, plain = carry
      state = theory.ideal_learn(state, now[0], now[1][:, None], tolerance=1e-4)
      plain = theory.learn(plain, *now)
      distance = jnp.stack([jnp.sum((w - teacher) ** 2) for w in (state.weights[:, 0], plain)])
      first = jnp.stack([jnp.mean((x[0] @ w - y[0]) ** 2) for w in (state.weights[:, 0], plain)])
      return (state, plain), (distance, first, state.rank)

    start = (theory.ideal_init(jnp.zeros((features, 1))), jnp.zeros(features))
    return jax.lax.scan(task, start, (x, y))[1]

  keys = jax.random.split(jax.random.key(0), draws)
  distance, first, rank = jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
  t = np.arange(1, tasks + 1)
  p, k = features, features - rows
  B = k * (p - k) / (p * (p - 1) * (p + 2))
  A = (k**2 - 2 * p * B) / p**2
  loss = [0.0]
  for i in t[:-1]:
    loss.append((A + B) * loss[-1] + B * p * (1 - rows / p) ** i)
  return {
    "features": features, "rows": rows,
    "theory_loss": {"ideal": np.zeros(tasks), "plain": np.asarray(loss)},
    "tasks": t, "rank": np.asarray(rank).mean(0),
    "theory": {"ideal": np.maximum(0, 1 - t * rows / features), "plain": (1 - rows / features) ** t},
    "distance": {name: summary(distance[:, :, i], 0) for i, name in enumerate(("ideal", "plain"))},
    "first_task_loss": {name: summary(first[:, :, i], 0) for i, name in enumerate(("ideal", "plain"))},
  }  # fmt: skip


def synthetic_law(repeats: int = 30, noise: float = 0.02) -> dict:
  """A known law with noise on a grid of (P, N), fitted again and again: the constants found, and the true ones."""
  truth = metrics.ScalingLaw(2.5, 0.4 * 1e3**0.3, 0.5 * 10**0.5, 0.3, 0.5, 1.0)
  P, N = (v.ravel() for v in np.meshgrid([1e3, 3e3, 1e4, 1e5, 1e6], [10.0, 30, 100, 1000, 5000]))
  rng = np.random.default_rng(0)
  noisy = lambda: truth(P, N) + noise * rng.normal(size=len(P))
  fits = np.asarray([metrics.fit_scaling_law(P, N, noisy()) for _ in range(repeats)])
  found: dict[str, Any] = {
    k: {**summary(fits[:, i]), "deviation": fits[:, i].std(ddof=1)} for i, k in enumerate(truth._fields)
  }
  found["fits"] = fits[:, [3, 4]]  # alpha and beta
  sample = noisy()
  return {"truth": truth._asdict(), "found": found, "noise": noise, "P": P, "N": N, "sample": sample,
          "fit": metrics.fit_scaling_law(P, N, sample)._asdict()}  # fmt: skip


def fit(key, params, logits, x, y, rate: float, chunks: int, length: int, record):
  """Adam at ``rate`` on batches of 32 for ``chunks`` of ``length`` steps: parameters, ``record`` after each chunk."""
  tx = optax.adam(rate)
  rows = jax.random.randint(key, (chunks, length, 32), 0, len(x))

  def step(carry, rows):
    params, state = carry
    loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(logits(p, x[rows]), y[rows]).mean()
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  def chunk(carry, rows):
    carry, _ = jax.lax.scan(step, carry, rows)
    return carry, record(carry[0])

  (params, _), records = jax.lax.scan(chunk, (params, tx.init(params)), rows)
  return params, records


def real_runs(angle: float, rate: float, base_steps: int, ranks=(1, 2, 4, 8, 16), seeds: int = 5, steps: int = 512):
  """A trained MLP on upright digits, fine-tuned by low-rank updates of its kernels on digits turned by ``angle``.

  Forgetting is the cross-entropy of the fine-tuned model against the base model's own predictions on upright test
  digits, the fine-tuning loss that on turned test digits; both after 8, 16, 32, ... steps, for every rank.
  """
  digits = data.load("digits")
  x, test = pixels(digits.train.x), pixels(digits.test.x)
  y, labels = jnp.asarray(digits.train.y), jnp.asarray(digits.test.y)
  view = streams.build(digits, "rotated", tasks=2, angles=(0.0, angle)).view
  turned, test_turned = (view.apply(view.tables, rows, jnp.ones(len(rows), jnp.int32)) for rows in (x, test))
  model = models.mlp((8, 8, 1), 10, hidden=(100, 100))
  saved = np.asarray([2**k for k in range(3, 10) if 2**k <= steps])
  logits = lambda p, x: model.apply(p, {}, x, train=False, key=jax.random.key(0))[0].logits
  is_kernel = lambda path: path[-1].key == "kernel"

  def base(seed):
    key = jax.random.key(seed)
    return fit(tree.fold(key, "base"), model.init(key)[0], logits, x, y, 1e-3, 1, base_steps, lambda p: 0)[0]

  def tune(args, rank):
    seed, base = args
    key = tree.fold(jax.random.key(seed), "tune")
    teacher = jax.nn.softmax(logits(base, test))

    def start(path, w):
      if not is_kernel(path):
        return ()
      normal = jax.random.normal(tree.fold(key, tree.path_name(path)), (w.shape[0], rank)) / np.sqrt(w.shape[0])
      return normal, jnp.zeros((rank, w.shape[1]))

    def tuned(adapters, x):
      moved = lambda w, pair: w + pair[0] @ pair[1] if pair else w
      return logits(jax.tree.map(moved, base, adapters), x)

    def record(adapters):
      forgotten = optax.softmax_cross_entropy(tuned(adapters, test), teacher).mean()
      return forgotten, optax.softmax_cross_entropy_with_integer_labels(tuned(adapters, test_turned), labels).mean()

    adapters = jax.tree_util.tree_map_with_path(start, base)
    _, records = fit(tree.fold(key, "rows"), adapters, tuned, turned, y, rate, steps // 8, 8, record)
    accuracy = (logits(base, test).argmax(-1) == labels).mean()
    return [r[saved // 8 - 1] for r in records], -jnp.sum(teacher * jnp.log(teacher), -1).mean(), accuracy

  number = jnp.arange(seeds)
  bases = jax.jit(lambda number: jax.lax.map(base, number))(number)
  runs = [jax.jit(lambda *args, r=r: jax.lax.map(lambda one: tune(one, r), args))(number, bases) for r in ranks]
  kernels = [w.shape[1:] for path, w in jax.tree_util.tree_leaves_with_path(bases) if is_kernel(path)]
  P = np.asarray([r * sum(map(sum, kernels)) for r in ranks])
  F, L = (np.stack([np.asarray(r[0][i], np.float64) for r in runs]) for i in (0, 1))  # [ranks, seeds, saved]
  grid_P, grid_N = np.broadcast_arrays(P[:, None], saved)
  flat = lambda v: v.mean(1).ravel()
  law = metrics.fit_scaling_law(grid_P.ravel(), grid_N.ravel(), flat(F))
  s, k, r2 = metrics.fit_forgetting_tradeoff(flat(L), flat(F))
  return {
    "angle": angle, "rate": rate, "base_steps": base_steps, "ranks": list(ranks), "parameters": P,
    "steps": saved, "seeds": seeds,
    "base_entropy": float(np.mean(runs[0][1])), "base_accuracy": float(np.mean(runs[0][2])),
    "forgetting": summary(F, 1), "loss": summary(L, 1), "law": law._asdict(),
    "fitted": law(grid_P, grid_N), "tradeoff": {"s": s, "k": k, "r2": r2},
  }  # fmt: skip


def scaling() -> dict:
  """The law on made points, on a mild and slow fine-tuning (the regime it is about) and on a severe and fast one."""
  return {"synthetic": synthetic_law(), "mild": real_runs(30.0, 2e-4, 500), "severe": real_runs(90.0, 1e-3, 1500)}


PARTS: dict[str, Callable[[], dict]] = {
  "rotation": rotation,
  "linear": linear,
  "overlap": overlap,
  "ideal": ideal,
  "factorisation": factorisation,
  "rehearsal": rehearsal,
  "scaling": scaling,
}


def plain(value):
  """JSON-ready, floats to six significant digits."""
  if isinstance(value, dict):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple | np.ndarray | jax.Array):
    return [plain(v) for v in np.asarray(value).tolist()]
  return float(f"{value:.6g}") if isinstance(value, float) else value.item() if hasattr(value, "item") else value


def main(argv) -> None:
  del argv
  from experiments import _theory_figures as figures

  out = pathlib.Path(flags.FLAGS.out)
  out.mkdir(parents=True, exist_ok=True)
  path = out / "theory.json"
  numbers = json.loads(path.read_text()) if path.exists() else {}
  for name in flags.FLAGS.only or PARTS:
    result = PARTS[name]()
    print(figures.draw(name, result, str(out / f"{name}.png")), flush=True)
    numbers[name] = plain(result)
  numbers["versions"] = {"python": platform.python_version(), "jax": jax.__version__, "numpy": np.__version__}
  text = json.dumps(numbers, indent=1)
  path.write_text(re.sub(r"\[[^\[\]]*\]", lambda m: re.sub(r"\s+", " ", m.group()), text) + "\n")


if __name__ == "__main__":
  flags.DEFINE_string("out", "experiments/results/theory", "directory of the figures and of theory.json")
  flags.DEFINE_list("only", [], "parts to run: all of them by default: rotation, linear, overlap, ideal, ...")
  app.run(main)
