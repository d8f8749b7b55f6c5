"""What training asks of a codec beside its reconstruction: base.py is the contract, each idea a file."""
