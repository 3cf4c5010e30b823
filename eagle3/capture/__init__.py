"""From token shards to hidden-state shards: the target runs; its states are stored and checked."""
