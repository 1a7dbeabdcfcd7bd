"""L2P: a pool of prompts, of which each row takes those whose keys are nearest to what a frozen network makes of it."""

from __future__ import annotations

import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.types import Spec, UsageError
from cljax.methods.prompts.tuning import (
  ACCESS,
  OPTIONS,
  SELECTION,
  Asked,
  chosen,
  likeness,
  prompted,
  pull,
  tuned,
  uniform,
)
from cljax.methods.registry import Entry, Option, register
from cljax.models.prompts import Prompts, places_of


def l2p(
  model, spec: Spec, *, strength, pool: int = 10, length: int = 10, chosen_prompts: int = 4, selection: str = "row",
  others: str = "closed",
) -> Method:  # fmt: skip
  """Learning to prompt: ``mean_i CE(W h_i) - strength mean_i sum_{j in N(i)} cos(q_i, K_j)`` on a frozen network.

  q_i ``[D]``: the class token's feature without prompts; N(i) the ``chosen_prompts`` keys of ``K [pool, D]`` with the
  largest cosines; their prompts, ``[length, D]`` each, stand in front of the row's tokens, and h_i is the mean of what
  they become. Prompts, keys (of U(-1, 1)) and classifier (0) alone are trained; the network runs in eval mode.
  ``others`` 'closed': the softmax of a row has its task's classes alone; 'open': all that the stream opens.
  ``selection`` 'batch' is the released code's: all rows of a batch take the prompts that most of them would, so that
  an answer depends on the rows beside it. Answers: -inf for labels that no row has had; a request that takes a class
  whole makes it one of these again, and prompts know nothing of it.

  Deviations: selection by row is the default; gradients are not clipped, and the optimizer goes on from task to task
  unless ``optimizer.reset_per_task``: both are the recipe's. Raises UsageError for a model that takes no prompts or has
  no features, and for more chosen prompts than the pool has. Spec B1; Wang et al., 2022.
  """
  width = places_of(model, "l2p").width
  if chosen_prompts > pool:
    raise UsageError(f"method.chosen_prompts: got {chosen_prompts}; expected at most method.pool, {pool}")

  def init(key):
    return {"tokens": uniform(key, "tokens", pool, length, width), "keys": uniform(key, "keys", pool, width)}

  def selected(trained, asked: Asked):
    """``(places [B, chosen], cosines [B, pool])``."""
    like = likeness(asked.query, trained["keys"])
    return chosen(like, chosen_prompts, selection, asked.there), like

  def prompts(trained, asked: Asked):
    tokens = trained["tokens"][selected(trained, asked)[0]]
    return Prompts(tokens.reshape(tokens.shape[0], chosen_prompts * length, width), read="prompts")

  def near(trained, asked: Asked):
    places, like = selected(trained, asked)
    return jnp.take_along_axis(like, places, axis=-1).sum(-1)

  method = tuned(prompted(model, spec, "l2p", init, prompts), spec, others)
  return method._replace(terms={"keys": pull(strength, near)})


register(
  "l2p",
  Entry(
    l2p,
    {
      "strength": Option(1.0, 0),
      "pool": Option(10, 1),
      "length": Option(10, 1),
      "chosen_prompts": Option(4, 1),
      "selection": Option("row", choices=SELECTION),
      **OPTIONS,
    },
    ACCESS,
    "Wang et al. 2022",
    network="vit",
  ),
)
