"""The step of beam search whose counts stay on the device, on CUDA alone: no shape depends on data and nothing waits
for the host, so a CUDA graph can hold it. It is ``torch.ops.janus_fast.beam_step`` without a face of its own.

``beam_step(ids [S * B, K], log_probs [S * B, K], divisors, eos, state...)`` is one step of
``janus_fast.decoding.ar.beam_search`` with B hypotheses for each of S sentences, of at most T = longest + 1 steps, its
state written in place. ``ids`` and ``log_probs`` are what may follow each; in the last step, the end alone (minus
infinity for what fills the other places). ``divisors[t]`` [T] float64 is (t + 1) ** length_penalty. State, to begin
with zeros but where another value is named:

    steps [S] int32                             steps done; T when the sentence is done, and nothing of it changes
    totals [S, B] float32, tokens [S, B]        sums of log-probabilities; what each hypothesis reads next
    slots [S, T, B] int32                       which of the sentence's rows wrote the keys and values of a position
    times [S, B] int32, first arange(B)         the number of each hypothesis in the order of their tree
    visible_from, visible_until [S, T, B] int32 which of these numbers see the key that a row wrote in a position; those
                                                of position 0 are first arange(B) and arange(B) + 1
    history_tokens, history_scores [S, T, B]    int32, float32; what was chosen for each row in each step
    finished_count [S] int32                    finished hypotheses, in the order in which they finished:
    finished_lengths [S, B] int32, finished_tokens [S, B, T] int32          tokens without ``eos``
    finished_scores [S, B] float64, finished_token_scores [S, B, T] float32 of the tokens and of ``eos``
    remaining [1] int32, first S                sentences that are not done

Caches do not move: a sentence has one row of keys and values for each position and hypothesis, and attention at
``times`` over ``visible_from`` and ``visible_until`` gives each hypothesis the rows that it descends from, and its own.
"""

from janus_fast.ops._operation import define

STATE = (
    "steps totals tokens slots times visible_from visible_until history_tokens history_scores finished_count"
    " finished_lengths finished_tokens finished_scores finished_token_scores remaining"
).split()
_MUTATED = ", ".join(f"Tensor({chr(ord('a') + i)}!) {name}" for i, name in enumerate(STATE))

define(
    "beam_step",
    f"(Tensor ids, Tensor log_probs, Tensor divisors, int eos, {_MUTATED}) -> ()",
    lambda *arguments: None,
)
