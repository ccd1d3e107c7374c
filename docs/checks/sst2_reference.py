"""LoRA on SST-2 with transformers and PEFT, as `finetune` is run in README.md (this directory): prints the accuracy on the
validation file and the mean training loss of the last 50 steps, for each seed.

    python sst2_reference.py path/to/mini-deberta path/to/SST-2 0 1 2
"""
import csv
import random
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import (DebertaV2Config, DebertaV2ForSequenceClassification, DebertaV2TokenizerFast,
                          get_linear_schedule_with_warmup)

MODEL, DATA, SEEDS = sys.argv[1], sys.argv[2], [int(seed) for seed in sys.argv[3:]]
STEPS, BATCH, DEVICE = 400, 32, "cuda" if torch.cuda.is_available() else "cpu"
TARGETS = ["query_proj", "key_proj", "value_proj", "attention.output.dense", "intermediate.dense", "output.dense"]
TOKENIZER = DebertaV2TokenizerFast(tokenizer_file=f"{MODEL}/tokenizer.json", pad_token="[PAD]", cls_token="[CLS]",
                                   sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]")


def rows(name):
    with open(f"{DATA}/{name}", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def batch(chosen):
    tokens = TOKENIZER([row["sentence"] for row in chosen], truncation=True, max_length=64, padding=True,
                       return_tensors="pt")
    labels = torch.tensor([int(row["label"]) for row in chosen])
    return {"input_ids": tokens.input_ids.to(DEVICE), "attention_mask": tokens.attention_mask.to(DEVICE),
            "labels": labels.to(DEVICE)}


def run(seed, training, validation):
    torch.manual_seed(seed)
    random.seed(seed)
    config = DebertaV2Config.from_pretrained(MODEL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                                             num_labels=2)
    model = DebertaV2ForSequenceClassification(config)
    stored = torch.load(f"{MODEL}/pytorch_model.bin", map_location="cpu", weights_only=True)
    model.load_state_dict({name: tensor.float() for name, tensor in stored.items()}, strict=False)
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=8, lora_dropout=0.0,
                                             target_modules=TARGETS, modules_to_save=["pooler", "classifier"]))
    model = model.to(DEVICE).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, 50, STEPS)
    order = list(training)
    random.shuffle(order)
    losses = []
    for step in range(STEPS):
        loss = model(**batch(order[step * BATCH:(step + 1) * BATCH])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(validation), 64):
            part = batch(validation[start:start + 64])
            right += (model(**part).logits.argmax(-1) == part["labels"]).sum().item()
    print(f"seed {seed}: accuracy {right / len(validation):.4f}, loss {sum(losses[-50:]) / 50:.4f}", flush=True)


for SEED in SEEDS:
    run(SEED, rows("train.tsv"), rows("dev.tsv"))
