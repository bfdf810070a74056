#!/bin/bash
# transformers 5.23.0: a config.json of model_type "janus" is taken for DeepSeek's Janus, whatever else it holds.
#
# One would guess that a model_type that a library made up for its own files is unknown to AutoConfig, which then refuses
# it, or asks for trust_remote_code where "auto_map" names a class. But transformers has a "janus" of its own: DeepSeek's
# models of images and text. A config.json of an encoder-decoder model of that type is loaded without an error: settings
# that DeepSeek's lacks become attributes beside a Llama of that family's default sizes, and "auto_map" is passed over.
#
# Seen, with the same "d_model": 16, "encoder_layers": 1 and "auto_map", and trust_remote_code=False:
#   model_type "janus": transformers' own JanusConfig, whose text_config is a "llama" of hidden_size 4096; d_model is 16
#   model_type "janus_of_our_own": ValueError, the repository contains custom code
set -euo pipefail
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cat > "$work/run.py" <<'PYTHON'
import json
import sys
from pathlib import Path
from transformers import AutoConfig

def load(kind):
    settings = {"model_type": kind, "d_model": 16, "encoder_layers": 1}
    settings["auto_map"] = {"AutoConfig": "configuration_of_our_own.Config"}
    Path(sys.argv[1], "config.json").write_text(json.dumps(settings))
    return AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=False)

config = load("janus")
print(type(config).__module__, type(config).__name__, config.text_config.model_type, config.text_config.hidden_size)
assert type(config).__module__ == "transformers.models.janus.configuration_janus"
assert (config.text_config.model_type, config.text_config.hidden_size, config.d_model) == ("llama", 4096, 16)
try:
    load("janus_of_our_own")
except ValueError as error:
    print("ValueError:", str(error).splitlines()[0][:80])
else:
    sys.exit("a made-up type is no error")
PYTHON
mkdir "$work/model"
"$work/venv/bin/python" "$work/run.py" "$work/model" 2> /dev/null
