"""UER: new rows are learned by the angles of features and classes alone, stored rows by lengths as well."""

from __future__ import annotations

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import stored
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  append,
  drawn,
  example_row,
  insert_pending,
  make_memory,
  offered,
  rows_of,
  scrub_memory,
  start,
)
from cljax.models import heads
from cljax.objectives.rows import of_terms_alone


def uer(
  model, spec: Spec, *, beta, temperature, capacity: int, policy: str = "reservoir", replay_batch: int = 0,
  insert: str = "once",
) -> Method:  # fmt: skip
  """UER: ``mean CE(cos(f(x), w) / temperature, y) + beta mean CE(f(x_B) w, y_B)``; answers are ``f(x) w``.

  A logit ``f w_c = |f| |w_c| cos`` leans to new classes by its lengths, so new rows move none: their loss is of the
  angles, and its slope in w_c stands at right angles to w_c, that in f to f. Stored rows have whole logits. The
  classifier has no bias; the model's own stays where it began. Replay starts inside the first task.

  Deviations: written from the paper's abstract, as its code is not public: ``temperature`` is that of
  :func:`cljax.methods.replay.pcr`, and that answers are the products, not the cosines, is a reading. Raises UsageError
  for a model without features. Spec A7; Lin et al., 2023 (Unbias Experience Replay).
  """
  network = heads.product_classifier(model, spec, "uer")
  memory = make_memory(spec, capacity, policy)
  size = min(replay_batch or spec.batch_size, capacity)

  def prepare(key, learner, batch):
    state = insert_pending(key, memory, learner.method_state)
    rows, weight = memory.sample(fold(key, "sample"), state.memory, size)
    # The loss of new rows is the term's.
    batch = append(of_terms_alone(batch), drawn(spec, rows, weight, batch.visit), scale=beta)
    return learner._replace(method_state=state), batch

  def term(key, params, learner, batch, outputs):
    del key, learner
    own = stored.own_rows(spec, batch)
    cosines = heads.cosines(params["cosine"], outputs.features[: spec.batch_size])
    return losses.reduce(losses.cross_entropy(cosines / temperature, own.y, own.class_mask), own.weight)

  def after_step(key, learner, info):
    del key
    state = learner.method_state._replace(pending=rows_of(spec, info.batch), weight=offered(spec, info.batch, insert))
    return learner._replace(method_state=state)

  return Method(
    model=network,
    init=lambda key, learner: start(memory, spec, example_row(spec)),
    prepare=prepare,
    terms={"angles": term},
    after_step=after_step,
    scrub=scrub_memory(memory),
  )


register(
  "uer",
  Entry(
    uer,
    {"beta": Option(1.0, 0), "temperature": Option(0.09, 0, above=True), **BUFFER},
    ACCESS._replace(needs=("classes", "plain_inputs")),
    "Lin et al. 2023 (UER)",
  ),
)
