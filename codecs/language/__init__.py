"""Language models of tokens: ids.py says what they read, network.py predicts, sampling.py draws.

folder.py keeps them; train/language.py trains them.
"""
