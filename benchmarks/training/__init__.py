"""Training steps, their loss and their memory beside peers; the experiment."""
