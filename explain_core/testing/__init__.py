"""For tests, here and of whoever adds to it: a toy model, a toy classifier, and what every method promises."""
