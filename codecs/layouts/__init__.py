"""Tokens to the ids of a language model, and back: vocabulary.py, base.py, frames.py, planned.py, then the members.

names.py says which to choose; language_model.py puts the ids into a Hugging Face model.
"""
