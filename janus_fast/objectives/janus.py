"""JANUS (EMNLP 2022): AR, NAR and AUX together, tied by symmetric divergences on the masked positions."""

from ..config import JanusConfig
from .objective import Objective


def janus(config: JanusConfig, *, auxiliary: bool = True, **options) -> Objective:
    """L = CE(ar) + 0.5 (CE(nar) + CE(aux)) + 0.1 CE(length) + J(ar, nar) + 3 J(ar, aux) + J(nar, aux).

    Without the auxiliary stream, CE(ar) + CE(nar) + 0.1 CE(length) + J(ar, nar): fewer rows.
    """
    if auxiliary:
        return Objective(config, ("ar", "nar", "aux"), **options)
    return Objective(config, ("ar", "nar"), **{"cross_entropy": {"ar": 1.0, "nar": 1.0}, **options})
