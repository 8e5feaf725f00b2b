"""A labelled set of models: honest fine-tunes by real training, and copies of them in disguises."""
