"""A corpus becomes tokens: a plan of work units, a pure function of each, shards that are whole or not there."""
