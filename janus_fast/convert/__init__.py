"""Other people's checkpoints."""


def __getattr__(name):
    if name not in ("ctranslate2", "fairseq", "hub", "huggingface", "marian", "opennmt", "to_ctranslate2"):
        raise AttributeError(f"module 'janus_fast.convert' has no attribute {name!r}")
    from importlib import import_module

    return import_module(f".{name}", __name__)
