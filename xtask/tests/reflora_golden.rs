//! RefLoRA and RefLoRA-S on a whole model against golden values of the reference stack.

#[path = "../../models/tests/common/mod.rs"]
mod common;

use autograd::{AdamW, AdamWConfig, Gradients, Optimizer, Tape};
use common::{Golden, PEFT_PREFIX, assert_close, fixture, load, loss, recorded, values};
use lora::{AdapterSet, Base, Batch, GradientTransform, Model};
use models::Llama;
use reflora::{RefLora, RefLoraConfig, RefLoraScalar};
use tensor::Device;
use tensor::testing::on_each_backend;

struct Run {
    model: Llama,
    adapters: AdapterSet,
    optimizer: AdamW,
    golden: Golden,
    batch: Batch,
}

impl Run {
    fn new(golden: &str, device: &Device) -> Self {
        let model = load("llama_tiny", device);
        let directory = fixture("llama_tiny").join("adapter_reflora");
        let (adapters, _) = AdapterSet::load(&directory, Base::of(&model), device).expect("the fixture's adapter");
        let golden = Golden::read(&fixture("llama_tiny").join(golden));
        let batch = golden.batch("").to_device(device).expect("a batch");
        Run { model, adapters, optimizer: AdamW::new(AdamWConfig::default()), golden, batch }
    }

    fn gradients(&self) -> (f32, Gradients) {
        let tape = Tape::new();
        let loss = self.model.loss(&recorded(&tape, &self.adapters), &self.batch).expect("a loss");
        (loss.tensor().item().expect("a scalar"), tape.backward(&loss).expect("gradients"))
    }

    fn check_gradients(&self, prefix: &str, gradients: &Gradients) {
        let prefix = format!("{prefix}.{PEFT_PREFIX}");
        let wanted = || self.golden.with_prefix(&prefix);
        let scale = wanted().flat_map(|(_, values)| values).fold(0.0, |a: f32, b| a.max(b.abs()));
        assert_eq!(gradients.len(), wanted().count());
        for (name, want) in wanted() {
            let got = gradients.get(name).unwrap_or_else(|| panic!("no gradient of {name}"));
            assert_close(&format!("{prefix}{name}"), &values(got), want, 1e-5 * scale);
        }
    }

    /// Five steps; the gradients of the first one are checked before and after the method.
    fn check(&mut self, mut method: impl GradientTransform, preconditioned: bool) {
        let losses = self.golden.floats("losses").to_vec();
        for step in 0..5u64 {
            let (loss, mut gradients) = self.gradients();
            assert_close(&format!("loss of step {step}"), &[loss], &losses[step as usize..=step as usize], 1e-5);
            if step == 0 {
                self.check_gradients("grad", &gradients);
            }
            method.apply(&mut self.adapters, &mut gradients, step).expect("preconditioned");
            if step == 0 && preconditioned {
                self.check_gradients("pgrad", &gradients);
            }
            self.optimizer.step(self.adapters.parameters_mut(), &gradients, 1e-3).expect("a step");
            method.after_update(&mut self.adapters, &mut self.optimizer, step).expect("rescaled");
        }
        assert_close("loss after", &[loss(&self.model, Some(&self.adapters), &self.batch)], &losses[5..], 1e-5);
        for (name, want) in self.golden.with_prefix(&format!("step5.{PEFT_PREFIX}")) {
            let got = self.adapters.parameters().get(name).unwrap_or_else(|| panic!("no parameter {name}"));
            assert_close(&format!("{name} after five steps"), &values(got), want, 1e-5);
        }
    }
}

on_each_backend! {
    fn reflora_meets_the_reference(device) {
        let method = RefLora::new(RefLoraConfig { warmup_steps: 0, interval: 1 }).expect("settings");
        Run::new("golden_reflora.safetensors", device).check(method, true);
    }

    fn the_scalar_form_meets_the_reference(device) {
        let mut run = Run::new("golden_reflora_s.safetensors", device);
        let mut method = RefLoraScalar { warmup_steps: 0 };
        // The reference rescales once before the first step.
        method.after_update(&mut run.adapters, &mut run.optimizer, 0).expect("rescaled");
        run.check(method, false);
    }
}
