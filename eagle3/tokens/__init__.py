"""Token shards, the draft vocabulary and the packing plan."""
