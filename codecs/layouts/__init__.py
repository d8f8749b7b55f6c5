"""Tokens to the ids of a language model, and back: vocabulary.py, base.py, frames.py, then the members."""
