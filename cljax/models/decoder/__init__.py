"""Decoders of text in Llama's and GPT-2's layouts, from scratch or from folders, and what they go on to say."""

from cljax.models.decoder.build import decoder
from cljax.models.decoder.folder import pretrained_decoder
from cljax.models.decoder.saying import generate

__all__ = ["decoder", "generate", "pretrained_decoder"]
