"""Training: parallel text in, a model directory out."""
