"""Which guarantee survives which optimizer, measured on the update that is applied.

``python tests/projectors/test_survival.py`` prints the table.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import projectors

STEPS, HOLDS = 25, 1e-5  # HOLDS: the largest cosine (float32) that counts as rounding
OPTIMIZERS = {
  "sgd": lambda: optax.sgd(0.1),
  "momentum": lambda: optax.sgd(0.1, momentum=0.9),
  "adam": lambda: optax.adam(0.01),
  "adamw": lambda: optax.adamw(0.01, weight_decay=0.1),
}


def init():
  rng = np.random.default_rng(0)
  return {k: jnp.asarray(0.5 * rng.normal(size=s), jnp.float32) for k, s in (("a", (6, 8)), ("b", (8, 3)))}


def hidden(params, x):
  return jnp.tanh(x @ params["a"])


def loss(params, data):
  x, y = data
  return jnp.mean((hidden(params, x) @ params["b"] - y) ** 2)


def data(seed):
  rng = np.random.default_rng(seed)
  # The tasks share most of their inputs and disagree on the targets: they conflict.
  x = np.random.default_rng(99).normal(size=(4, 6)) + 0.3 * rng.normal(size=(4, 6))
  return jnp.asarray(x, jnp.float32), jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)


NEW, OLD = data(1), [data(2), data(3)]
gradient = jax.jit(jax.grad(loss))


@jax.jit
def references(params):
  one = [gradient(params, d) for d in OLD]
  return {"memory": one[1], "tasks": jax.tree.map(lambda *r: jnp.stack(r), *one)}


def cosines(stack, u):
  inner = sum(jnp.einsum("k...,...->k", s, x) for s, x in zip(jax.tree.leaves(stack), jax.tree.leaves(u), strict=True))
  square = sum(jnp.sum(s.reshape(len(s), -1) ** 2, 1) for s in jax.tree.leaves(stack))
  return inner / (jnp.sqrt(jnp.where(square > 0, square, 1)) * optax.tree.norm(u) + 1e-30)


def extend_ogd(state, params):
  return projectors.ogd_extend(
    state, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *(outputs(params, d[0]) for d in OLD))
  )


def outputs(params, x):
  """Gradients of the first output of each row."""
  return jax.vmap(lambda row: jax.grad(lambda p: (hidden(p, row[None]) @ p["b"])[0, 0])(params))(x)


def extend_gpm(state, params):
  for x, _ in OLD[:1]:
    state = projectors.gpm_extend(state, {"a": x, "b": hidden(params, x)}, 1.0)
  return state


def gpm_cosine(state, u):
  return jnp.stack([jnp.linalg.norm(state.bases[p].T @ x) / (jnp.linalg.norm(x) + 1e-30) for p, x in u.items()]).max()


# name: (projector, fill its memory, how far an update u violates the guarantee)
CASES = {
  "agem": (projectors.agem, lambda s, p: s, lambda s, r, u: cosines(one(r), u).max()),
  "gem": (lambda: projectors.gem("tasks", 0.0, 0.0), lambda s, p: s, lambda s, r, u: cosines(r["tasks"], u).max()),
  "ogd": (lambda: projectors.ogd(8), extend_ogd, lambda s, r, u: jnp.abs(cosines(s.basis, u)).max()),
  "gpm": (projectors.gpm, extend_gpm, lambda s, r, u: gpm_cosine(s, u)),
}


def one(refs):
  return jax.tree.map(lambda x: x[None], refs["memory"])


@functools.cache
def violation(projector: str, optimizer: str, space: str) -> float:
  """The largest violation over a short training on the new task, relative to the sizes of update and constraint."""
  make, fill, measure = CASES[projector]
  plain = OPTIMIZERS[optimizer]()
  params = init()
  if space == "carried":  # the momentum of an earlier task is kept over the boundary
    warm = plain.init(params)
    _, warm = plain.update(gradient(params, NEW), warm, params)
  parts = [plain, projectors.on_update(make())] if space == "update" else [make(), plain]
  at = len(parts) - 1 if space == "update" else 0
  tx = optax.chain(*parts)
  state = list(tx.init(params))
  state[at] = fill(state[at], params)
  if space == "carried":
    state[1 - at] = warm

  @jax.jit
  def run(params, state):
    def step(carry, _):
      params, state = carry
      refs = references(params)
      updates, state = tx.update(gradient(params, NEW), state, params, references=refs)
      return (optax.apply_updates(params, updates), state), measure(state[at], refs, updates)

    return jax.lax.scan(step, (params, tuple(state)), length=STEPS)[1]

  return float(run(params, tuple(state)).max())


SURVIVES = {
  ("sgd", "gradient"): {"agem", "gem", "ogd", "gpm"},
  ("momentum", "gradient"): {
    "ogd",
    "gpm",
  },  # a sum of projected gradients stays in a fixed subspace, not in a moving cone
  ("momentum", "carried"): set(),
  ("adam", "gradient"): set(),
  ("adamw", "gradient"): set(),
  ("sgd", "update"): {"agem", "gem", "ogd", "gpm"},
  ("momentum", "update"): {"agem", "gem", "ogd", "gpm"},
  ("adam", "update"): {"agem", "gem", "ogd", "gpm"},
  ("adamw", "update"): {"agem", "gem", "ogd", "gpm"},
}


# A column of the table costs seconds of compilation: here one linear and one cone projector cover each mechanism. The
# gradient form under SGD is the subject of test_properties.
CHECKED = [
  ("momentum", "gradient", "agem"),
  ("momentum", "gradient", "ogd"),
  ("momentum", "gradient", "gpm"),
  ("momentum", "carried", "gpm"),
  ("adam", "gradient", "agem"),
  ("adam", "gradient", "ogd"),
  ("adamw", "update", "agem"),
  ("adamw", "update", "gem"),
  ("adamw", "update", "gpm"),
]


@pytest.mark.parametrize(("optimizer", "space", "projector"), CHECKED)
def test_survival(optimizer, space, projector):
  got = violation(projector, optimizer, space)
  if projector in SURVIVES[optimizer, space]:
    assert got < HOLDS
  else:
    assert got > 100 * HOLDS


def table() -> str:
  """Rows: optimizer and space; columns: projector; entries: the largest violation, and whether that is rounding."""
  lines = ["| optimizer | projector acts on | " + " | ".join(CASES) + " |", "|" + "---|" * (2 + len(CASES))]
  for optimizer, space in SURVIVES:
    cells = []
    for projector in CASES:
      v = violation(projector, optimizer, space)
      cells.append(f"{'holds' if v < HOLDS else 'BROKEN'} ({max(v, 0):.0e})")
    lines.append(f"| {optimizer} | {space} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


if __name__ == "__main__":
  print(table())
