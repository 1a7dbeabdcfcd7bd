"""The text of a small configuration, for tests that start launchers on a file of their own."""

HEAD = "from ml_collections import ConfigDict\n"
BODY = """
def get_config():
  config = ConfigDict()
  config.data = ConfigDict({"name": "digits"})
  config.stream = ConfigDict({"kind": "class", "tasks": 2, "rows": 60})
  config.model = ConfigDict({"name": "mlp", "hidden": (4,)})
  return config
"""


def text(between: str = "") -> str:
  """Two tasks of digits, 60 rows, an MLP of four units; ``between`` stands behind its imports."""
  return HEAD + between + BODY
