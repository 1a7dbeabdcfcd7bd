"""DualPrompt: prefixes that all tasks share and prefixes of each task, which a key finds at test."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.types import Spec
from cljax.methods.prompts.tuning import (
  ACCESS,
  OPTIONS,
  SELECTION,
  Asked,
  blocks_of_own,
  chosen,
  likeness,
  prompted,
  pull,
  tuned,
  two_kinds,
  uniform,
)
from cljax.methods.registry import Entry, Option, register
from cljax.models.prompts import places_of


def dualprompt(
  model, spec: Spec, *, strength, length: int = 5, general_length: int = 5, general_blocks: int = 2,
  expert_blocks: int = 3, selection: str = "row", others: str = "closed",
) -> Method:  # fmt: skip
  """DualPrompt: ``mean_i CE(W f(x_i; G, E_t)) - strength mean_i cos(q_i, K_t)`` on a frozen network.

  Prefixes of keys and values: G of ``general_length`` in the first ``general_blocks`` blocks, shared by all tasks, and
  E_t ``[length, D]`` of each task in the next ``expert_blocks``, or as many as there are. A step's rows take those of
  their task, whose key K_t ``[D]`` is drawn to their queries q_i, the class token's features without prompts; else a
  row takes those of the task, among the ones that were begun, whose key has the largest cosine with its query. All are
  of U(-1, 1), the classifier of the class token begins at 0; the prefixes and the key of a task move in its own steps
  alone, whatever momentum and decay. ``others`` and answers: as in :func:`cljax.methods.prompts.l2p.l2p`. ``selection``
  'batch' is the released code's: at test the task is that which most rows of the batch would take.

  Deviations: selection by row; the optimizer goes on from task to task (``optimizer.reset_per_task``). PyTorch ports
  fold a prefix's [layers, 2, B] as [layers, B, 2], which mixes keys, values and rows; here these have names. Raises
  UsageError for a model that takes no prompts or has no features, and where no block is left for E. Spec F5; Wang et
  al., 2022.
  """
  places = places_of(model, "dualprompt")
  experts = blocks_of_own(places, general_blocks, expert_blocks)
  tasks, width = spec.num_tasks, places.width

  def init(key):
    def pair(name, *shape):
      return {part: uniform(key, f"{name}/{part}", *shape, width) for part in ("keys", "values")}

    own = {**pair("own", tasks, len(experts), length), "match": uniform(key, "match", tasks, width)}
    return {"general": pair("general", general_blocks, general_length), "own": own}

  def task_of(trained, asked: Asked):
    """``[B]`` int32."""
    if asked.train:
      return jnp.broadcast_to(asked.task, asked.query.shape[:1])
    like = jnp.where(asked.open[None], likeness(asked.query, trained["own"]["match"]), -jnp.inf)
    return chosen(like, 1, selection, asked.there)[:, 0]

  def prompts(trained, asked: Asked):
    return two_kinds(trained["general"], trained["own"], task_of(trained, asked), experts)

  def near(trained, asked: Asked):
    return likeness(asked.query, trained["own"]["match"][asked.task][None])[:, 0]

  def fresh(key, trained, open_, task):
    """The drawn numbers of a task that is met, which are those of its place in the order."""
    del open_
    own = trained["own"]
    drawn = {n: jax.random.uniform(jax.random.fold_in(key, i), a.shape[1:], a.dtype, -1, 1)
             for i, (n, a) in enumerate(sorted(own.items()))}  # fmt: skip
    return {**trained, "own": {n: a.at[task].set(drawn[n]) for n, a in own.items()}}

  network = prompted(model, spec, "dualprompt", init, prompts)
  method = tuned(network, spec, others, lambda name: name.startswith("prompts/own/"), fresh)
  return method._replace(terms={"keys": pull(strength, near)})


register(
  "dualprompt",
  Entry(
    dualprompt,
    {
      "strength": Option(1.0, 0),
      "length": Option(5, 1),
      "general_length": Option(5, 1),
      "general_blocks": Option(2, 0),
      "expert_blocks": Option(3, 1),
      "selection": Option("row", choices=SELECTION),
      **OPTIONS,
    },
    ACCESS,
    "Wang et al. 2022",
    network="vit",
  ),
)
