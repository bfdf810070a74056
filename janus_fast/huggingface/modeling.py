"""``janus_fast.JanusModel`` as transformers has models: ``generate`` by its searches, over a cached step."""

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from .. import weights
from ..directory import WEIGHTS
from ..inputs import OptionError
from ..model import JanusModel, Positions
from ..packing import offsets_of
from ..visibility import FOREVER, Visibility
from .configuration import JanusFastConfig


class JanusFastForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """An encoder-decoder of this package, left to right; parameters have the names that model directories use.

    Padding is left out of what is computed: ``attention_mask`` [B, S] says which of ``input_ids`` are tokens.
    ``janus_fast.huggingface.mask_predict`` and ``speculative`` decode in the other ways, as ``custom_generate``.
    """

    config_class = JanusFastConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True

    def __init__(self, config: JanusFastConfig):
        super().__init__(config)
        if config.native.recurrent:
            words = "be 'self-attention' for transformers, whose caches hold keys and values"
            raise OptionError("JanusFastForConditionalGeneration: decoder_autoreg", words, "'ssru'")
        native = JanusModel(config.native)
        self.encoder, self.decoder = native.encoder, native.decoder
        self.encoder.main_input_name = self.main_input_name  # generate asks for it
        tied = {}
        if config.share_decoder_embeddings:
            tied["decoder.output_projection.weight"] = "decoder.embed_tokens.weight"
        if config.share_all_embeddings:
            tied = dict.fromkeys(
                ("decoder.embed_tokens.weight", "decoder.output_projection.weight"), "encoder.embed_tokens.weight"
            )
        self._tied_weights_keys = tied
        self.post_init()
        self.generation_config = config.generation_config()

    @classmethod
    def from_pretrained(cls, name, *arguments, **options):
        """As of every model; weights that a directory stores as int8 are read as float32."""
        file = os.path.join(str(name), WEIGHTS)
        if "state_dict" in options or not os.path.isfile(file):
            return super().from_pretrained(name, *arguments, **options)
        config = options.pop("config", None) or cls.config_class.from_pretrained(name)
        arrays = weights.read(file, config.native)
        if not weights.is_quantised(arrays):
            return super().from_pretrained(name, *arguments, config=config, **options)
        state = {name: torch.from_numpy(array) for name, array in weights.float32(arrays).items()}
        return super().from_pretrained(None, *arguments, config=config, state_dict=state, **options)

    def adjust_generation_fn(self, *arguments, **options):
        super().adjust_generation_fn(*arguments, **options)
        if self.generation_config._from_model_config:  # there is no generation_config.json
            self.generation_config = self.config.generation_config()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """What ``JanusModel.reset_parameters`` draws; and the tables of sines, which no file holds."""
        if isinstance(module, Positions) and not isinstance(module.weight, nn.Parameter):
            init.copy_(module.weight, Positions(self.config.native, module.size).weight)
        elif isinstance(module, (nn.Embedding, Positions)) or module is self.decoder.output_projection:
            init.normal_(module.weight, 0.0, self.config.d_model**-0.5)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
        if getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)

    def _set_gradient_checkpointing(self, enable: bool = True, gradient_checkpointing_func=None) -> None:
        self.encoder.checkpoint_activations = self.decoder.checkpoint_activations = enable

    def native(self) -> JanusModel:
        """The ``janus_fast.JanusModel`` whose parameters these are."""
        with torch.device("meta"):
            model = JanusModel(self.config.native)
        model.encoder, model.decoder = self.encoder, self.decoder
        return model.train(self.training)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.output_projection

    def resize_token_embeddings(self, *arguments, **options):
        raise NotImplementedError("resize_token_embeddings: a model of janus_fast must keep its vocabulary's size")

    def get_encoder(self, modality: str | None = None) -> "Encoder":
        return Encoder(self)

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None, decoder_attention_mask: Tensor | None = None,
        encoder_outputs=None, past_key_values: EncoderDecoderCache | None = None, labels: Tensor | None = None,
        use_cache: bool | None = None, return_dict: bool | None = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, cache: EncoderDecoderCache | None = None,
    ):  # fmt: skip
        """Logits [B, T, V] of what follows each of ``decoder_input_ids`` [B, T], and those that ``past_key_values``
        hold (``cache`` since transformers 5.24); with ``labels`` [B, T] (-100: none) their mean cross-entropy, and
        labels shifted as inputs by default."""
        _refuse(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        if encoder_outputs is None:
            encoder_outputs = self.get_encoder()(input_ids, attention_mask)
        encoded = encoder_outputs[0]
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("forward: decoder_input_ids must be given, or labels, got neither")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        past = past_key_values if cache is None else cache
        if past is None and (use_cache if labels is None else False):
            past = EncoderDecoderCache(DynamicCache(), DynamicCache())
        hidden = self._decode(decoder_input_ids, decoder_attention_mask, encoded, attention_mask, past)
        logits, loss = self.decoder.output_projection(hidden), None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        output = Seq2SeqLMOutput(loss=loss, logits=logits, encoder_last_hidden_state=encoded, past_key_values=past)
        return output if return_dict is not False else output.to_tuple()

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder starts with, and all labels but the last; padding where there is none."""
        inputs = F.pad(labels[:, :-1], (1, 0), value=self.config.decoder_start_token_id)
        return inputs.masked_fill(inputs == -100, self.config.pad_token_id)

    def _decode(
        self, tokens: Tensor, mask: Tensor | None, encoded: Tensor, source_mask: Tensor | None, past
    ) -> Tensor:  # fmt: skip
        """Hidden rows [B, T, C] that predict what follows each token [B, T], over the keys that ``past`` holds."""
        config, decoder, device = self.config, self.decoder, tokens.device
        (batch, length), size = tokens.shape, encoded.shape[1]
        begin = past.get_seq_length() if past is not None else 0
        if begin + length > config.max_target_positions:
            most = config.max_target_positions
            raise ValueError(f"forward: decoder_input_ids must have at most {most} positions, got {begin + length}")
        rows, streams = batch * length, 2 if config.two_stream else 1
        tokens = tokens.flatten()
        if config.two_stream:  # the query rows predict
            tokens = torch.cat([tokens, torch.full_like(tokens, config.mask_token_id)])
        places = torch.arange(begin, begin + length, device=device).repeat(streams * batch)
        seen = _visibility(device, batch, streams, begin, length, begin + length, mask)
        cross = _visibility(device, batch, streams, None, length, size, source_mask)
        if past is None:
            keys, last = decoder.cross_keys(encoded.flatten(0, 1)), torch.arange(rows * streams, device=device)[-rows:]
            return decoder(tokens, places, seen, keys, cross, last).view(batch, length, -1)
        x = decoder.embed(tokens, places)
        for number, layer in enumerate(decoder.layers):
            attention = layer.self_attn
            normed = layer.before(layer.self_attn_layer_norm, x)
            own = (part.view(batch, length, *part.shape[1:]) for part in attention.keys_values(normed[:rows]))
            keys = past.self_attention_cache.update(*(part.transpose(1, 2) for part in own), number)
            x = layer.after(layer.self_attn_layer_norm, x, attention.attend(normed, *_packed(keys), seen))
            attention, held = layer.encoder_attn, past.cross_attention_cache
            if past.is_updated.get(number):
                keys = held.layers[number].keys, held.layers[number].values
            else:
                theirs = (
                    part.view(batch, size, *part.shape[1:]) for part in attention.keys_values(encoded.flatten(0, 1))
                )
                keys = held.update(*(part.transpose(1, 2) for part in theirs), number)
                past.is_updated[number] = True
            normed = layer.before(layer.encoder_attn_layer_norm, x)
            x = layer.after(layer.encoder_attn_layer_norm, x, attention.attend(normed, *_packed(keys), cross))
            x = layer.feed_forward(x)
        return decoder.finish(x[-rows:]).view(batch, length, -1)


class Encoder:
    """The encoder over padded sources, as ``generate`` calls it."""

    def __init__(self, model: JanusFastForConditionalGeneration):
        self.model = model

    def __call__(self, *arguments, **options) -> BaseModelOutput:
        return self.forward(*arguments, **options)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None,
    ) -> BaseModelOutput:  # fmt: skip
        """Encoded rows [B, S, C] of ``input_ids`` [B, S], zeros where there is padding."""
        _refuse(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        there = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        lengths, most = there.sum(1), self.model.config.max_source_positions
        if lengths.numel() and int(lengths.max()) > most:
            raise ValueError(f"forward: input_ids must have at most {most} tokens a source, got {int(lengths.max())}")
        encoded = self.model.encoder(input_ids[there], offsets_of(lengths))
        return BaseModelOutput(
            encoded.new_zeros(*input_ids.shape, encoded.shape[-1]).masked_scatter(there[..., None], encoded)
        )


def _refuse(**asked) -> None:
    for name, value in asked.items():
        if value:
            raise ValueError(f"forward: {name} must be false, as they are not kept, got {value}")


def _packed(keys: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Keys and values as caches have them [B, H, S, D], as rows [B * S, H, D]."""
    return [part.transpose(1, 2).flatten(0, 1) for part in keys]


def _visibility(
    device, batch: int, streams: int, begin: int | None, length: int, keys: int, mask: Tensor | None
) -> Visibility:
    """What ``length`` rows of each sentence and stream see of its ``keys``: those up to their own place, the first of
    which is ``begin``; or all (None). What ``mask`` [B, keys] leaves out nobody sees."""
    make = {"dtype": torch.int32, "device": device}
    sentences, rows = torch.arange(batch, **make), torch.arange(length, **make)
    first = (torch.arange(keys, **make) if begin is not None else torch.zeros(keys, **make)).repeat(batch)
    if mask is not None:
        first = first.masked_fill(~mask.bool().flatten(), FOREVER)
    return Visibility(
        torch.arange(streams * batch + 1, **make) * length, torch.arange(batch + 1, **make) * keys,
        sentences.repeat(streams), (rows + (begin or 0)).repeat(streams * batch), first,
        torch.full_like(first, FOREVER),
    )  # fmt: skip
