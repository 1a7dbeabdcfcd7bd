"""Methods that keep a subspace for each finished task: of output gradients, layer inputs, or gradients themselves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from cljax import losses, projectors
from cljax import rows as picking
from cljax.method import Method
from cljax.methods.projection import layer_rows, skipping
from cljax.methods.registry import Entry, Option, register
from cljax.projectors.gpm import kernels
from cljax.tree import path_name
from cljax.types import Access, Batch, Spec, UsageError

PASS = Access(task_boundaries=True, boundary_data=True)
GIB = 2**30


def output_gradients(model, learner, task, batch: Batch):
  """Gradients ``d f_y(x) / d params`` of each row's true logit in eval mode, a stack ``[B, ...]``; weight 0: zero."""

  def logit(params, x, y):
    state, key = learner.model_state, learner.key
    outputs, _ = model.apply(params, state, x[None], train=False, key=key, task=task.id, mask=None)
    return outputs.logits[0, y]

  grads = jax.vmap(jax.grad(logit), in_axes=(None, 0, 0))(learner.params, batch.x, batch.y)
  return jax.tree.map(lambda g: jnp.where(batch.weight.reshape((-1,) + (1,) * (g.ndim - 1)) > 0, g, 0), grads)


def check_bytes(model, stored: int, passing: int, max_bytes: int) -> None:
  """UsageError where ``stored`` directions, and ``passing`` gradients at a boundary, need more than ``max_bytes``."""
  params = jax.eval_shape(model.init, jax.random.key(0))[0]
  basis, stack = (projectors.basis_bytes(params, n) for n in (stored, passing))
  if basis + stack > max_bytes:
    raise UsageError(
      f"method.max_bytes: got {max_bytes}; the basis of {stored} directions needs {basis} bytes and the {passing} "
      f"gradients at a boundary {stack}"
    )


def ogd(model, spec: Spec, *, samples: int, max_bytes: int) -> Method:
  """OGD: ``g - B^T B g``, B an orthonormal basis of ``d f_y(x) / d params`` on ``samples`` rows of each finished task.

  B takes ``num_tasks * samples`` copies of the parameters, allocated at the start: more than ``max_bytes``, with the
  gradients of one boundary, raises UsageError first. Only the true logit is held, as in the released code. All
  parameters are projected, the head too (the paper: the shared ones; where each task has a head of its own, its columns
  lie outside B). Use plain SGD: momentum across a boundary, Adam and weight decay break ``B g = 0``. Spec 4.3;
  Farajtabar et al., 2020.
  """
  samples = min(samples, spec.task_rows)
  check_bytes(model, samples * spec.num_tasks, samples, max_bytes)

  def end_task(key, learner, task):
    del key
    rows = output_gradients(model, learner, task, picking.spread(task.rows, samples))
    return learner._replace(opt_state=projectors.ogd_extend(learner.opt_state, rows))

  return Method(transform=projectors.ogd(samples * spec.num_tasks), end_task=end_task)


def pca_ogd(model, spec: Spec, *, directions: int, samples: int, center: bool, max_bytes: int) -> Method:
  """PCA-OGD: OGD whose basis takes the ``directions`` leading principal directions of ``samples`` output gradients.

  ``center`` subtracts the mean gradient first, as the released code does; the theory does not. Its code samples 3000
  rows, whose gradients (parameters * samples numbers) stand in memory at each boundary: ``max_bytes`` counts them too.
  Spec 4.4; Doan et al., 2021.
  """
  if directions > samples:
    raise UsageError(f"method.directions: got {directions}; allowed: 1 to {samples}, the rows a task is sampled at")
  samples = min(samples, spec.task_rows)
  directions = min(directions, samples)
  check_bytes(model, directions * spec.num_tasks, samples, max_bytes)

  def end_task(key, learner, task):
    del key
    batch = picking.spread(task.rows, samples)
    rows = output_gradients(model, learner, task, batch)
    if center:  # here, because a row of weight 0 is no row; principal_directions would count it
      share = batch.weight / jnp.maximum(batch.weight.sum(), 1.0)
      held = lambda g: batch.weight.reshape((-1,) + (1,) * (g.ndim - 1)) > 0
      rows = jax.tree.map(lambda g: jnp.where(held(g), g - jnp.tensordot(share, g, axes=1), 0), rows)
    return learner._replace(opt_state=projectors.pca_ogd_extend(learner.opt_state, rows, directions))

  return Method(transform=projectors.pca_ogd(directions * spec.num_tasks), end_task=end_task)


def task_gradient(model, learner, task, batch: Batch):
  """Gradient of the mean cross-entropy of a batch at the learner's parameters, in eval mode."""

  def loss(params):
    state = learner.model_state
    outputs, _ = model.apply(params, state, batch.x, train=False, key=learner.key, task=task.id, mask=batch.weight)
    return losses.reduce(losses.cross_entropy(outputs.logits, batch.y, batch.class_mask), batch.weight)

  return jax.grad(loss)(learner.params)


def cuber(
  model,
  spec: Spec,
  *,
  threshold,
  strength,
  sufficient,
  positive,
  samples: int = 125,
  max_rank: int = 0,
  skip: str = "head",
) -> Method:
  """CUBER: GPM that lets a kernel move within an old task's input span where both tasks' gradients agree (regime 3).

  When a task starts, its gradient G on ``samples`` rows is compared with each old task's: ``|S_j^T G| >= sufficient
  |G|`` and ``<G_j, G> >= positive |G_j| |G|``; there the span stays open, held by ``strength |S_j^T (W - W_start)|^2``.
  ``sufficient`` above 1 is GPM with a basis of each task of its own. The scaled weight projection of regime 2 (forward
  transfer by TRGP) is left out: :func:`cljax.projectors.scaled_projection` is its formula. Biases and norm parameters
  are held after the first task. Needs a model with ``capture``. Spec 4.6; Lin et al., 2022. UNVERIFIED: no code found.
  """
  skipped = skipping(skip)
  shapes = kernels(jax.eval_shape(model.init, jax.random.key(0))[0], skipped).values()
  widest = max((x.size // x.shape[-1] for x in shapes), default=1)

  def start_task(key, learner, task):
    del key
    g = task_gradient(model, learner, task, picking.spread(task.rows, samples))
    opened = projectors.cuber_start_task(learner.opt_state, learner.params, g, sufficient, positive)
    return learner._replace(opt_state=opened)

  def end_task(key, learner, task):
    del key
    batch = picking.spread(task.rows, samples)
    inputs, g = layer_rows(model, learner, batch), task_gradient(model, learner, task, batch)
    return learner._replace(opt_state=projectors.cuber_end_task(learner.opt_state, inputs, g, threshold))

  transform = projectors.cuber(spec.num_tasks, max_rank or widest, strength, skipped)
  return Method(transform=transform, start_task=start_task, end_task=end_task)


def on_matrices(inner: optax.GradientTransformationExtraArgs, chosen, held) -> optax.GradientTransformationExtraArgs:
  """``inner`` on the leaves of ``chosen(path, leaf)``, read as ``{path: [d_in, c_out]}``; the state is inner's.

  Other leaves pass through, but where ``held(state)`` those with fewer than two axes get zero gradients.
  """

  def matrices(a):
    leaves = [(path_name(p), x) for p, x in jax.tree_util.tree_leaves_with_path(a)]
    return {p: x.reshape(-1, x.shape[-1]) for p, x in leaves if chosen(p, x)}

  def update(grads, state, params=None, **extra):
    hold = held(state)
    moved, state = inner.update(matrices(grads), state, None if params is None else matrices(params), **extra)

    def back(path, g):
      path = path_name(path)
      if path in moved:
        return moved[path].reshape(g.shape)
      return jnp.where(hold, jnp.zeros_like(g), g) if g.ndim < 2 else g

    return jax.tree_util.tree_map_with_path(back, grads), state

  return optax.GradientTransformationExtraArgs(lambda params: inner.init(matrices(params)), update)


def coso(
  model,
  spec: Spec,
  *,
  threshold,
  scale,
  decay,
  rank: int = 8,
  sketch_rank: int = 16,
  every: int = 1,
  skip: str = "head",
) -> Method:
  """CoSO: Adam in the ``rank`` leading output-side gradient directions, orthogonal to those of finished tasks.

  Each kernel moves by the run's learning rate times ``scale`` times CoSO's direction, which is Adam's already: run it
  under plain SGD, without weight decay. What matches ``skip`` (the head), and kernels with a side shorter than ``rank``
  or ``sketch_rank``, take their plain gradient; biases and norm parameters are held once a task is stored. The paper
  adapts attention output projections of a pre-trained ViT and freezes all else but the head, with logits divided by 3
  and the current task's classes in the softmax: that is the stream's (``active='task'``). Old outputs are preserved
  along the stored directions only. UsageError where no kernel is large enough. Spec 4.7; Cheng et al., 2025.
  """
  del spec
  skipped, least = skipping(skip), max(rank, sketch_rank)

  def chosen(path, x):
    large = x.ndim >= 2 and min(x.size // x.shape[-1], x.shape[-1]) >= least
    return large and not (skipped and skipped(path))

  leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(model.init, jax.random.key(0))[0])
  if not any(chosen(path_name(p), x) for p, x in leaves):
    raise UsageError(f"method.sketch_rank: rank and sketch_rank are {rank} and {sketch_rank}; no kernel has both sides")
  inner = optax.chain(projectors.coso(rank, sketch_rank, every, decay=decay), optax.scale(scale))

  def held(state):
    return jnp.stack([k.rank > 0 for k in state[0].kernels.values()]).any()

  def end_task(key, learner, task):
    del key, task
    return learner._replace(opt_state=projectors.coso_end_task(learner.opt_state, threshold))

  return Method(transform=on_matrices(inner, chosen, held), end_task=end_task)


register(
  "ogd",
  Entry(
    ogd,
    {"samples": Option(100, 1), "max_bytes": Option(2 * GIB, 1)},
    PASS,
    "Farajtabar et al. 2020",
    test={"samples": 4},
  ),
)
register(
  "pca_ogd",
  Entry(
    pca_ogd,
    {
      "directions": Option(100, 1),
      "samples": Option(300, 1),
      "center": Option(False),
      "max_bytes": Option(2 * GIB, 1),
    },
    PASS,
    "Doan et al. 2021",
    test={"directions": 3, "samples": 12},
  ),
)
register(
  "cuber",
  Entry(
    cuber,
    {
      "threshold": Option(0.97, 0, 1),
      "strength": Option(0.01, 0),
      "sufficient": Option(0.5, 0),
      "positive": Option(0.0, -1, 1),
      "samples": Option(125, 1),
      "max_rank": Option(0, 0),
      "skip": Option("head"),
    },
    PASS,
    "Lin et al. 2022",
    test={"samples": 16},
  ),
)
register(
  "coso",
  Entry(
    coso,
    {
      "threshold": Option(0.98, 0, 1),
      "scale": Option(0.01, 0),
      "decay": Option(1.0, 0, 1),
      "rank": Option(8, 1),
      "sketch_rank": Option(16, 1),
      "every": Option(1, 1),
      "skip": Option("head"),
    },
    Access(task_boundaries=True),
    "Cheng et al. 2025",
    test={"rank": 3, "sketch_rank": 4, "scale": 0.1},
    first_task_plain=False,
  ),
)
