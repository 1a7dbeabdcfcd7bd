"""Methods that answer Forget events by editing a trained model. They train as finetune does; compose them with a
learner through the forget section."""

from __future__ import annotations

import inspect

import jax.numpy as jnp
import optax

from cljax import estimators, unlearning
from cljax.core.calls import since_0_2
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, UsageError
from cljax.methods.penalties.pulls import kind_of
from cljax.methods.registry import Entry, Option, register
from cljax.objectives.objective import row_loss

EDITS = Access(forgets=True, forget_data=True, retain_data=True)
FORGET_ONLY = Access(forgets=True, forget_data=True)


def viewed(model, learner, key):
  """``apply_fn(params, batch) -> Outputs`` of the learner's model at eval mode, statistics of BatchNorm as they are."""

  def apply_fn(params, batch):
    given = {"key": fold(key, "model"), "task": model.task_for(batch.task), "mask": batch.weight}
    return model.apply(params, learner.model_state, batch.x, train=False, **given)[0]

  return apply_fn


# What a factory gives to a pure call, by the names that all of them share; and what none gives.
GIVEN = {"apply_fn", "loss_fn", "params", "key", "forget", "retain", "groups", "classes", "gone", "learned", "init_fn"}
OWN = {"teacher_params", "oracle_params", "validation", "rewind"}  # of who calls it without a registry


OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}  # of an option ``optimizer``


def edit(call, optimizer=optax.sgd, options=()):
  """A registry factory from a pure call of ``cljax.unlearning``, with the names of its ``options``.

  Its first argument is named ``apply_fn`` or ``loss_fn`` and is given the learner's model or its loss of a row; it gets
  the rows that it names, as ``learned`` an objective other than classification, ``optimizer(learning_rate)`` for the
  option ``learning_rate`` where it takes an optimizer, and where it takes ``groups``, ``classes`` or ``gone`` those of
  the request. A parameter of any other name is refused at once, with TypeError: a renamed one must not just go without.
  """
  parameters = inspect.signature(call).parameters
  strange = set(parameters) - GIVEN - OWN - {"optimizer"} - set(options)
  if strange or next(iter(parameters)) not in ("apply_fn", "loss_fn"):
    raise TypeError(f"{call.__name__}: nothing gives it {', '.join(sorted(strange)) or next(iter(parameters))}")

  def factory(model, spec, **options):
    if options.get("retain_loss") == "kl" and spec.objective.divergence is None:
      raise UsageError(f"method.retain_loss: got 'kl', which needs divergence; {spec.objective.name!r} has none")
    if "optimizer" in parameters and "learning_rate" not in parameters:
      chosen = OPTIMIZERS.get(options.pop("optimizer", ""), optimizer)
      options["optimizer"] = chosen(options.pop("learning_rate"))

    def forget(key, learner, request, tools):
      apply_fn = viewed(model, learner, key)
      function = row_loss(spec.objective, apply_fn) if "loss_fn" in parameters else apply_fn
      asked = ("forget", "retain", "groups", "classes", "gone")
      given = {name: getattr(request, name) for name in asked if name in parameters}
      if not spec.objective.classes and "classes" in given:
        given["classes"] = jnp.zeros(0, bool) if "bound" in parameters else None
      if "loss_fn" in parameters and "apply_fn" in parameters:
        given["apply_fn"] = apply_fn
      if "learned" in parameters:
        given["learned"] = None if spec.objective.classes else spec.objective
      if "init_fn" in parameters:
        given["init_fn"] = lambda key: model.init(key)[0]
      params = call(function, learner.params, key=key, **given, **options)
      # Momentum holds gradients of the rows that are gone.
      return tools.reset_optimizer(learner._replace(params=params))

    return Method(forget=forget)

  factory.__doc__, factory.__name__ = call.__doc__, call.__name__
  return factory


SCHEDULE = {"schedule": Option("steps", choices=("steps", "epochs"))}


def retrain(model, spec, *, schedule: str = "steps") -> Method:
  """Exact retraining: the events so far are replayed from initialisation without the deleted rows. Spec A1.

  ``schedule='steps'`` makes the same steps on the same batches, with the deleted rows at weight 0: with nothing deleted
  it gives the original learner to the bit, and what differs otherwise is due to the rows alone; where most rows go, few
  are left in each batch and each is seen as often as before. ``'epochs'`` makes the passes over the rows that are left
  which a run without the deleted ones would have made, so steps shrink with the data, and a task without rows is not
  learned: it is that run, to the bit unless an earlier task went whole (events are numbered as they were).
  """
  del model, spec
  return Method(replay=schedule)


def ssd(
  model, spec, *, alpha, dampening, search: int = 10, importance: str = "empirical", importance_batch: int = 64
) -> Method:
  """Selective synaptic dampening, :func:`cljax.unlearning.ssd`, with the estimators' fast importance.

  ``importance='batched'`` squares the gradient of a mini-batch mean, as the released code does (64 for D, 128 for D_f
  in one script), which couples alpha to the batch size. ``alpha`` is the paper's, and where ``search`` begins; an
  objective without classes has no search. ``search=0`` is the paper's fixed threshold. Spec B1; Foster et al., 2024.
  """
  kind = kind_of(spec, importance, "importance")
  learned = None if spec.objective.classes else spec.objective

  def forget(key, learner, request, tools):
    options = {"kind": kind, "key": fold(key, "importance"), "batch_size": importance_batch, "learned": learned}
    fisher = lambda params, rows: estimators.fisher_diagonal(model, params, learner.model_state, rows, **options)
    params = unlearning.ssd(
      row_loss(spec.objective, viewed(model, learner, key)), learner.params, forget=request.forget,
      retain=request.retain, alpha=alpha, dampening=dampening, importance=fisher,
      search=search if spec.objective.classes else 0, classes=request.classes,
    )  # fmt: skip
    return tools.reset_optimizer(learner._replace(params=params))

  return Method(forget=forget)


# What graddiff has, and what is built upon it.
DIFFERENCE = {
  "forget_weight": Option(0.05, 0),
  "retain_weight": Option(0.95, 0),
  "learning_rate": Option(0.05, 0),
  "steps": Option(50, 0),
  "batch": Option(64, 1),
}


@since_0_2("what a method is checked by stands in its proof record, beside the tests")
def approximate(
  name: str, call, options, reference: str, optimizer=optax.sgd, access=EDITS, needs: tuple[str, ...] = ("classes",)
) -> Entry:
  """Registers an approximate edit, with what it ``needs`` of the objective: 'each' where it is given losses of rows, or
  where ``call`` takes an objective as ``learned``; 'divergence' beside it where it compares predictions."""
  access = access._replace(needs=needs)
  return register(name, Entry(edit(call, optimizer, options), options, access, reference, exactness="approximate"))


ROW_LOSSES, TEACHERS = ("each",), ("each", "divergence")
OUTPUTS = ("each", "plain_inputs")  # of rows, which the edit compares itself
register(
  "retrain",
  Entry(retrain, SCHEDULE, Access(forgets=True, prefix=True, needs=(), unlabelled=True), "spec A1", exactness="exact"),
)
register(
  "ssd",
  Entry(
    ssd,
    {
      "alpha": Option(10.0, 0),
      "dampening": Option(1.0, 0),
      "search": Option(10, 0),
      "importance": Option("empirical", choices=("exact", "sampled", "empirical", "batched")),
      "importance_batch": Option(64, 1),
    },
    EDITS._replace(needs=("each",)),
    "Foster et al. 2024",
    exactness="approximate",
  ),
)
approximate(
  "graddiff",
  unlearning.graddiff,
  {**DIFFERENCE, "bound": Option(1.0, 0), "retain_loss": Option("ce", choices=("ce", "kl"))},
  "Liu et al. 2022; NegGrad+ of Kurmanji et al. 2023",
  needs=ROW_LOSSES,
)
approximate(
  "geometric_disentanglement",
  unlearning.geometric_disentanglement,
  {
    **DIFFERENCE,
    "forget_loss": Option("ascent", choices=("ascent", "npo", "simnpo")),
    "bound": Option(1.0, 0, needs={"forget_loss": ("ascent",)}),
    "beta": Option(0.1, 0, above=True, needs={"forget_loss": ("npo", "simnpo")}),
    "optimizer": Option("sgd", choices=("sgd", "adam")),
    "constraint": Option("descent", choices=("descent", "orthogonal")),
    "history": Option(8, 0),
    "backtracking": Option(False),
    "budget": Option(1e-4, 0, needs={"backtracking": (True,)}),
  },
  "arXiv 2511.17100",
  needs=ROW_LOSSES,
)
approximate(
  "adaptive_orthogonality",
  unlearning.adaptive_orthogonality,
  {**DIFFERENCE, "bound": Option(1.0, 0), "strength": Option(1.0, 0), "gamma": Option(1.0, 0)},
  "arXiv 2602.01703",
  needs=ROW_LOSSES,
)
