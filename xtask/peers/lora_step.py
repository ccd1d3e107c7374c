"""The peer of `cargo xtask bench peers`: one LoRA training step by PyTorch, transformers and PEFT.

Takes one argument, a JSON object with the shapes, and prints a JSON object as its last line. The model has random weights in
the real architecture and reads random tokens: neither changes the cost. AdamW trains the adapters only. With
{"versions": true} it only says what it would use.
"""

import json
import sys
import time
import warnings

import peft
import torch
import transformers

WARMUP, STEPS = 4, 12
TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
    # Of these, `dense` is also the pooler's, which is left out.
    "deberta": ["query_proj", "key_proj", "value_proj", "output.dense", "intermediate.dense"],
}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def build(request):
    """The model with adapters, on its device."""
    torch.set_default_dtype(DTYPES[request["weights"]])
    with torch.device(request["device"]):
        if request["family"] == "llama":
            config = transformers.LlamaConfig(attn_implementation="sdpa", **request["config"])
            model, task = transformers.LlamaForCausalLM(config), "CAUSAL_LM"
        else:
            config = transformers.DebertaV2Config(
                max_position_embeddings=512, type_vocab_size=0, relative_attention=True, position_buckets=256,
                norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type="p2c|c2p", position_biased_input=False,
                layer_norm_eps=1e-7, max_relative_positions=-1, num_labels=2, **request["config"])
            model, task = transformers.DebertaV2ForSequenceClassification(config), "SEQ_CLS"
    torch.set_default_dtype(torch.float32)
    rank = request["rank"]
    lora = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=TARGETS[request["family"]], lora_dropout=0.0, task_type=task)
    return peft.get_peft_model(model, lora).to(request["device"]).train()


def measure(request):
    """Seconds of each step after the first ones, and what was trained."""
    cuda = request["device"] == "cuda"
    if cuda and not torch.cuda.is_available():
        sys.exit("this PyTorch finds no CUDA device")
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    model = build(request)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=cuda)
    shape = (request["batch"], request["seq"])
    seconds = []
    for step in range(WARMUP + STEPS):
        tokens = torch.randint(0, request["config"]["vocab_size"], shape, device=request["device"])
        labels = tokens if request["family"] == "llama" else tokens[:, 0] % 2
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        if step >= WARMUP:
            seconds.append(time.perf_counter() - started)
    seconds.sort()
    return {
        "step_seconds": seconds[len(seconds) // 2],
        "trainable": sum(parameter.numel() for parameter in trained),
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }


def main():
    warnings.filterwarnings("ignore")
    request = json.loads(sys.argv[1])
    if request.get("versions"):
        answer = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    else:
        answer = measure(request)
    print(json.dumps(answer))


main()
