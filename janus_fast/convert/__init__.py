"""Other people's checkpoints."""

_ROOMS = ("ctranslate2", "fairseq", "hub", "huggingface", "marian", "marian_native", "opennmt", "to_ctranslate2")


def __getattr__(name):
    if name not in _ROOMS:
        raise AttributeError(f"module 'janus_fast.convert' has no attribute {name!r}")
    from importlib import import_module

    return import_module(f".{name}", __name__)
