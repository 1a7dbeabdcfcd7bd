"""What a program has of a member whose stream is its own, inside the trace (:mod:`cljax.engine.own_streams`).

``hyper[OWN]``, beside the hyper-parameters: ``labels``, ``tables``, and where a program needs them ``where`` (start,
steps and total), ``count``, ``rows`` and ``blocks``. The functions give what all members were given with the member's
own in place, and of a shared stream what they got.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OWN = "own stream"  # no hyper-parameter is called so: theirs are section.name


def of_member(values: Mapping[str, Any], spec, show) -> tuple[dict[str, Any], Any]:
  """``(values, spec)``: the hyper-parameters themselves, and the sizes with views that ``show`` makes of its tables."""
  if OWN not in values:
    return dict(values), spec
  mine = values[OWN]["tables"]
  rest = {k: v for k, v in values.items() if k != OWN}
  return rest, spec._replace(view=lambda x, row_task: show(mine, x, row_task))


def tables(values: Mapping[str, Any], shared):
  """The tables of a member's views; ``shared`` where all have them."""
  return values[OWN]["tables"] if OWN in values else shared


def steps(hyper: Mapping[str, Any], shared: tuple) -> tuple:
  """``(data, position, count)`` of a chunk."""
  if OWN not in hyper:
    return shared
  data, where, _ = shared
  return _data(hyper, data), _where(hyper, where), hyper[OWN]["count"]


def boundary(hyper: Mapping[str, Any], shared: tuple) -> tuple:
  """``(data, position, index, task, count)`` of a task's boundary."""
  if OWN not in hyper:
    return shared
  data, where, *_ = shared
  return _data(hyper, data), _where(hyper, where), *hyper[OWN]["rows"]


def evaluation(hyper: Mapping[str, Any], shared: tuple) -> tuple:
  """``(data, judged, blocks)`` of an evaluation."""
  if OWN not in hyper:
    return shared
  data, judged, blocks = shared
  return _data(hyper, data), judged, hyper[OWN].get("blocks", blocks)


def _data(hyper, data):
  return data._replace(labels=hyper[OWN]["labels"], tables=hyper[OWN]["tables"])


def _where(hyper, where):
  start, count, total = hyper[OWN]["where"]
  return where._replace(start=start, steps=count, total=total)
