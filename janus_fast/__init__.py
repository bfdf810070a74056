"""Fast decoding and training of JANUS models: one Transformer, autoregressive and non-autoregressive."""

__version__ = "0.1.0"
