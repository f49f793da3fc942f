"""Ways of training that the train benchmark compares, what they train, and on what."""
