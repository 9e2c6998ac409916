"""Training: the shared loop, its parts, and the training of classifiers."""
