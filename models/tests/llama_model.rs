//! What must hold for any LLaMA model, whatever its weights: padding, caches, adapters on the head, random weights.

mod common;

use std::ops::ControlFlow;

use autograd::Tape;
use common::{assert_close, largest_difference, load, logits, loss, recorded, values};
use lora::{AdapterSet, Forward, HostBatch, LoraConfig, Model, Targets};
use models::{Cache, Finish, GenerationOptions, Llama, LlamaConfig, RopeScaling, Sampling, WeightType, generate};
use tensor::testing::on_each_backend;
use tensor::{DType, Device, Tensor};

fn tokens(count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * i * 7 + 3 * i + 5) as u32 % 300).collect()
}

/// Tokens for the vocabulary of [`small`].
fn small_tokens(count: usize) -> Vec<u32> {
    tokens(count).into_iter().map(|id| id % 50).collect()
}

fn batch(rows: usize, sequence: usize, ids: Vec<u32>, mask: Option<Vec<u32>>) -> HostBatch {
    let labels = ids.iter().map(|&id| id as i32).collect();
    HostBatch::new(rows, sequence, ids, labels, mask).expect("a batch")
}

fn small() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 50,
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 3,
        head_dim: 8,
        max_position_embeddings: 12,
        rope_scaling: RopeScaling::Linear { factor: 2.0 },
        ..LlamaConfig::preset("tiny").expect("a preset")
    }
}

fn options(max_new_tokens: usize, sampling: Sampling, stop_tokens: &[u32]) -> GenerationOptions {
    GenerationOptions { max_new_tokens, sampling, stop_tokens: stop_tokens.to_vec() }
}

fn proceed(_: u32) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

on_each_backend! {
    fn a_cache_gives_the_logits_of_the_whole_sequence(device) {
        let model = load("llama3_tiny", device);
        let ids = tokens(17);
        let whole = logits(&model, None, &batch(1, 17, ids.clone(), None).to_device(device).expect("a batch"));
        let mut cache = Cache::new();
        let mut start = 0;
        for step in [5, 1, 1, 7, 3] {
            let ids = Tensor::from_slice(device, &[1, step], &ids[start..start + step]).expect("ids");
            let next = model.next_logits(&Forward::evaluation(None), &ids, &mut cache).expect("logits");
            start += step;
            assert_eq!(cache.tokens(), start);
            assert_close(&format!("after {start}"), &values(&next), &whole[(start - 1) * 300..start * 300], 2e-5);
        }
    }

    fn greedy_generation_is_the_argmax_of_the_whole_sequence(device) {
        let model = load("llama_tiny", device);
        let mut sequence = tokens(4);
        let mut seen = Vec::new();
        let receive = |token| { seen.push(token); ControlFlow::Continue(()) };
        let generated = generate(&model, None, &sequence, &options(5, Sampling::Greedy, &[]), receive).expect("tokens");
        assert_eq!((generated.finish, &generated.tokens), (Finish::Length, &seen));
        for token in seen {
            let batch = batch(1, sequence.len(), sequence.clone(), None).to_device(device).expect("a batch");
            let logits = logits(&model, None, &batch);
            let last = &logits[(sequence.len() - 1) * 300..];
            let best = (0..300).max_by(|&a, &b| last[a].total_cmp(&last[b])).expect("a token");
            assert_eq!(token, best as u32);
            sequence.push(token);
        }
    }

    fn padding_on_the_right_changes_nothing(device) {
        let model = load("llama_tiny", device);
        let ids = tokens(9);
        let alone = logits(&model, None, &batch(1, 9, ids.clone(), None).to_device(device).expect("a batch"));
        for filler in [0, 299] {
            let padded = [ids.clone(), vec![filler; 4], tokens(13)].concat();
            let mask = [[1; 9].as_slice(), &[0; 4], &[1; 13]].concat();
            let padded = batch(2, 13, padded, Some(mask)).to_device(device).expect("a batch");
            let padded = logits(&model, None, &padded);
            let difference = largest_difference(&padded[..9 * 300], &alone, 300, &[1; 9]);
            assert!(difference <= 1e-5, "{difference:e}");
        }
    }

    fn adapters_on_the_head_train_too(device) {
        let model = load("llama_tiny", device);
        let targets = Targets::names(["lm_head", "q_proj"]);
        let config = LoraConfig { rank: 2, targets, ..LoraConfig::default() };
        let adapters = AdapterSet::new(config, &model.modules(), device, 7).expect("adapters");
        let batch = batch(2, 6, tokens(12), None).to_device(device).expect("a batch");
        // Fresh adapters change nothing, so the two ways to the loss must meet.
        assert_close("loss", &[loss(&model, Some(&adapters), &batch)], &[loss(&model, None, &batch)], 1e-5);
        let tape = Tape::new();
        let recorded = model.loss(&recorded(&tape, &adapters), &batch).expect("a loss");
        let gradients = tape.backward(&recorded).expect("gradients");
        let head = gradients.get("lm_head.lora_B.weight").expect("the head's gradient");
        assert!(values(head).iter().any(|&value| value.abs() > 1e-4));
        // Down the gradient the loss falls as much as the gradient says.
        let slope: f32 = gradients.iter().flat_map(|(_, gradient)| values(gradient)).map(|value| value * value).sum();
        let mut moved = adapters.clone();
        let rate = 1e-2;
        for (name, gradient) in gradients.iter() {
            let parameter = moved.parameters_mut().get_mut(name).expect("a parameter");
            *parameter = parameter.sub(&gradient.affine(rate, 0.0).expect("scaled")).expect("moved");
        }
        let fall = loss(&model, None, &batch) - loss(&model, Some(&moved), &batch);
        assert!((fall - rate * slope).abs() < 0.1 * rate * slope, "{fall} instead of {}", rate * slope);
    }

    fn random_models_follow_their_seed(device) {
        let model = |seed, device: &Device| Llama::random(small(), seed, device, WeightType::F32).expect("a model");
        let (first, again, other) = (model(1, device), model(1, &Device::cpu()), model(2, device));
        for ((a, b), c) in first.linears().zip(again.linears()).zip(other.linears()) {
            assert_close(a.name(), &values(a.weight()), &values(b.weight()), 1e-6);
            assert_ne!(values(a.weight()), values(c.weight()), "{}", a.name());
        }
        let all: Vec<f32> = first.linears().flat_map(|linear| values(linear.weight())).collect();
        let deviation = (all.iter().map(|x| x * x).sum::<f32>() / all.len() as f32).sqrt();
        assert!((deviation - 0.02).abs() < 0.001, "{deviation}");
        let batch = batch(2, 8, small_tokens(16), None).to_device(device).expect("a batch");
        assert_close("loss", &[loss(&first, None, &batch)], &[50f32.ln()], 0.05);
        let half = Llama::random(small(), 1, device, WeightType::Stored).expect("a model");
        assert!(half.linears().all(|linear| linear.weight().dtype() == DType::Bf16));
        assert_close("bf16 loss", &[loss(&half, None, &batch)], &[loss(&first, None, &batch)], 1e-2);
    }
}

#[test]
fn generation_ends_where_it_should() {
    let device = Device::cpu();
    let model = Llama::random(small(), 3, &device, WeightType::F32).expect("a model");
    let run =
        |prompt: &[u32], options: &GenerationOptions| generate(&model, None, prompt, options, proceed).expect("tokens");
    let all = run(&[1, 2, 3], &options(4, Sampling::Greedy, &[]));
    assert_eq!((all.tokens.len(), all.finish), (4, Finish::Length));
    let stopped = run(&[1, 2, 3], &options(4, Sampling::Greedy, &all.tokens[1..2]));
    let end = all.tokens.iter().position(|token| *token == all.tokens[1]).expect("it is there");
    assert_eq!((stopped.tokens.as_slice(), stopped.finish), (&all.tokens[..=end], Finish::StopToken));
    let refused = generate(&model, None, &[1, 2, 3], &options(4, Sampling::Greedy, &[]), |_| ControlFlow::Break(()));
    assert_eq!(refused.expect("tokens").finish, Finish::Receiver);
    // Twelve positions: the tenth new token is chosen after all of them are read.
    assert_eq!(run(&[1, 2, 3], &options(100, Sampling::Greedy, &[])).tokens.len(), 10);
    assert!(run(&[1], &options(0, Sampling::Greedy, &[])).tokens.is_empty());
    let sampled = |seed| run(&[1], &options(10, Sampling::Nucleus { temperature: 1.0, top_p: 0.9, seed }, &[])).tokens;
    assert_eq!(sampled(1), sampled(1));
    assert_ne!(sampled(1), sampled(2));
}

#[test]
fn wrong_requests_are_refused() {
    let device = Device::cpu();
    let model = Llama::random(small(), 3, &device, WeightType::F32).expect("a model");
    let refusal = |prompt: &[u32]| {
        generate(&model, None, prompt, &options(1, Sampling::Greedy, &[]), proceed).expect_err("refused").to_string()
    };
    assert!(refusal(&[]).contains("the prompt has no tokens"));
    assert!(refusal(&[50]).contains("token 50 of the prompt is not in the vocabulary of 50"));
    assert!(refusal(&[1; 13]).contains("the prompt has 13 tokens; the model was made for at most 12"));
    let long = batch(1, 13, vec![1; 13], None).to_device(&device).expect("a batch");
    let error = model.loss(&Forward::evaluation(None), &long).expect_err("refused").to_string();
    assert!(error.contains("13 tokens are more than the 12 the model was made for"), "{error}");
    let unknown = batch(1, 2, vec![1, 50], None).to_device(&device).expect("a batch");
    let error = model.loss(&Forward::evaluation(None), &unknown).expect_err("refused").to_string();
    assert!(error.contains("token id 50 is not in the model's vocabulary of 50"), "{error}");
    let scores = HostBatch::scores(1, 2, vec![1, 2], vec![0.5], None).expect("a batch");
    let error = model.loss(&Forward::evaluation(None), &scores.to_device(&device).expect("a batch"));
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("a language model learns a token for each position"), "{error}");
    let config = LlamaConfig { num_key_value_heads: 4, ..small() };
    let error = Llama::random(config, 0, &device, WeightType::F32).err().expect("refused").to_string();
    assert!(error.contains("`num_key_value_heads` (4) must divide num_attention_heads (6)"), "{error}");
}
