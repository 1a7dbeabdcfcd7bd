"""Zoo models by name, for configurations."""

from __future__ import annotations

import difflib
import inspect
import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from cljax.core.types import Model, UsageError
from cljax.models import named, tuning
from cljax.models.images import cnn, resnet18, vit
from cljax.models.pretrained import folder as folders
from cljax.models.pretrained import pretrained
from cljax.models.pretrained.zero_shot import TEMPLATE, clip_classifier, listed
from cljax.models.zoo import mlp


def from_folder(
  input_shape, num_classes: int, folder: str = "", head: str = "new", size: str = "refuse", normalise: str = "folder"
) -> Model:
  """:func:`cljax.models.pretrained`; ``folder`` has to be given."""
  return pretrained(folder, input_shape, num_classes, head=head, size=size, normalise=normalise)


def from_clip(
  input_shape, num_classes: int, folder: str = "", names: str = "", template: str = TEMPLATE, texts: str = "frozen",
  size: str = "refuse", normalise: str = "folder",
) -> Model:  # fmt: skip
  """:func:`cljax.models.clip_classifier`; ``folder`` and ``names``, one of each class, have to be given."""
  count = len(listed(names))
  if count != num_classes:
    raise UsageError(f"model.names: got {count} names; the data have {num_classes} classes")
  return clip_classifier(folder, input_shape, names, template=template, texts=texts, size=size, normalise=normalise)


BUILT_IN: dict[str, Callable[..., Model]] = {
  "mlp": mlp,
  "cnn": cnn,
  "resnet18": resnet18,
  "vit": vit,
  "pretrained": from_folder,
  "clip_classifier": from_clip,
  **named.NAMED,
}
ZOO = dict(BUILT_IN)  # and what users register
NONE_TOO = ("conditions", "kv_heads", "mlp_width")  # sizes that may be 0
DEEPEST = 1000  # layers: each is traced and compiled by itself


def register(name: str, make: Callable[..., Model]) -> Callable[..., Model]:
  """Gives configurations a model of one's own: ``make(input_shape, num_classes, **options) -> Model``.

  ``input_shape`` is that of a row (of inputs that are a dict, one of shapes by name), ``num_classes`` what the data ask
  of the outputs; each option has a default, and is then ``model.OPTION``. A configuration file that registers it is
  read again by whatever looks at the run. Raises UsageError for a name that is taken or that no command could name, and
  for an option without a default.
  """
  if not isinstance(name, str) or not name.isidentifier():
    raise UsageError(f"model.name: got {name!r:.80}; expected letters, digits and _, no digit first")
  if name in ZOO:
    raise UsageError(f"model.name: {name!r} is already registered")
  if not callable(make):
    raise UsageError(f"make: got {make!r:.80}; expected a function (input_shape, num_classes, **options) -> Model")
  taken = list(inspect.signature(make).parameters.values())
  kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
  lacking = [p.name for p in taken[2:] if p.default is p.empty or p.kind in kinds]
  if len(taken) < 2 or lacking:
    said = f"{', '.join(lacking)} without a default" if lacking else f"{len(taken)} parameters"
    raise UsageError(f"make: has {said}; expected (input_shape, num_classes) and options that have defaults")
  for p in taken[2:]:
    if p.name in tuning.OPTIONS:
      raise UsageError(f"make: has the option {p.name!r}, which every model has; give it another name")
  ZOO[name] = make
  return make


def options(name: str) -> dict:
  """The options of a model itself that a configuration can name, and their defaults; those that every model has beside
  them are ``cljax.models.tuning.OPTIONS``. UsageError for an unknown name."""
  if name not in ZOO:
    near = difflib.get_close_matches(str(name), ZOO, 1)
    hint = f"; did you mean {near[0]}?" if near else "; cljax.models.register adds one of yours"
    raise UsageError(f"model: got {name!r}; allowed: {', '.join(ZOO)}{hint}")
  parameters = inspect.signature(ZOO[name]).parameters
  return {n: p.default for n, p in parameters.items() if p.default is not p.empty}


def build(name: str, input_shape: Any, num_classes: int, *, rows: Sequence[Any] = (), **given: Any) -> Model:
  """The zoo model ``name``; UsageError for an unknown name or option, and for a size that cannot be meant: what it
  takes is estimated before anything is made.

  ``input_shape``: of a row; of inputs that are a dict, one of shapes by name. ``rows``: sets of such inputs, of which
  a model that looks numbers up is checked to have a place for each. ``tuning``, ``tuning_rank``, ``tuning_layers`` and
  ``tuning_trained``, which every model takes: see :mod:`cljax.models.tuning`.
  """
  known = options(name)
  for option in given:
    if option not in known and option not in tuning.OPTIONS:
      raise UsageError(f"{option}: no such option of {name}; allowed: {', '.join((*known, *tuning.OPTIONS))}")
  own = {k: v for k, v in given.items() if k not in tuning.OPTIONS}
  model = _whole(name, known, input_shape, num_classes, rows, own)
  return tuning.tuned(model, **{k: given.get(k, default) for k, default in tuning.OPTIONS.items()})


def _whole(name: str, known: dict, input_shape, num_classes: int, rows, given: dict) -> Model:
  """The model, all of which is trained."""
  if num_classes < 1:
    raise UsageError(f"num_classes: got {num_classes}; must be at least 1")
  values = {**known, **given}
  if name not in BUILT_IN:
    return _own(name, input_shape, num_classes, values)
  _check(values)
  if name not in named.NAMED:
    named.array(name, input_shape)
  wanted, have = 4 * parameters(name, input_shape, num_classes, values), memory()
  if wanted > have:
    sizes = ", ".join(f"{k}={v}" for k, v in values.items() if _sizes(v))
    raise UsageError(
      f"model: {name} with {sizes} would have about {_human(wanted)} of parameters; the limit is this machine's "
      f"memory, {_human(have)}"
    )
  if name not in named.NAMED:
    return ZOO[name](tuple(input_shape), num_classes, **given)
  model = ZOO[name](input_shape, num_classes, **given)
  if model.check_rows is not None:
    for part in rows:
      model.check_rows(part)
  return model


def _own(name: str, input_shape, num_classes: int, values: dict) -> Model:
  """A user's model; UsageError where it makes something else."""
  made = ZOO[name](input_shape if isinstance(input_shape, dict) else tuple(input_shape), num_classes, **values)
  if not isinstance(made, Model):
    raise UsageError(
      f"model: {name} made {type(made).__name__} {made!r:.80}; expected cljax.Model; cljax.models.from_linen, from_nnx "
      "or from_apply make one"
    )
  return made


def _sizes(value) -> list | None:
  """The sizes that an option holds, None where it is none of size."""
  if isinstance(value, int) and not isinstance(value, bool):
    return [value]
  return list(value) if isinstance(value, tuple | list) else None


def _check(values: dict) -> None:
  for option, value in values.items():
    sizes = _sizes(value)
    if option in ("hidden", "widths") and not isinstance(value, tuple | list):
      raise UsageError(f"{option}: got {value!r}; expected a list of widths such as 32,32")
    for size in sizes or ():
      least = 0 if option in NONE_TOO else 1
      if not isinstance(size, int) or isinstance(size, bool) or size < least:
        raise UsageError(f"{option}: got {size!r}; expected integers of at least {least}")
    layers = value if option == "depth" else len(sizes or ())
    if layers > DEEPEST:
      raise UsageError(f"{option}: got {layers} layers; expected at most {DEEPEST}")
    if option == "dropout" and not 0 <= value < 1:
      raise UsageError(f"dropout: got {value!r}; expected 0 <= dropout < 1")


def parameters(name: str, input_shape, num_classes: int, values: dict) -> int:
  """How many parameters a zoo model has, by arithmetic alone; of a folder, how many numbers it holds."""
  if name in named.NAMED:
    return named.parameters(name, input_shape, num_classes, values)
  if name in ("pretrained", "clip_classifier"):
    return folders.size(values["folder"])
  dense = lambda a, b: a * b + b
  channels = input_shape[2] if len(input_shape) > 2 else 1
  if name == "mlp":
    chain = [math.prod(input_shape), *values["hidden"], num_classes]
    return sum(dense(a, b) for a, b in itertools.pairwise(chain))
  if name == "cnn":
    chain = [channels, *values["widths"]]
    return sum(dense(9 * a, b) for a, b in itertools.pairwise(chain)) + dense(chain[-1], num_classes)
  w = values["width"]
  if name == "resnet18":
    total = 9 * channels * w + 2 * w
    for before, b in ((w, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w)):
      total += 9 * before * b + 27 * b * b + 8 * b + (before != b) * (before * b + 2 * b)
    return total + dense(8 * w, num_classes)
  p, inner = values["patch"], values["mlp_ratio"] * w
  tokens = (input_shape[0] // p) * (input_shape[1] // p if len(input_shape) > 1 else 1) + 1
  layer = 4 * w + dense(w, 3 * w) + dense(w, w) + dense(w, inner) + dense(inner, w)
  return dense(p * p * channels, w) + w + tokens * w + values["depth"] * layer + 2 * w + dense(w, num_classes)


def memory() -> int:
  """Bytes of this machine's memory; where that cannot be asked, 64 GiB."""
  try:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, OSError, ValueError):
    return 2**36


def _human(count: float) -> str:
  for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
    if count < 1024:
      return f"{count:.3g} {unit}"
    count /= 1024
  return f"{count:.3g} PiB"
