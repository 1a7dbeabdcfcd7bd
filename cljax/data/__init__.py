"""Datasets in memory: ``load(name, data_dir=..., **options) -> Dataset``. Importing this loads no data library."""

from cljax.data.arrays import from_arrays
from cljax.data.authors import Answered, Authors, Fact, answered_rows, fictitious_authors
from cljax.data.loading import load, options
from cljax.data.tokens import Tokenizer, answered, byte_tokenizer, conversation, tokenizer, train_tokenizer
from cljax.data.types import Dataset, Split

__all__ = [
  "Answered", "Authors", "Dataset", "Fact", "Split", "Tokenizer", "answered", "answered_rows", "byte_tokenizer",
  "conversation", "fictitious_authors", "from_arrays", "load", "options", "tokenizer", "train_tokenizer",
]  # fmt: skip
