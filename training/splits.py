"""The one split of the NIH patients by their ready-made folds; test folds choose nothing."""

TEST_FOLDS = frozenset({0, 1})
VALIDATION_FOLDS = frozenset({2, 3})
