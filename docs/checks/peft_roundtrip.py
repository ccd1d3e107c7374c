"""Loads an adapter written by this engine with transformers and PEFT and compares logits.

    cargo run --release -p models --example logits -- MODEL ADAPTER logits.json "Some text"
    python docs/checks/peft_roundtrip.py MODEL ADAPTER logits.json

Prints the largest difference of logits with and without the adapter; fails above 1e-4, or when the adapter changed
nothing. Versions it was run with: torch 2.5.1, transformers 4.46.3, peft 0.13.2 (see docs/checks/README.md).
"""
import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

model_directory, adapter_directory, logits_file = sys.argv[1:4]
ours = json.load(open(logits_file))
ids = torch.tensor([ours["ids"]])
base = AutoModelForCausalLM.from_pretrained(model_directory, torch_dtype=torch.float32, attn_implementation="eager")
with torch.no_grad():
    plain = base(ids).logits[0]
    adapted = PeftModel.from_pretrained(base, adapter_directory).eval()(ids).logits[0]
written = torch.tensor(ours["logits"])
difference = (adapted - written).abs().max().item()
effect = (adapted - plain).abs().max().item()
print(f"largest difference to our logits {difference:.2e}; the adapter itself moves logits by up to {effect:.2e}")
sys.exit(0 if difference < 1e-4 and effect > 1e-2 else 1)
