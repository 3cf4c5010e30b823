"""Operations that are faster than plain torch, each with a plain twin in its tests."""
