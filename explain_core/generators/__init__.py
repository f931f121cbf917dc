"""The generators of similar and adversarial images."""
