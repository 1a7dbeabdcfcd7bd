"""What a node of a syntax tree is to a mutant: text or a number, a check, a module, an axis."""

from __future__ import annotations

import ast

Functions = (ast.FunctionDef, ast.AsyncFunctionDef)
OPPOSITE = {
  "mean": "sum", "max": "min", "maximum": "minimum", "argmax": "argmin", "any": "all", "amax": "amin",
  "nanmax": "nanmin", "nanmean": "nansum", "logical_and": "logical_or", "zeros_like": "ones_like", "zeros": "ones",
  "floor": "ceil", "tril": "triu", "var": "std", "cumsum": "cumprod", "segment_max": "segment_min",
}  # fmt: skip
OPPOSITE |= {new: old for old, new in OPPOSITE.items()}
BUILTIN = ("max", "min", "any", "all")  # of these, what counts as a plain name too
WRITES = {"set": "add", "add": "set", "multiply": "set", "max": "set", "min": "set"}  # x.at[i].set(v)
UNWRAPPED = {
  "square", "abs", "sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "sign", "tanh", "sigmoid", "relu", "softplus",
  "negative", "reciprocal", "clip", "cumsum", "flip", "sort", "softmax", "log_softmax", "transpose", "tril", "triu",
}  # fmt: skip
REDUCTIONS = {
  "sum", "mean", "max", "min", "any", "all", "argmax", "argmin", "prod", "cumsum", "nanmax", "nanmin", "nanmean", "var",
  "std", "median", "argsort", "sort", "softmax", "log_softmax", "logsumexp", "stack", "concatenate", "take", "flip",
}  # fmt: skip
COMMUTES = {"dot", "vdot", "inner", "add", "maximum", "minimum", "max", "min", "multiply", "isinstance", "getattr"}
COMMUTES |= {
  "zip", "hasattr", "issubclass", "where", "logical_and", "logical_or", "result_type", "partial", "print", "map",
  "zeros", "ones", "full", "bits", "vmap", "range", "each", "map_named", "chain",
}  # fmt: skip
# Calls into whose arguments no mutant goes: shapes, dtypes, checks and messages.
PLAIN = {
  "astype", "reshape", "broadcast_to", "ShapeDtypeStruct", "UsageError", "isinstance", "result_type", "finfo", "wide",
  "issubdtype", "promote_types", "expand_dims", "debug", "info", "warning", "print", "register", "fold", "named_scope",
}  # fmt: skip
PLAIN_KEYWORDS = {
  "dtype", "precision", "preferred_element_type", "name", "strict", "copy", "mode", "keepdims", "is_leaf", "unroll",
  "static_argnums", "static_argnames", "donate_argnums", "indices_are_sorted", "unique_indices", "out_specs",
  "in_specs", "interpret", "out_shape", "grid",
}  # fmt: skip
OTHER_SORTS = {
  "key", "model", "spec", "memory", "capacity", "state", "batch", "rows", "shape", "dtype", "reference", "references",
  "name", "init", "update", "learner", "task", "f", "g", "of", "state_dtype", "one", "forget", "retain",
}  # fmt: skip
CONVERSIONS = {"astype", "_together", "lenient", "tuple", "list", "dict", "float", "int", "str", "sorted"}
OF_COURSE = ("batch", "seed", "random", "chunk", "block")  # in the name of an option: how, not what is computed
CHECKS = (
  "check", "_check", "as_", "_as", "validate", "positive", "match", "fit", "evaluated", "upcast", "refuse", "canonic",
)  # fmt: skip
SYMBOLS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
COMPARED = {"<": ("<=", ">"), "<=": ("<", ">="), ">": (">=", "<"), ">=": (">", "<="), "==": ("!=",), "!=": ("==",)}
TINY = 1e-4  # a constant below it keeps a quotient or a logarithm finite


def head(node) -> str:
  """A statement on one line; of a compound one what stands before its body."""
  if isinstance(node, ast.If | ast.While):
    return f"{type(node).__name__.lower()} {ast.unparse(node.test)}"
  if isinstance(node, ast.For):
    return f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
  return " ".join(ast.unparse(node).split())


def last_line(node) -> int:
  """Of a statement; of a compound one that of its head."""
  part = node.test if isinstance(node, ast.If | ast.While) else node.iter if isinstance(node, ast.For) else node
  return part.end_lineno or node.lineno


def short(node, old: str, code: str) -> tuple[str, str]:
  """What the table shows: the changed part where the whole call would hide it."""
  return (f"{old} in {ast.unparse(node)}" if old else ast.unparse(node)), code


def join(qualname: str, name: str) -> str:
  return f"{qualname}.{name}" if qualname else name


def name(node) -> str:
  return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def module(node) -> bool:
  """Whether a function is looked up in it, and not a method of a value: ``jnp``, ``jax.lax``, ``tree``."""
  while isinstance(node, ast.Attribute):
    node = node.value
  return isinstance(node, ast.Name) and node.id in (
    "jnp", "np", "jax", "optax", "tree", "common", "nnx", "nn", "linen", "slots", "losses", "regularizers",
    "estimators", "projectors", "optimizers", "memories", "models", "dtypes", "functools", "math", "lax",
  )  # fmt: skip


def constant(node) -> bool:
  return isinstance(node, ast.Constant) or (isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant))


def number(node) -> float | None:
  """A literal number's value."""
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and (value := number(node.operand)) is not None:
    return -value
  if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
    return node.value
  return None


def tiny(node) -> bool:
  value = number(node)
  names = read(node) if not constant(node) else set()
  return (value is not None and abs(value) < TINY) or bool(names & {"EPS", "_EPS", "TINY", "_TINY"}) or (
    isinstance(node, ast.Attribute) and node.attr in ("eps", "tiny", "smallest_normal")
  )  # fmt: skip


def listed(node) -> bool:
  """Text or a sequence written out: ``+`` and ``*`` join and repeat it."""
  if isinstance(node, ast.BinOp):
    return listed(node.left) or listed(node.right)
  text = isinstance(node, ast.Constant) and isinstance(node.value, str)
  return text or isinstance(node, ast.JoinedStr | ast.List | ast.Tuple | ast.ListComp | ast.Dict | ast.Set)


def kind_test(node) -> bool:
  """Asks what is given, not what its value is: ``x is None``, ``isinstance``, a traced value."""
  if isinstance(node, ast.UnaryOp):
    return kind_test(node.operand)
  if isinstance(node, ast.BoolOp):
    return any(map(kind_test, node.values))
  if isinstance(node, ast.Compare):
    return isinstance(node.ops[0], ast.Is | ast.IsNot) or any(name(n) == "dtype" for n in ast.walk(node))
  asks = ("isinstance", "issubclass", "hasattr", "callable", "issubdtype")
  return isinstance(node, ast.Call) and name(node.func) in asks


def check_call(node) -> bool:
  """``check(..)``, ``as_rows("forget", ..)``, ``positive("n", n)``: gives back what it was given, or refuses it."""
  if not isinstance(node, ast.Call):
    return False
  called = name(node.func)
  told = bool(node.args) and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
  return called.startswith(CHECKS) or (told and called not in ("fold", "getattr")) or called == "asarray"


def converts(node) -> bool:
  """Gives what it was given, in another dtype or form, or refuses it."""
  if isinstance(node, ast.Tuple):
    return all(map(converts, node.elts))
  return check_call(node) or (isinstance(node, ast.Call) and name(node.func) in CONVERSIONS)


def plain_statement(node) -> bool:
  """A statement in which no mutant could matter: docstrings, checks, errors, ``del``, imports."""
  if isinstance(node, ast.Raise | ast.Assert | ast.Delete | ast.Import | ast.ImportFrom | ast.Pass | ast.Global):
    return True
  if isinstance(node, ast.If):
    return isinstance(node.body[-1], ast.Raise) and all(map(plain_statement, node.orelse))
  if isinstance(node, ast.Expr):
    return isinstance(node.value, ast.Constant) or check_call(node.value)
  return False


def axis_argument(node: ast.Call):
  """The literal axis of a reduction, by keyword or place."""
  for k in node.keywords:
    if k.arg == "axis":
      return k.value if constant(k.value) else None
  called, method = name(node.func), isinstance(node.func, ast.Attribute) and not module(node.func.value)
  at = 0 if method else 1
  if called in REDUCTIONS and isinstance(node.func, ast.Attribute) and len(node.args) > at and constant(node.args[at]):
    return node.args[at] if number(node.args[at]) is not None else None
  return None


def swappable(node: ast.Call) -> bool:
  """Whether the first two arguments are of one sort, as far as their names tell, and their order matters."""
  called, first = name(node.func), node.args[:2]
  if len(first) < 2 or called in COMMUTES or called[:1].isupper() or not all(isinstance(a, ast.Name) for a in first):
    return False
  names = {a.id for a in first if isinstance(a, ast.Name)}
  functions = {a.id for a in node.args if isinstance(a, ast.Name) and a.id.endswith(("_fn", "fn"))}
  return len(names) == 2 and not names & OTHER_SORTS and not functions


def updates(node, kept: str) -> bool:
  """Whether it makes the new state: ``kept._replace(..)``, ``State(kept.count + 1)``, ``moved(kept, ..)``."""
  if not isinstance(node, ast.Call) or kept not in read(node):
    return False
  called = name(node.func)
  first = node.args[0] if node.args else None
  return called == "_replace" or called[:1].isupper() or (isinstance(first, ast.Name) and first.id == kept)


def of_types(node) -> bool:
  """Whether it chooses among dtypes."""
  told = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)} | read(node)
  return bool(told & {"itemsize", "finfo", "issubdtype", "wide", "dtype", "state_dtype", "Tracer"})


def options(args: ast.arguments) -> set[str]:
  """Parameters that are numbers: by their default, or in a method's factory keyword-only ones without a default."""
  factory = [a.arg for a in args.args[:2]] == ["model", "spec"]
  pairs: list = list(zip(args.kwonlyargs, args.kw_defaults, strict=True))
  pairs += zip(args.args[len(args.args) - len(args.defaults) :], args.defaults, strict=True)
  numbers = {a.arg for a, d in pairs if (factory if d is None else number(d) is not None)}
  return {name for name in numbers if not any(n in name for n in OF_COURSE)}


def yields(node) -> bool:
  return any(isinstance(n, ast.Yield | ast.YieldFrom) for n in ast.walk(node))


def read(node) -> set[str]:
  names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
  return names | ({node.target.id} if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) else set())


def written(node) -> set[str]:
  return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
