"""MEMO: shallow blocks that all tasks share, a last block for each, and the classifier's new weights aligned."""

from __future__ import annotations

import re

from cljax.core.method import Method
from cljax.core.types import Access, Spec, UsageError
from cljax.methods import heads
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay import growth
from cljax.models import growing

AUTO, SHARED = "auto", ("first", "always")


def last_block(model, spec: Spec, last: str) -> frozenset[str]:
  """The names of the leaves of the last block: of those that ``last``, a regular expression, finds; or, for 'auto', of
  the block (the first part of a name) of the last captured layer before the outputs. The classifier is in no block.

  Raises UsageError where that is nothing, and for 'auto' where the model's layers are not captured.
  """
  outputs = heads.classifier(model, spec)
  names = [n for n in growing.names_of(model) if n not in outputs]
  if last == AUTO:
    if model.capture is None:
      raise UsageError(
        "method.block_pattern: got 'auto', which needs a model whose layers are captured (Model.capture is None); "
        "expected a regular expression of names"
      )
    layers = [n for c in heads.captured(model, spec)[1] for n in c.spec.leaves.values() if n in names]
    found = [n for n in names if layers and n.partition("/")[0] == layers[-1].partition("/")[0]]
  else:
    try:
      found = [n for n in names if re.search(last, n)]
    except re.error as e:
      raise UsageError(f"method.block_pattern: got {last!r}; expected 'auto' or a regular expression ({e})") from None
  if not found:
    raise UsageError(
      f"method.block_pattern: got {last!r}, which is no layer before the outputs; there are {', '.join(names)}"
    )
  return frozenset(found)


def memo(
  model, spec: Spec, *, auxiliary, capacity: int, replay_batch: int = 0, block_pattern: str = AUTO,
  shared: str = "first", align: bool = True,
) -> Method:  # fmt: skip
  """MEMO: ``CE([g_1(s) .. g_t(s)] W) + auxiliary CE(g_t(s) A)``, s the shared blocks' answer, g_t the task's block.

  The network of :func:`cljax.methods.replay.der_expand.der_expand` of which the last block alone is copied: it grows
  by that block and its rows of W. The last block begins as the one before it, and those of other tasks stand. Shared
  blocks learn in the first task and stand from then on; with ``shared`` 'always' (the released ``train_base``) they go
  on, and old features drift. When a task that has old classes ends, columns of its classes get the mean norm of old
  ones' (:func:`cljax.methods.replay.wa.aligned`), unless ``align`` is False. Exemplars, A and both means are as there;
  what the smaller network saves is ``capacity``'s to spend (``models.growing.parameters_in_use``). ``block_pattern``:
  'auto', or a regular expression of the last block's names, such as 'block_3' of resnet18.

  Raises UsageError for a capacity below the number of lists, a model without features, a ``block_pattern`` that is no
  layer, and shared BatchNorms, which in training would not stand, unless ``shared`` is 'always'. A request's rows leave
  the lists at once; blocks and classifier know nothing of it. Spec D8; Zhou et al., 2023.
  """
  block = last_block(model, spec, block_pattern)
  norms = sorted(heads.batch_norms(model) - block - heads.classifier(model, spec))
  if norms and shared == "first":
    raise UsageError(
      f"method.shared: got 'first', under which shared layers stand; {norms[0]!r} is of a BatchNorm, which would take "
      "each batch's statistics: take it into the last block (method.block_pattern), or give shared='always'"
    )
  memory = sets.make_exemplars(spec, capacity)
  size = min(replay_batch or spec.batch_size, capacity)
  network, fields = growth.hooks(model, spec, "memo", memory, size, auxiliary, block.__contains__, shared)

  def end_task(key, learner, task):
    del key
    learner = growth.refill(network, spec, memory, learner, task)
    return growth.realigned(learner, *sets.old_and_new(spec, task.visit)) if align else learner

  whole = block | heads.classifier(model, spec) == set(growing.names_of(model))
  said = ["memo: the last block is all of the network before its outputs, so that tasks share nothing"] if whole else []
  return Method(end_task=end_task, remarks=lambda outlook: said, **fields)


register(
  "memo",
  Entry(
    memo,
    {
      "capacity": Option(200, 1),
      "replay_batch": Option(0, 0),
      "auxiliary": Option(1.0, 0),
      "block_pattern": Option(AUTO),
      "shared": Option("first", choices=SHARED),
      "align": Option(True),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Zhou et al. 2023",
  ),
)
