"""CODA-Prompt: a row's prefix is a sum of components, weighed by how their attended keys fit its query."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Spec, UsageError
from cljax.methods.prompts.tuning import ACCESS, OPTIONS, Asked, prompted, tuned, uniform
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads
from cljax.models.prompts import Prompts, places_of

STARTS = ("orthogonal", "uniform")


def away_from(rows, old):
  """Each of ``rows [m, n]`` of norm 1, at right angles to the rows of ``old [M, n]``, of which those that are 0 do not
  count, and to those before it. There have to be at most n."""
  count = old.shape[0]

  def one(basis, row):
    gram = basis @ basis.T
    there = jnp.diagonal(gram) > 0
    gram = gram + jnp.diag(jnp.where(there, 1e-6 * jnp.diagonal(gram), jnp.ones((), gram.dtype)))
    for _ in range(3):  # what rounding leaves, and the ridge
      row = row - basis.T @ jnp.linalg.solve(gram, basis @ row)
    row = heads.unit(row)
    return jnp.concatenate([basis[1:], row[None]]), row

  empty = jnp.zeros((rows.shape[0], rows.shape[1]), rows.dtype)
  return jax.lax.scan(one, jnp.concatenate([empty, old]), rows)[1] if count else rows


def apart(rows, weight):
  """``mean_jk ([j = k] - b_j . b_k)^2`` over the rows ``b [M, n]`` of positive weight ``[M]``."""
  both = weight[:, None] * weight[None]
  gap = jnp.square(rows @ rows.T - jnp.eye(rows.shape[0], dtype=rows.dtype))
  return jnp.sum(both * gap) / jnp.maximum(both.sum(), 1)


def coda_prompt(
  model, spec: Spec, *, orthogonality, components: int = 20, length: int = 8, blocks: int = 5,
  start: str = "orthogonal", others: str = "closed",
) -> Method:  # fmt: skip
  """CODA-Prompt: ``mean_i CE(W f(x_i; P(q_i)))``, ``P(q) = sum_m cos(q * A_m, K_m) P_m``, on a frozen network.

  P_m ``[length, D]`` is, its first half, a prefix of a block's keys and, its second, of its values; each of the first
  ``blocks`` blocks, or as many as there are, has P, keys K and attentions A ``[components, D]`` of its own. Of the
  ``components`` each task has an equal share: those of tasks that were begun take part, those of later ones weigh 0;
  its own alone move in a task's steps, whatever momentum and decay. ``start`` 'orthogonal': a task's P_m, K_m and A_m
  begin at norm 1 and at right angles to all before them, as in the updated code, which then needs no penalty;
  'uniform': of U(-1, 1). ``orthogonality`` weighs the penalty of the paper, :func:`apart` of P, K and A of the tasks
  begun, added over blocks, whose mean over pairs is the released code's. Query, ``others`` and answers: as in
  :func:`cljax.methods.prompts.l2p.l2p`; the classifier reads the class token.

  Deviations: earlier components are held, and not hidden from the gradient; 20 components for small networks, the
  paper's 100. Raises UsageError for a model that takes no prompts or has no features, an odd length, fewer components
  than tasks, and more than D of them where they begin orthogonal. Spec F6; Smith et al., 2023.
  """
  places = places_of(model, "coda_prompt")
  width, layers, tasks = places.width, min(blocks, places.blocks), spec.num_tasks
  share = components // tasks
  if length % 2:
    raise UsageError(f"method.length: got {length}; expected an even number, half for keys and half for values")
  if not share:
    raise UsageError(f"method.components: got {components}; expected one for each of {tasks} tasks at least")
  if start == "orthogonal" and components > width:
    raise UsageError(
      f"method.components: got {components}; vectors of {width} are at right angles to at most as many others; "
      "expected fewer, or method.start=uniform"
    )
  sizes = {"components": (layers, share, length, width), "keys": (layers, share, width)}
  sizes["attentions"] = sizes["keys"]

  def init(key):
    return {n: uniform(key, n, tasks, *shape) for n, shape in sizes.items()}

  def vectors(a):
    """``[layers, T * share, n]`` of a leaf ``[T, layers, share, ...]``."""
    return jnp.moveaxis(a, 0, 1).reshape(layers, tasks * share, -1)

  def prompts(trained, asked: Asked):
    attended = asked.query[:, None, None, None] * trained["attentions"][None]
    fit = jnp.sum(heads.unit(attended) * heads.unit(trained["keys"])[None], axis=-1)
    fit = fit * asked.open.astype(fit.dtype)[None, :, None, None]
    made = jnp.einsum("btem,temld->ebld", fit, trained["components"])
    half = length // 2
    return Prompts(prefixes={b: (made[b, :, :half], made[b, :, half:]) for b in range(layers)})

  def fresh(key, trained, open_, task):
    def begun(name, a):
      drawn = jax.random.uniform(tree.fold(key, name), (layers, share, a[0].size // (layers * share)), a.dtype, -1, 1)
      if start == "orthogonal":
        old = vectors(jnp.where(open_.reshape(-1, *(1,) * (a.ndim - 1)), a, jnp.zeros_like(a)))
        drawn = jax.vmap(away_from)(drawn, old)
      return a.at[task].set(drawn.reshape(a.shape[1:]))

    return {n: begun(n, a) for n, a in trained.items()}

  def penalty(key, params, learner, batch, outputs):
    del key, batch, outputs
    weight = jnp.repeat(learner.model_state["open"].astype(jnp.float32), share)
    each = [jax.vmap(apart, (0, None))(vectors(a), weight).sum() for a in params["prompts"].values()]
    return orthogonality * sum(each)

  network = prompted(model, spec, "coda_prompt", init, prompts)
  method = tuned(network, spec, others, lambda name: name.startswith("prompts/"), fresh)
  return method._replace(terms={"orthogonality": penalty})


register(
  "coda_prompt",
  Entry(
    coda_prompt,
    {
      "orthogonality": Option(0.0, 0),
      "components": Option(20, 1),
      "length": Option(8, 2),
      "blocks": Option(5, 1),
      "start": Option("orthogonal", choices=STARTS),
      **OPTIONS,
    },
    ACCESS,
    "Smith et al. 2023",
    network="vit",
  ),
)
