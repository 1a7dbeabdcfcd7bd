"""ACL: before a task is learned, all of the network moves a little, so that its classes stand apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import rows as picking
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods import heads as classifiers
from cljax.methods import registry
from cljax.methods.pretrained import gaussians
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads

BASES = ("simplecil", "ranpac", "fecam")
MOMENTUM, DECAY = 0.9, 5e-4  # of the released code's SGD


def adapted(
  key, model, spec: Spec, learner, rows, moves, *, learning_rate, temperature, passes: int, size: int
):  # fmt: skip
  """The learner after ``passes`` over shuffled ``rows`` by SGD on ``CE(cos(f(x), p_c) / temperature)``, p_c the means
  of their classes' features in front, in batches of ``size``; leaves move of which ``moves(name)`` holds."""
  told = lambda batch: {"task": model.task_for(batch.task), "mask": batch.weight > 0}

  def features(batch):
    out, _ = model.apply(learner.params, learner.model_state, batch.x, train=False, key=key, **told(batch))
    return heads.flat(out.features)

  width = heads.width_of(model, spec, "acl")
  found = gaussians.moments(features, rows, spec.num_classes, width)
  prototypes, there = heads.unit(found.means), found.counts > 0

  def loss(params, model_state, batch, key):
    out, model_state = model.apply(params, model_state, batch.x, train=True, key=key, **told(batch))
    near = jnp.matmul(heads.unit(heads.flat(out.features)), prototypes.T, precision="highest") / temperature
    return losses.reduce(losses.cross_entropy(near, batch.y, there), batch.weight), model_state

  def one_pass(p, carry):
    own = jax.random.fold_in(key, p)
    order = picking.shuffled(tree.fold(own, "order"), rows)

    def step(i, carry):
      params, model_state, velocity = carry
      batch = order.batch(i * size, size)
      slopes, model_state = jax.grad(loss, has_aux=True)(params, model_state, batch, jax.random.fold_in(own, i))
      velocity = jax.tree.map(lambda v, g, w: MOMENTUM * v + g + DECAY * w, velocity, slopes, params)
      move = lambda name, w, v: (w - learning_rate * v).astype(w.dtype) if moves(name) else w
      return tree.map_named(move, params, velocity), model_state, velocity

    return jax.lax.fori_loop(0, (order.count + size - 1) // size, step, carry)

  start = (learner.params, learner.model_state, jax.tree.map(jnp.zeros_like, learner.params))
  params, model_state, _ = jax.lax.fori_loop(0, passes, one_pass, start)
  return learner._replace(params=params, model_state=model_state)


def acl(
  model, spec: Spec, *, learning_rate, temperature, passes: int = 1, batch_size: int = 128, base: str = "simplecil"
) -> Method:
  """Adapt before continual learning: ``theta <- argmin CE(cos(f(x), p_c) / temperature)`` in front of each task, over
  its classes; then ``base`` on the network as it is.

  p_c ``[D]`` is the mean of class c's features under the network as it was, and stands while that moves: ``passes``
  over the task's rows, shuffled, in batches of ``batch_size``, by SGD at ``learning_rate`` with momentum 0.9, from rest
  for each task, and weight decay 5e-4, in training mode. All leaves move but the network's own classifier, which
  features know nothing of. ``base`` is a closed form at its own defaults, with ``first_task='frozen'``: its
  statistics of old classes are not measured anew, and the network moves away beneath them; ``passes`` 0 is the base,
  to the bit. A task that comes back changes nothing, as in the base. Keeps what the base keeps. Rows of all tasks moved
  the network, so that nothing can be subtracted: requests are answered by ``forget.name=retrain``; here classes that go
  whole are cleared.

  Deviations: prototypes of rows as they are, where the released code's are of augmented ones. Raises UsageError for a
  model without features. Spec B6; Lu et al., 2025.
  """
  inner = registry.make(base, model, spec, first_task="frozen", requests="elsewhere")
  own = classifiers.classifier(model, spec)

  def start_task(key, learner, task):
    how = {"learning_rate": learning_rate, "temperature": temperature, "passes": passes, "size": batch_size}
    move = lambda learner: adapted(key, model, spec, learner, task.rows, lambda name: name not in own, **how)
    return jax.lax.cond(task.visit.first, move, lambda learner: learner, learner)

  return inner._replace(start_task=start_task) if passes else inner


register(
  "acl",
  Entry(
    acl,
    {
      "base": Option("simplecil", choices=BASES),
      "learning_rate": Option(1e-4, 0),
      "temperature": Option(0.1, 0, above=True),
      "passes": Option(1, 0),
      "batch_size": Option(128, 1),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Lu et al. 2025",
  ),
)
