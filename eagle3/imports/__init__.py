"""Hidden states that other projects wrote: found, checked, and converted to shards."""
