"""Makes the fixture of an adapter with `bias: all`: a PEFT adapter on the tiny DeBERTaV3 classifier whose factors, biases
and classifier are moved away from their beginnings, and the logits that PEFT gives with it.

    python docs/checks/bias_all.py models/tests/fixtures/deberta_v3_tiny_cls

Versions: torch 2.5.1, transformers 4.46.3, peft 0.13.2.
"""
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

directory = sys.argv[1]
golden = load_file(f"{directory}/golden.safetensors")
batch = {key: golden[key] for key in ("input_ids", "attention_mask")}
base = AutoModelForSequenceClassification.from_pretrained(f"{directory}/model")
config = LoraConfig(r=2, lora_alpha=4, target_modules=["query_proj", "value_proj"], bias="all", task_type="SEQ_CLS")
model = get_peft_model(base, config).eval()
torch.manual_seed(5)
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))
    logits = model(**batch).logits
model.save_pretrained(f"{directory}/adapter_bias_all")
base = AutoModelForSequenceClassification.from_pretrained(f"{directory}/model")
with torch.no_grad():
    again = PeftModel.from_pretrained(base, f"{directory}/adapter_bias_all").eval()(**batch).logits
print(f"read back by PEFT: logits differ by {(again - logits).abs().max().item():.1e}")
save_file({"logits": logits}, f"{directory}/golden_bias_all.safetensors")
