"""Loads a checkpoint written by `finetune --full` with transformers and compares token ids and logits.

    cargo run --release -p models --example logits -- MODEL - logits.json "Some text"
    python docs/checks/full_roundtrip.py MODEL logits.json "Some text"

Fails where ids differ, logits by more than 1e-4 of the largest, or where transformers finds weights missing or unused.
Versions it was run with: torch 2.5.1, transformers 4.46.3 (see docs/checks/README.md).
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

directory, logits_file, text = sys.argv[1:4]
ours = json.load(open(logits_file))
masked = json.load(open(f"{directory}/config.json"))["model_type"] == "deberta-v2"
loader = AutoModelForMaskedLM if masked else AutoModelForCausalLM
model, report = loader.from_pretrained(directory, torch_dtype=torch.float32, output_loading_info=True)
ids = AutoTokenizer.from_pretrained(directory)(text)["input_ids"]
with torch.no_grad():
    logits = model.eval()(torch.tensor([ours["ids"]])).logits[0]
written = torch.tensor(ours["logits"])
difference = (logits - written).abs().max().item()
left = {key: report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]}
print(f"largest difference of logits {difference:.1e} of {written.abs().max().item():.1f}; ids equal: {ids == ours['ids']}; {left}")
sys.exit(0 if difference < 1e-4 * written.abs().max().item() and ids == ours["ids"] and not left else 1)
