"""The commands of ``janus-fast``: each module has ``add_arguments(parser)`` and ``run(arguments) -> exit status``."""
