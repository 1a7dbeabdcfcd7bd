"""SD-LoRA: directions of finished tasks stand, their magnitudes are learned on."""

from __future__ import annotations

import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Spec
from cljax.methods.adapters.pairs import ACCESS, PAIRS, SCALE, A, B, names_of, opened, own_alone, stacked, uniform
from cljax.methods.registry import Entry, Option, register


def parted(a, b, scale):
  """``(A / |A|, B / |B|, scale |A| |B|)``, whose product is the same; as they are where one is zero."""
  sizes = [jnp.sqrt(jnp.sum(jnp.square(m))) for m in (a, b)]
  some = (sizes[0] > 0) & (sizes[1] > 0)
  left, right = (jnp.where(some, s, 1.0) for s in sizes)
  return a / left, b / right, scale * left * right


def sd_lora(
  model, spec: Spec, *, begin, trained: str, rank: int = 10, layers: str = "", border: str = "same"
) -> Method:
  """SD-LoRA: kernels ``W + sum_(k<t) s_k A_k B_k / (|A_k| |B_k|) + s_t A_t B_t``; A_t, B_t and all s are trained.

  A_t is drawn uniformly within ``1 / sqrt(d_in)``, B_t is zero and ``s_t = begin`` when task t is first met. When it
  ends its pair is divided by its Frobenius norms and s_t multiplied by them, so that the network computes what it did;
  ``border='released'`` sets s_t to ``begin`` instead, at which the function jumps, as the released code's does. A task
  that comes back trains its own pair on. ``layers`` and ``trained`` (in full: the classifier) as of
  :func:`cljax.methods.adapters.pairs.stacked`. Keeps ``T (rank (d_in + d_out) + 1)`` numbers a layer, among the
  parameters; requests are answered by ``forget.name``. Deviations: kernels of any layers, where the paper has queries
  and values; as many scales as the stream has tasks (the released code: 20); the variants that lower the rank or drop
  directions are left out. Raises UsageError for patterns that find nothing. Spec F9; Wu et al., 2025.
  """
  network = stacked(model, spec, rank, layers, trained, scaled=True)

  def start_task(key, learner, task):
    del key
    learner, here = opened(learner, task.visit, uniform), jnp.arange(spec.num_tasks) == task.id
    one = lambda n, s: jnp.where(here & task.visit.first, begin, s).astype(s.dtype) if n.endswith(SCALE) else s
    return learner._replace(params=tree.map_named(one, learner.params))

  def end_task(key, learner, task):
    del key
    own: dict = tree.by_path(learner.params)
    edits: dict = {}
    for n in names_of(own):
      leaves = [own[n + part] for part in (A, B, SCALE)]
      a, b, scale = parted(*(leaf[task.id] for leaf in leaves))
      new = a, b, jnp.asarray(begin, scale.dtype) if border == "released" else scale
      edits |= {n + part: leaf.at[task.id].set(v) for part, leaf, v in zip((A, B, SCALE), leaves, new, strict=True)}
    return learner._replace(params=tree.edit_leaves(learner.params, edits))

  held = own_alone()
  return Method(network, start_task=start_task, end_task=end_task, transform=held, finalize=held)


register(
  "sd_lora",
  Entry(
    sd_lora,
    {
      "begin": Option(0.8, 0),
      **PAIRS,
      "rank": Option(10, 1),
      "border": Option("same", choices=("same", "released")),
    },
    ACCESS,
    "Wu et al. 2025",
  ),
)
