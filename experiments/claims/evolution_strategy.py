"""Evolution strategies drift further and forget more than policy gradients on the way to the same reward."""

import jax
import jax.numpy as jnp
import numpy as np

from cljax import losses, metrics, optimizers
from cljax.core import tree
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, mlp

TARGET, LIMIT, BATCH, ANSWERED = 0.45, 5000, 32, 200

CLAIM = Claim(
  methods=("evolution_strategy",),
  paper="Abdi et al. 2026",
  sentence="At equal reward on the new task an evolution strategy has moved the weights further, and more of them, and "
  "has lost more of an old skill, than a policy gradient has.",
  protocol="Digits, then digits of permuted pixels, MLP 64-32-10. 500 steps of SGD 0.05, batch 32, on the first task; "
  "then the second until its reward, the share of right answers on its training rows, is 45%, looked at every 10 "
  "steps: by a group-relative policy gradient (8 sampled answers a row, SGD 0.05) or by an evolution strategy on the "
  "share of right answers (population 30, sigma 0.02, rate sigma/2, as published but twenty times its sigma), with 200 "
  "rows a step, as published. Difference of the fall of the first task's test accuracy, in points; logarithm to base "
  "10 of the ratio of the distances moved; difference of the shares of weights that moved as bfloat16 has them, in "
  "points. Beside it, the evolution strategy on the loss, and SGD, with 32 rows a step.",
)


def measure(seeds):
  stream = digits("permuted", 2)
  model, data, tables = mlp(stream, hidden=(32,)), stream.dataset, stream.view.tables

  def rows(split, task):
    x = jnp.asarray(split.x, jnp.float32) * data.scale
    return stream.view.apply(tables, x, jnp.full(len(x), task)), jnp.asarray(split.y, jnp.int32)

  (old_x, old_y), (new_x, new_y), (test_x, test_y) = rows(data.train, 0), rows(data.train, 1), rows(data.test, 0)
  logits = lambda params, x: model.apply(params, {}, x, train=False, key=None)[0].logits
  accuracy = lambda params, x, y: (logits(params, x).argmax(-1) == y).mean()

  likelihood = lambda key, z, y: losses.cross_entropy(z, y).mean()
  answers = lambda key, z, y: (z.argmax(-1) != y).mean()
  policy = lambda key, z, y: losses.policy_gradient(tree.fold(key, "answers"), z, y).mean()

  def descend(arm, key, params, x, y, step):
    gradient, rate, lost = arm
    key = jax.random.fold_in(key, step)
    size = BATCH if lost is likelihood else ANSWERED
    index = jax.random.randint(key, (size,), 0, len(y))
    loss = lambda p: (lost(key, logits(p, x[index]), y[index]), ())
    return tree.axpy(-rate, gradient(key, loss, params), params)

  exact = lambda key, loss, params: jax.grad(loss, has_aux=True)(params)[0]
  evolved = lambda key, loss, params: optimizers.evolution_strategy(key, loss, params, sigma=0.02, population=30)[1]
  arms = {
    "policy": (exact, 0.05, policy),
    "ES": (evolved, 0.01, answers),
    "SGD": (exact, 0.05, likelihood),
    "ES on the loss": (evolved, 0.01, likelihood),
  }

  def adapt(arm, key, params):
    """Steps on the new task until it is learned: ``(fall of the old task, distance, steps, accuracy, parameters)``."""
    ten = lambda carry: jax.lax.fori_loop(
      carry[0], carry[0] + 10, lambda i, p: descend(arm, key, p, new_x, new_y, i), carry[1]
    )
    going = lambda carry: (carry[0] < LIMIT) & (accuracy(carry[1], new_x, new_y) < TARGET)
    steps, after = jax.lax.while_loop(going, lambda carry: (carry[0] + 10, ten(carry)), (0, params))
    fall = accuracy(params, test_x, test_y) - accuracy(after, test_x, test_y)
    return fall, tree.norm(tree.axpy(-1.0, params, after)), steps, accuracy(after, new_x, new_y), after

  def one(seed):
    key = jax.random.key(seed)
    params, _ = model.init(tree.fold(key, "init"))
    first = lambda i, p: descend(arms["SGD"], tree.fold(key, "first"), p, old_x, old_y, i)
    params = jax.lax.fori_loop(0, 500, first, params)
    second = tree.fold(key, "second")
    return params, {name: adapt(arm, second, params) for name, arm in arms.items()}

  start, found = jax.tree.map(np.asarray, jax.jit(lambda s: jax.lax.map(one, s))(jnp.arange(seeds)))
  of = lambda params, s: jax.tree.map(lambda a: a[s], params)
  share = {n: 100 * np.array([metrics.moved_share(of(start, s), of(v[4], s)) for s in range(seeds)])
           for n, v in found.items()}  # fmt: skip
  es, other = found["ES"], found["policy"]
  equal = np.where((other[3] >= TARGET) & (es[3] >= TARGET), 1.0, np.nan)  # else nothing is compared
  figures: dict[str, np.ndarray] = {}
  for name, (fall, distance, steps, reward, _) in found.items():
    figures |= {f"{name}: fall of the old task": 100 * fall, f"{name}: distance": distance, f"{name}: steps": steps}
    figures |= {f"{name}: weights moved, percent": share[name], f"{name}: reward": 100 * reward}
  return Measured(
    {
      "fall of the old task: ES - policy": equal * 100 * (es[0] - other[0]),
      "log10 of the distance: ES / policy": equal * np.log10(es[1] / other[1]),
      "weights moved: ES - policy": equal * (share["ES"] - share["policy"]),
    },
    figures,
  )
