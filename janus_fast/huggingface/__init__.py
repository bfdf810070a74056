"""Models, tokenizers and attention of this package in Hugging Face's transformers, from 5.23 on.

Importing it registers all of them: model directories load by ``AutoModelForSeq2SeqLM`` and ``AutoTokenizer``, and
``attn_implementation="janus_fast"`` is there for every model of transformers that takes such a name.
"""

from ..installation import need

need("transformers", "janus_fast.huggingface")
from transformers import (  # noqa: E402
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from .attention import attention_forward, visibility_mask  # noqa: E402
from .configuration import JanusFastConfig, NativeConfig  # noqa: E402
from .decoding import mask_predict, speculative  # noqa: E402
from .modeling import JanusFastForConditionalGeneration  # noqa: E402
from .saving import save_pretrained  # noqa: E402
from .tokenization import JanusFastTokenizer  # noqa: E402

__all__ = [
    "JanusFastConfig", "JanusFastForConditionalGeneration", "JanusFastTokenizer", "attention_forward", "mask_predict",
    "save_pretrained", "speculative", "visibility_mask",
]  # fmt: skip

AutoConfig.register(JanusFastConfig.model_type, JanusFastConfig, exist_ok=True)
AutoConfig.register(NativeConfig.model_type, NativeConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(JanusFastConfig, JanusFastForConditionalGeneration, exist_ok=True)
AutoTokenizer.register(JanusFastConfig, tokenizer_class=JanusFastTokenizer, exist_ok=True)
AttentionInterface.register("janus_fast", attention_forward)
AttentionMaskInterface.register("janus_fast", visibility_mask)
