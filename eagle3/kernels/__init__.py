"""Operations that are faster than plain torch, each tested against a plain version."""
