"""Gradients of every parameter of the tiny fixtures' models, by transformers and PyTorch, in short: of each its norm and
its product with sin(0, 1, 2, ...). models/tests/full_gradients.rs holds the engine to them.

    python docs/checks/full_gradients.py models/tests/fixtures > models/tests/fixtures/full_gradients.json

Versions: torch 2.5.1, transformers 4.46.3.
"""
import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, DebertaV2ForMaskedLM


def short(model, **batch):
    model.eval()
    loss = model(**batch).loss
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        flat = parameter.grad.double().flatten()
        waves = torch.sin(torch.arange(flat.numel(), dtype=torch.float64))
        gradients[name] = [flat.norm().item(), flat.dot(waves).item()]
    return {"loss": loss.item(), "gradients": gradients}


def waves(shape, phase):
    count = torch.Size(shape).numel()
    return (0.1 * torch.sin(torch.arange(count, dtype=torch.float64) + phase)).float().reshape(shape)


def batch_of(name):
    golden = load_file(f"{fixtures}/{name}/golden.safetensors")
    return {key: golden[key] for key in ("input_ids", "attention_mask", "labels")}


fixtures = sys.argv[1]
result = {}
for name in ("llama_tiny", "llama3_tiny"):
    model = AutoModelForCausalLM.from_pretrained(f"{fixtures}/{name}/model", attn_implementation="eager")
    result[name] = short(model, **batch_of(name))
directory = f"{fixtures}/deberta_v3_tiny_cls/model"
batch = batch_of("deberta_v3_tiny_cls")
result["deberta_v3_tiny_cls"] = short(AutoModelForSequenceClassification.from_pretrained(directory), **batch)
model = DebertaV2ForMaskedLM.from_pretrained(directory)
with torch.no_grad():
    transform = model.cls.predictions.transform
    transform.dense.weight.copy_(waves((64, 64), 0))
    transform.dense.bias.copy_(waves((64,), 1))
    transform.LayerNorm.weight.copy_(1 + waves((64,), 2))
    transform.LayerNorm.bias.copy_(waves((64,), 3))
    model.cls.predictions.bias.copy_(waves((300,), 4))
ids, mask = batch["input_ids"], batch["attention_mask"]
chosen = (mask == 1) & (torch.arange(ids.shape[1]) % 5 == 1)
labels = torch.where(chosen, (ids * 7 + 3) % 300, -100)
result["masked"] = short(model, input_ids=ids, attention_mask=mask, labels=labels)
json.dump(result, sys.stdout, indent=1)
print()
