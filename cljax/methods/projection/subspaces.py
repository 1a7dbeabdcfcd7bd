"""Methods that keep a subspace for each finished task: of output gradients, layer inputs, or gradients themselves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cljax import projectors
from cljax.core import rows as picking
from cljax.core import tree
from cljax.core.calls import since_0_2
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Batch, Spec, UsageError
from cljax.methods.heads import AUTO, hold_others, projected, skipping
from cljax.methods.projection.gradients import ON_UPDATE, layer_rows, standing, with_held
from cljax.methods.projection.scaled import scaled_model, trusting
from cljax.methods.registry import Entry, Option, register
from cljax.methods.slots import counted, no_slots, slot_of
from cljax.objectives.objective import mean_loss
from cljax.projectors.gpm import kernels

PASS = Access(task_boundaries=True, boundary_data=True)
GIB = 2**30


def output_gradients(model, learner, task, batch: Batch):
  """Gradients ``d f_y(x) / d params`` of each row's true logit in eval mode, a stack ``[B, ...]``; weight 0: zero."""

  def logit(params, x, y, row_task):
    state, key = learner.model_state, learner.key
    outputs, _ = model.apply(params, state, x[None], train=False, key=key, task=row_task, mask=None)
    return outputs.logits[0, y]

  told = batch.task if model.by_task else jnp.broadcast_to(task.id, batch.task.shape)
  grads = jax.vmap(jax.grad(logit), in_axes=(None, 0, 0, 0))(learner.params, batch.x, batch.y, told)
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


def extended(visit, extend, opt_state):
  """``extend(opt_state)`` where the task is met for the first time: a basis has room for each task once."""
  return jax.lax.cond(visit.first, extend, lambda same: same, opt_state)


def ogd(model, spec: Spec, *, samples: int, max_bytes: int, on: str = "update") -> Method:
  """OGD: ``g - B^T B g``, B an orthonormal basis of ``d f_y(x) / d params`` on ``samples`` rows of each finished task.

  B takes ``num_tasks * samples`` copies of the parameters, allocated at the start: more than ``max_bytes``, with the
  gradients of one boundary, raises UsageError first. Only the true logit is held, as in the released code. All
  parameters are projected, the head too (the paper: the shared ones; where each task has a head of its own, its columns
  lie outside B). It projects what the optimizer made of the gradient, weight decay included: stored outputs stay to
  first order under any optimizer. ``on='gradient'`` is the published order, for plain SGD: momentum across a boundary,
  Adam and weight decay break it. A task that comes back adds nothing to B. Spec 4.3; Farajtabar et al., 2020.
  """
  samples = min(samples, spec.task_rows)
  check_bytes(model, samples * spec.num_tasks, samples, max_bytes)

  def end_task(key, learner, task):
    def extend(opt_state):
      rows = output_gradients(model, learner, task, picking.sample(fold(key, "rows"), task.rows, samples))
      return projectors.ogd_extend(opt_state, rows)

    return learner._replace(opt_state=extended(task.visit, extend, learner.opt_state))

  return Method(end_task=end_task, **standing(projectors.ogd(samples * spec.num_tasks), None, on))


def pca_ogd(
  model, spec: Spec, *, directions: int, samples: int, center: bool, max_bytes: int, on: str = "update"
) -> Method:
  """PCA-OGD: OGD whose basis takes the ``directions`` leading principal directions of ``samples`` output gradients.

  ``center`` subtracts the mean gradient first, as the released code does; the theory does not. Its code samples 3000
  rows, whose gradients (parameters * samples numbers) stand in memory at each boundary: ``max_bytes`` counts them too.
  ``on`` and tasks that come back as for :func:`ogd`. Spec 4.4; Doan et al., 2021.
  """
  if directions > samples:
    raise UsageError(f"method.directions: got {directions}; allowed: 1 to {samples}, the rows a task is sampled at")
  samples = min(samples, spec.task_rows)
  directions = min(directions, samples)
  check_bytes(model, directions * spec.num_tasks, samples, max_bytes)

  def end_task(key, learner, task):
    def extend(opt_state):
      batch = picking.sample(fold(key, "rows"), task.rows, samples)
      rows = output_gradients(model, learner, task, batch)
      if center:  # here, because a row of weight 0 is no row; principal_directions would count it
        share = batch.weight / jnp.maximum(batch.weight.sum(), 1.0)
        held = lambda g: batch.weight.reshape((-1,) + (1,) * (g.ndim - 1)) > 0
        mean = lambda g: jnp.tensordot(share.astype(g.dtype), g, axes=1)[None]
        rows = jax.tree.map(lambda g: jnp.where(held(g), g - mean(g), jnp.zeros_like(g)), rows)
      return projectors.pca_ogd_extend(opt_state, rows, directions)

    return learner._replace(opt_state=extended(task.visit, extend, learner.opt_state))

  return Method(end_task=end_task, **standing(projectors.pca_ogd(directions * spec.num_tasks), None, on))


@since_0_2("spec stands behind model")
def task_gradient(model, spec: Spec, learner, task, batch: Batch):
  """Gradient of the loss of a batch at the learner's parameters, in eval mode."""

  def apply(key, params, batch):
    told = {"task": batch.task if model.by_task else task.id, "mask": batch.weight}
    return model.apply(params, learner.model_state, batch.x, train=False, key=key, **told)

  return jax.grad(lambda params: mean_loss(spec.objective, learner.key, apply, params, batch))(learner.params)


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
  skip: str = AUTO,
  on: str = "update",
  scaled: bool = False,
) -> Method:
  """CUBER: GPM that lets a kernel move within an old task's input span where both tasks' gradients agree (regime 3).

  When a task starts, its gradient G on ``samples`` rows is compared with each old task's: ``|S_j^T G| >= sufficient
  |G|`` and ``<G_j, G> >= positive |G_j| |G|``; there the span stays open, held by ``strength |S_j^T (W - W_start)|^2``.
  ``sufficient`` above 1 is GPM with a basis of each task of its own. ``scaled``: where the gradients do not agree
  (regime 2) the task sees ``W - S S^T W + S Q S^T W``, S a basis of all such spans and Q a trained matrix of its own
  (TRGP's scaled weight projection, for forward transfer; it has one Q for each of at most two spans); for streams that
  tell the task at test. Biases, norm parameters and
  what multiplies no captured input are held after the first task, as by ``gpm``. The penalty's pull joins the gradient,
  and the projection stands behind the optimizer; ``on='gradient'`` is the published order, both in front of it.
  ``skip`` as for ``gpm``. A task that comes back takes its own slot anew. Needs a model with ``capture``. Spec 4.6; Lin
  et al., 2022. UNVERIFIED: no code found.
  """
  skipped, hold = projected(model, spec, skip)
  found = kernels(jax.eval_shape(model.init, jax.random.key(0))[0], skipped)
  widest = max((x.size // x.shape[-1] for x in found.values()), default=1)
  if scaled:
    if not spec.task_id_given:
      raise UsageError("method.scaled: got True; this stream does not tell the task at test (use stream.kind='task')")
    model = scaled_model(model, spec, found, max_rank or widest)
    skipped, hold = projected(model, spec, skip)

  kinds = (projectors.CUBERState, projectors.CUBERBlocked)

  def start_task(key, learner, task):
    g = task_gradient(model, spec, learner, task, picking.sample(fold(key, "rows"), task.rows, samples))
    opened = projectors.cuber_start_task(learner.opt_state, learner.params, g, sufficient, positive)
    learner = learner._replace(opt_state=opened)
    return trusting(learner, task.visit) if scaled else learner

  def end_task(key, learner, task):
    batch = picking.sample(fold(key, "rows"), task.rows, samples)
    inputs, g = layer_rows(model, spec, learner, batch), task_gradient(model, spec, learner, task, batch)
    slot, slots = slot_of(learner.method_state, task.visit)
    state = projectors.cuber_end_task(counted(learner.opt_state, kinds, slot, "tasks"), inputs, g, threshold)
    state = counted(state, kinds, task.visit.seen.sum(dtype=jnp.int32), "tasks")
    return learner._replace(opt_state=state, method_state=slots)

  sizes = spec.num_tasks, max_rank or widest
  if on == "gradient":
    stands: dict[str, Any] = {"transform": with_held(projectors.cuber(*sizes, strength, skipped), hold)}
  else:
    projection = with_held(projectors.cuber_projection(*sizes, skipped), hold)
    stands = {"transform": projectors.cuber_pull(*sizes, strength, skipped)}
    stands.update(standing(projection, hold_others(model, spec, skip), on))
  made = {"model": model} if scaled else {}
  return Method(init=lambda key, learner: no_slots(spec), start_task=start_task, end_task=end_task, **stands, **made)


def on_matrices(inner: optax.GradientTransformationExtraArgs, chosen, held) -> optax.GradientTransformationExtraArgs:
  """``inner`` on the leaves of ``chosen(path, leaf)``, read as ``{path: [d_in, c_out]}``; the state is inner's.

  Other leaves pass through, but where ``held(state)`` those with fewer than two axes get zero gradients, unless
  ``chosen`` left all kernels of their layer to pass: a bias goes with its kernel.
  """
  layer = lambda path: path.rpartition("/")[0]

  def matrices(a):
    return {p: x.reshape(-1, x.shape[-1]) for p, x in tree.by_path(a).items() if chosen(p, x)}

  def update(grads, state, params=None, **extra):
    hold = held(state)
    moved, state = inner.update(matrices(grads), state, None if params is None else matrices(params), **extra)
    free = {layer(p) for p, x in tree.by_path(grads).items() if x.ndim >= 2} - {layer(p) for p in moved}

    def back(path, g):
      if path in moved:
        return moved[path].reshape(g.shape)
      return jnp.where(hold, jnp.zeros_like(g), g) if g.ndim < 2 and layer(path) not in free else g

    return tree.map_named(back, grads), state

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
  skip: str = AUTO,
  on: str = "update",
) -> Method:
  """CoSO: Adam in the ``rank`` leading output-side gradient directions, orthogonal to those of finished tasks.

  Each kernel moves by the run's learning rate times ``scale`` times CoSO's direction, which is Adam's already: meant
  for plain SGD. The projection stands behind the optimizer, weight decay included; ``on='gradient'`` leaves it to the
  direction alone, as published, which momentum, Adam and weight decay break. What ``skip`` names (as for ``gpm``),
  and kernels with a side shorter than ``rank`` or ``sketch_rank``, take their plain gradient, with their biases;
  other biases and norm parameters are held once a task is stored. The paper adapts attention output projections of a
  pre-trained ViT and freezes all else but the head, with logits divided by 3 and the current task's classes in the
  softmax: that is the stream's (``active='task'``). Old outputs are preserved along the stored directions only, so a
  head that tasks share forgets: there it may end below plain training, and below its own rule with nothing stored.
  UsageError where no kernel is large enough. Spec 4.7; Cheng et al., 2025.
  """
  skipped, least = skipping(model, spec, skip), max(rank, sketch_rank)

  def chosen(path, x):
    large = x.ndim >= 2 and min(x.size // x.shape[-1], x.shape[-1]) >= least
    return large and not (skipped and skipped(path))

  leaves = tree.by_path(jax.eval_shape(model.init, jax.random.key(0))[0])
  if not any(chosen(p, x) for p, x in leaves.items()):
    raise UsageError(f"method.sketch_rank: rank and sketch_rank are {rank} and {sketch_rank}; no kernel has both sides")
  inner = optax.chain(projectors.coso(rank, sketch_rank, every, decay=decay), optax.scale(scale))

  def held(state):
    return jnp.stack([k.rank > 0 for k in state[0].kernels.values()]).any()

  def stored(state):
    return jnp.stack([jnp.any(basis != 0) for basis in state.history.values()]).any()

  def end_task(key, learner, task):
    del key, task
    return learner._replace(opt_state=projectors.coso_end_task(learner.opt_state, threshold))

  stands: dict[str, Any] = {"transform": on_matrices(inner, chosen, held)}
  if on == "update":
    projection = on_matrices(projectors.coso_projection(), chosen, stored)
    stands.update(standing(projection, hold_others(model, spec, skip), on))
  return Method(end_task=end_task, **stands)


register(
  "ogd",
  Entry(
    ogd,
    {"samples": Option(100, 1), "max_bytes": Option(2 * GIB, 1, 2**20 * GIB), **ON_UPDATE},
    PASS,
    "Farajtabar et al. 2020",
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
      "max_bytes": Option(2 * GIB, 1, 2**20 * GIB),
      **ON_UPDATE,
    },
    PASS,
    "Doan et al. 2021",
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
      "skip": Option(AUTO),
      **ON_UPDATE,
      "scaled": Option(False),
    },
    PASS._replace(needs=("plain_inputs",)),
    "Lin et al. 2022",
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
      "skip": Option(AUTO),
      **ON_UPDATE,
    },
    Access(task_boundaries=True, needs=()),
    "Cheng et al. 2025",
  ),
)
