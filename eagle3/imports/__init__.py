"""Hidden states that other projects have written: found, checked, and converted to our shards."""
