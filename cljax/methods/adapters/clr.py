"""CLR: each task puts a small filter behind every convolution of a frozen network, one for each channel."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Model, Spec, UsageError
from cljax.methods import heads
from cljax.methods.registry import Entry, Option, register
from cljax.methods.told import TOLD, task_at_test
from cljax.models import isolated, tuning

SIZE = 3
POINTWISE = ("filter", "scale", "skip")


def dirac(size: int, channels: int):
  """``[size, size, channels]``: of each channel the filter that changes nothing."""
  return jnp.zeros((size, size, channels), jnp.float32).at[size // 2, size // 2].set(1.0)


def by_channel(filters, y):
  """``[B, H, W, C]``: each channel of y under its own of the ``filters [h, w, C]``, zeros around the border."""
  (height, width), (rows, columns) = filters.shape[:2], y.shape[1:3]
  padded = jnp.pad(y, ((0, 0), (height // 2, height // 2), (width // 2, width // 2), (0, 0)))
  filters = filters.astype(y.dtype)[:, :, None, None, None]
  cut = lambda i, j: padded[:, i : i + rows, j : j + columns]
  return sum(filters[i, j] * cut(i, j) for i in range(height) for j in range(width))


def sizes_of(leaves: dict, own: frozenset, pointwise: str) -> dict[str, tuple[int, int]]:
  """``{layer: (size, channels)}`` of the filters behind each convolution, whose kernel has four axes."""
  found = {}
  for name, leaf in leaves.items():
    single = len(leaf.shape) == 4 and leaf.shape[:2] == (1, 1)
    if len(leaf.shape) != 4 or name in own or (single and pointwise == "skip"):
      continue
    found[name.rpartition("/")[0]] = (1 if single and pointwise == "scale" else SIZE), leaf.shape[-1]
  if not found:
    raise UsageError("method.name: 'clr' reprograms the channels of convolutions; the model has none that it may")
  return found


def clr(model, spec: Spec, *, pointwise: str = "filter", inference: str = "told") -> Method:
  """CLR: ``y_c = F_tc * (W x)_c`` behind every convolution W, which stands; F_tc ``[3, 3]`` of channel c and task t.

  Each task trains its filters, which begin as the identity, its classifier and its BatchNorm (scale, bias and
  statistics, which begin as the network's): ``9 C`` numbers a convolution of C channels, and no other task's. All else
  stands as ``model.init`` gives it, such as pre-trained, and other tasks' parts do, whatever momentum and weight decay
  the optimizer has, so that old answers stay to the bit. A task that comes back trains its own part on. Behind
  convolutions of 1x1: ``pointwise`` 'filter' the same, 'scale' one number a channel, 'skip' none (the released base and
  its two reduced versions). ``inference`` is of :func:`cljax.methods.told.task_at_test`; requests are answered by
  ``forget.name``. Raises UsageError for a model without convolutions, and where they are no Linen layers. Spec B7; Ge
  et al., "CLR: Channel-wise lightweight reprogramming for continual learning", 2023.
  """
  named = jax.eval_shape(model.init, jax.random.key(0))[0]
  own = heads.classifier(model, spec) | heads.batch_norms(model)
  sizes = sizes_of(tree.by_path(named), own, pointwise)

  def apply(params, model_state, x, **told):
    weights, filters = params
    change = {layer: lambda x, y, f=f: by_channel(f, y) for layer, f in filters.items()}
    return tuning.behind_layers(lambda: model.apply(weights, model_state, x, **told), change, "method.name: 'clr'")

  def begin(key, weights):
    del key
    leaves = tree.by_path(weights)
    every = lambda a: jnp.repeat(a[None], spec.num_tasks, axis=0)
    params = {
      "own": {n: every(leaves[n]) for n in sorted(own)}, "filters": {n: every(dirac(*s)) for n, s in sizes.items()},
    }  # fmt: skip
    return params, {n: a for n, a in leaves.items() if n not in own}

  def weights(params, frozen, slot, train):
    del train
    leaves = [params["own"][n][slot] if n in own else jax.lax.stop_gradient(frozen[n]) for n in tree.paths(named)]
    return jax.tree.unflatten(jax.tree.structure(named), leaves), {n: f[slot] for n, f in params["filters"].items()}

  def start_task(key, learner, task):
    del key
    slot, state = isolated.opened(learner.model_state, task.id)
    may = jax.tree.map(lambda a: isolated.copy_of(slot, a), learner.params)
    return learner._replace(model_state=state, opt_state=isolated.held(learner.opt_state, may))

  network = isolated.per_task(Model(model.init, apply), spec.num_tasks, begin, weights)
  return Method(
    model=network, start_task=start_task, finalize=isolated.hold(), **task_at_test(network, spec, inference)
  )


register(
  "clr",
  Entry(
    clr,
    {"pointwise": Option("filter", choices=POINTWISE), **TOLD},
    Access(task_boundaries=True, task_id_at_test=True),
    "Ge et al. 2023",
    network="cnn",
  ),
)
