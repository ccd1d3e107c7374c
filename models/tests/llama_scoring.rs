//! Losses of single sequences, of several adapters in one pass, and of batches in which few positions count.

mod common;

use autograd::Tape;
use lora::{AdapterSet, AdapterStack, Forward, HostBatch, IGNORED, LoraConfig, Model, Targets};
use models::Llama;
use tensor::testing::on_each_backend;

use common::{assert_close, load, loss, recorded, values};

/// `batch` sequences of 40 tokens with a label wherever `counts` says so, given sequence and position.
fn batch(batch: usize, counts: impl Fn(usize, usize) -> bool) -> HostBatch {
    let ids: Vec<u32> = (0..batch * 40).map(|index| (index * 7 % 50) as u32).collect();
    let label =
        |index: usize| if counts(index / 40, index % 40) { ids[(index + 1) % ids.len()] as i32 } else { IGNORED };
    let labels = (0..ids.len()).map(label).collect();
    let mask = (0..ids.len()).map(|index| u32::from(index >= 3)).collect();
    HostBatch::new(batch, 40, ids, labels, Some(mask)).unwrap()
}

/// An adapter that changes what the model says.
fn adapter(model: &Llama, seed: u64, targets: &[&str]) -> AdapterSet {
    let config = LoraConfig { rank: 2, targets: Targets::names(targets.iter().copied()), ..LoraConfig::default() };
    let mut set = AdapterSet::new(config, &model.modules(), model.device(), seed).unwrap();
    let modules: Vec<String> = set.adapters().map(|adapter| adapter.module.clone()).collect();
    for module in modules {
        let factors = set.factors(&module).unwrap();
        let (a, b) = (factors.a.affine(3.0, 0.0).unwrap(), factors.b.affine(0.0, 0.3).unwrap());
        set.set_factors(&module, a, b).unwrap();
    }
    set
}

on_each_backend! {
    fn sequences_are_scored_one_by_one(device) {
        let model = load("llama_tiny", device);
        for targets in [&["q_proj", "down_proj"][..], &["v_proj", "lm_head"]] {
            let set = adapter(&model, 1, targets);
            // All positions, few of them, and a sequence without any.
            for counts in [|_, _| true, |sequence, position| position % 13 == sequence, |sequence, _| sequence == 1] {
                let host = batch(3, counts);
                let scores = model.sequence_losses(&Forward::evaluation(Some(&set)), &host).unwrap();
                for (index, &score) in scores.iter().enumerate() {
                    let part = index * 40..(index + 1) * 40;
                    let mask = host.key_mask().map(|mask| mask[part.clone()].to_vec());
                    let labels = host.labels()[part.clone()].to_vec();
                    let alone = HostBatch::new(1, 40, host.ids()[part].to_vec(), labels, mask).unwrap();
                    let expected = match alone.valid() {
                        0 => 0.0,
                        _ => loss(&model, Some(&set), &alone.to_device(device).unwrap()),
                    };
                    assert_close("score", &[score as f32], &[expected], 1e-5);
                }
            }
        }
    }

    fn several_adapters_share_a_pass(device) {
        let model = load("llama_tiny", device).with_loss_chunk_rows(50);
        for targets in [&["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"][..], &["lm_head"]] {
            let sets: Vec<AdapterSet> = (0..5).map(|seed| adapter(&model, seed, targets)).collect();
            let stack = AdapterStack::of(&sets).unwrap().unwrap();
            for counts in [|_, _| true, |sequence, position| position % 13 == sequence] {
                let host = batch(3, counts);
                let together = model.sequence_losses(&Forward::stacked(&stack), &host.repeated(5)).unwrap();
                let mut apart = Vec::new();
                for set in &sets {
                    apart.extend(model.sequence_losses(&Forward::evaluation(Some(set)), &host).unwrap());
                }
                let floats = |losses: &[f64]| losses.iter().map(|&loss| loss as f32).collect::<Vec<_>>();
                assert_close("scores", &floats(&together), &floats(&apart), 1e-5);
                assert_ne!(apart[0], apart[3], "the adapters differ");
            }
        }
    }

    fn few_labels_give_the_loss_and_gradients_of_all_rows(device) {
        let model = load("llama_tiny", device);
        let set = adapter(&model, 1, &["q_proj", "up_proj"]);
        let few = batch(3, |sequence, position| position % 13 == sequence).to_device(device).unwrap();
        assert!(few.labelled.is_some());
        let mut all = few.clone();
        all.labelled = None;
        let run = |batch| {
            let tape = Tape::new();
            let loss = model.loss(&recorded(&tape, &set), batch).unwrap();
            let gradients = tape.backward(&loss).unwrap();
            let gradients: Vec<_> =
                set.parameters().names().map(|name| values(gradients.get(name).unwrap())).collect();
            (values(loss.tensor()), gradients)
        };
        let ((loss, gradients), (expected_loss, expected)) = (run(&few), run(&all));
        assert_close("loss", &loss, &expected_loss, 1e-6);
        for (found, expected) in gradients.iter().zip(&expected) {
            assert_close("gradient", found, expected, 1e-6);
        }
    }
}
