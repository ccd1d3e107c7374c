//! What `bench` does where no flag says otherwise: every size that depends on the device and on --quick, in one place, and
//! about how long it takes. Sizes are chosen for the time they take, never by the outcome of a method.

use std::path::Path;
use std::time::Instant;

use lora::{AdapterSet, Base};
use models::{Llama, LlamaConfig, WeightType};
use reflora::{Method, MethodOptions};
use tensor::Device;

use super::reflora as suite_reflora;
use super::relora::Settings;
use super::step::Batches;
use super::subject::Family;
use super::training_step::TrainingStep;
use crate::commands::finetune::OptimizerKind;
use crate::failure::Outcome;
use crate::loading::{lora_failure, model_failure};
use crate::world::{self, BaseShape, Edition, Recipe, Task};

/// Sizes for one kind of device and one length of run.
pub struct Plan {
    pub kernels: Kernels,
    /// Suite `step`: models as preset:batch:sequence:rank.
    pub step: &'static [&'static str],
    /// How the world's base is pretrained, what it is updated with, which tasks are fine-tuned for (suite `reflora`: the
    /// first), and how many rows they have for training and for validation.
    pub world: Recipe,
    pub updates: &'static [Edition],
    pub tasks: &'static [Task],
    pub rows: (usize, usize),
    pub reflora: Reflora,
    pub relora: Relora,
    /// On the machine that this plan was written on.
    seen: Seen,
}

/// Suite `kernels`.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// Products of the list for the device that are timed, from the first.
    pub products: usize,
    /// Seconds for each, warm-up not included.
    pub budget: f64,
}

/// Suite `reflora`.
#[derive(Clone, Copy)]
pub struct Reflora {
    pub toy_seeds: u64,
    /// Models for the overhead as preset:batch:sequence:rank, and how often the methods take turns.
    pub overhead: &'static [&'static str],
    pub rounds: usize,
    pub optimizers: &'static [OptimizerKind],
    pub seeds: u64,
    pub steps: u64,
    pub batch: usize,
    pub sequence: usize,
}

impl Reflora {
    /// Learning rates at a factor of about three: wide enough that every method's best one lies within.
    pub fn rates(optimizer: OptimizerKind) -> &'static [f32] {
        match optimizer {
            OptimizerKind::Adamw => &[1e-3, 3e-3, 1e-2, 3e-2],
            OptimizerKind::Momentum => &[3e-2, 1e-1, 3e-1, 1.0],
            OptimizerKind::Sgd => &[3e-1, 1.0, 3.0, 10.0],
        }
    }
}

/// Suite `relora`.
#[derive(Clone, Copy)]
pub struct Relora {
    /// Each with an adapter of its own.
    pub seeds: u64,
    /// Steps of training the old adapters, and of retraining.
    pub adapter_steps: u64,
    /// Steps of the methods that start from something.
    pub restore_steps: u64,
    pub eval_every: u64,
    pub batch: usize,
    pub sequence: usize,
    /// Learning rates to choose from, for retraining and for each of the others.
    pub retrain_rates: &'static [f32],
    pub restore_rates: &'static [f32],
}

/// Seconds of what is not made of steps of the world's model, and of one such step of 512 tokens.
#[derive(Clone, Copy)]
struct Seen {
    kernels: f64,
    step: f64,
    /// The toy problem, consistency and overhead.
    reflora: f64,
    world_step: f64,
}

/// Two cores, the whole of it in less than three minutes.
const CPU_QUICK: Plan = Plan {
    kernels: Kernels { products: 3, budget: 0.05 },
    step: &["tiny:2:64:8", "deberta-v3-tiny:4:64:8"],
    world: Recipe { steps: 700, ..Recipe::SMALL },
    updates: &[Edition::DomainShift],
    tasks: &[Task::Format],
    rows: (1_000, 48),
    reflora: Reflora {
        toy_seeds: 5,
        overhead: &["tiny:2:64:8"],
        rounds: 8,
        optimizers: &[OptimizerKind::Adamw],
        seeds: 3,
        steps: 30,
        batch: 8,
        sequence: 64,
    },
    relora: Relora {
        seeds: 3,
        adapter_steps: 64,
        restore_steps: 32,
        eval_every: 4,
        batch: 8,
        sequence: 64,
        retrain_rates: &[3e-3, 1e-2],
        restore_rates: &[1e-3, 3e-3],
    },
    seen: Seen { kernels: 3.0, step: 2.0, reflora: 5.0, world_step: 0.03 },
};

/// Two cores, a quarter of an hour.
const CPU: Plan = Plan {
    kernels: Kernels { products: 6, budget: 0.4 },
    step: &["15m:4:128:8", "deberta-v3-mini:8:64:8"],
    world: Recipe { steps: 2000, ..Recipe::SMALL },
    updates: &[Edition::DomainShift, Edition::Large],
    tasks: &[Task::Questions],
    rows: (2_000, 96),
    reflora: Reflora {
        toy_seeds: 20,
        overhead: &["15m:4:64:8", "deberta-v3-mini:8:64:8"],
        rounds: 8,
        optimizers: &[OptimizerKind::Adamw, OptimizerKind::Momentum],
        seeds: 3,
        steps: 100,
        ..CPU_QUICK.reflora
    },
    relora: Relora { seeds: 3, adapter_steps: 160, restore_steps: 80, eval_every: 5, batch: 12, ..CPU_QUICK.relora },
    seen: Seen { kernels: 25.0, step: 10.0, reflora: 60.0, ..CPU_QUICK.seen },
};

/// A software adapter such as lavapipe, on which a step takes twenty times as long: the same questions on a quarter.
const SOFTWARE_QUICK: Plan = Plan {
    rows: (1_000, 24),
    reflora: Reflora { toy_seeds: 2, rounds: 2, seeds: 2, steps: 24, batch: 4, ..CPU_QUICK.reflora },
    relora: Relora {
        seeds: 2,
        adapter_steps: 48,
        restore_steps: 24,
        eval_every: 6,
        batch: 4,
        retrain_rates: &[1e-2],
        restore_rates: &[3e-3],
        ..CPU_QUICK.relora
    },
    seen: Seen { kernels: 5.0, step: 20.0, reflora: 60.0, world_step: 0.6 },
    ..CPU_QUICK
};

const SOFTWARE: Plan = Plan {
    kernels: Kernels { products: 3, ..CPU.kernels },
    rows: CPU_QUICK.rows,
    reflora: Reflora { toy_seeds: 5, ..CPU_QUICK.reflora },
    relora: CPU_QUICK.relora,
    seen: Seen { kernels: 40.0, step: 60.0, reflora: 180.0, ..SOFTWARE_QUICK.seen },
    ..CPU_QUICK
};

const GPU_QUICK: Plan = Plan {
    kernels: Kernels { products: 1, budget: 0.05 },
    step: &["160m:16:256:8"],
    world: Recipe::SMALL,
    updates: CPU_QUICK.updates,
    tasks: CPU.tasks,
    rows: (2_000, 128),
    reflora: Reflora { overhead: &["deberta-v3-base:32:128:8"], seeds: 3, steps: 120, ..CPU_QUICK.reflora },
    relora: Relora { adapter_steps: 200, restore_steps: 100, batch: 32, ..CPU_QUICK.relora },
    seen: Seen { kernels: 4.0, step: 6.0, reflora: 20.0, world_step: 0.004 },
};

const GPU: Plan = Plan {
    kernels: Kernels { products: 8, budget: 0.4 },
    step: &["160m:16:256:8", "deberta-v3-base:32:128:8"],
    world: Recipe::SMALL,
    updates: CPU.updates,
    tasks: &[Task::Questions, Task::Format],
    rows: (4_000, 256),
    reflora: Reflora {
        toy_seeds: 20,
        overhead: &["deberta-v3-mini:32:64:8", "deberta-v3-base:32:128:8", "1b:4:256:16"],
        optimizers: CPU.reflora.optimizers,
        seeds: 5,
        steps: 200,
        batch: 16,
        ..CPU_QUICK.reflora
    },
    relora: Relora {
        seeds: 3,
        adapter_steps: 250,
        restore_steps: 125,
        eval_every: 5,
        batch: 32,
        sequence: 64,
        retrain_rates: &[1e-3, 3e-3, 1e-2],
        restore_rates: &[1e-3, 3e-3, 1e-2],
    },
    seen: Seen { kernels: 45.0, step: 12.0, reflora: 60.0, ..GPU_QUICK.seen },
};

impl Plan {
    pub fn new(device: &Device, quick: bool) -> &'static Plan {
        let is_software = device.adapter().is_some_and(|adapter| adapter.is_software());
        match (device.is_cpu(), is_software, quick) {
            (true, _, true) => &CPU_QUICK,
            (true, _, false) => &CPU,
            (false, true, true) => &SOFTWARE_QUICK,
            (false, true, false) => &SOFTWARE,
            (false, false, true) => &GPU_QUICK,
            (false, false, false) => &GPU,
        }
    }
}

/// How fast steps of a world's model are here: `step` seconds and `token` seconds for each token.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    step: f64,
    token: f64,
}

impl Pace {
    /// From a few steps of two sizes.
    pub fn measure(device: &Device, shape: BaseShape) -> Outcome<Self> {
        const SEQUENCE: usize = 64;
        let config = world::files::config(shape).to_string();
        let config = LlamaConfig::parse(Path::new("config.json"), &config).map_err(model_failure)?;
        let vocabulary = config.vocab_size;
        let model = Llama::random(config, 0, device, WeightType::F32).map_err(model_failure)?;
        let lora = Family::Llama.lora_config(8);
        let adapters = AdapterSet::new(lora, Base::of(&model), device, 0).map_err(lora_failure)?;
        let transform = Method::Lora.transform(&MethodOptions::default()).map_err(lora_failure)?;
        let mut run = TrainingStep::new(&model, adapters, transform, 0)?;
        let mut seconds = |batch: usize| -> Outcome<f64> {
            let batch = Batches { vocabulary, family: Family::Llama, batch, seq: SEQUENCE }.next(0)?;
            let mut fastest = f64::INFINITY;
            for _ in 0..5 {
                let started = Instant::now();
                run.run(&batch)?;
                device.synchronize()?;
                fastest = fastest.min(started.elapsed().as_secs_f64());
            }
            Ok(fastest)
        };
        let (small, large) = (seconds(4)?, seconds(16)?);
        let token = ((large - small) / (12 * SEQUENCE) as f64).max(0.0);
        Ok(Pace { step: (small - token * (4 * SEQUENCE) as f64).max(0.0), token })
    }

    /// Seconds of a step with so many tokens.
    fn of(self, tokens: usize) -> f64 {
        self.step + self.token * tokens as f64
    }
}

/// About how long suites take here.
pub struct Expected<'a> {
    pub plan: &'a Plan,
    pub pace: Pace,
}

impl Expected<'_> {
    /// This machine beside the plan's.
    fn slowness(&self) -> f64 {
        self.pace.of(512) / self.plan.seen.world_step
    }

    pub fn world(&self, steps: u64) -> f64 {
        // Gradients of all weights: half as much again.
        1.5 * steps as f64 * self.pace.of(self.plan.world.batch * self.plan.world.sequence)
    }

    pub fn kernels(&self) -> f64 {
        self.plan.seen.kernels
    }

    pub fn step(&self) -> f64 {
        self.plan.seen.step * self.slowness()
    }

    /// Each step in a few rounds, and PyTorch's start.
    pub fn peers(&self) -> f64 {
        8.0 * self.step() + 30.0 * self.plan.step.len() as f64
    }

    pub fn reflora(&self, options: &suite_reflora::Options) -> f64 {
        let plan = &self.plan.reflora;
        self.plan.seen.reflora * self.slowness() + options.steps(plan) as f64 * self.pace.of(plan.batch * plan.sequence)
    }

    pub fn relora(&self, settings: &Settings, updates: usize, tasks: usize) -> f64 {
        let tokens = settings.batch * settings.sequence;
        // Evaluations are forward passes; each restoration loads its bases and searches.
        let evaluation = self.plan.rows.1 as f64 / settings.batch as f64 / 3.0 / settings.eval_every as f64;
        (1.0 + evaluation) * settings.steps(updates, tasks) as f64 * self.pace.of(tokens)
    }
}

#[cfg(test)]
mod tests {
    use models::DebertaConfig;

    use super::super::subject::Case;
    use super::*;

    #[test]
    fn plans_name_models_that_there_are() {
        for plan in [&CPU_QUICK, &CPU, &SOFTWARE_QUICK, &SOFTWARE, &GPU_QUICK, &GPU] {
            for text in plan.step.iter().chain(plan.reflora.overhead) {
                let case = Case::parse(text).unwrap();
                let is_known = match case.preset.strip_prefix("deberta-v3-") {
                    Some(name) => DebertaConfig::preset(name).is_some(),
                    None => LlamaConfig::preset(&case.preset).is_some(),
                };
                assert!(is_known, "{text}");
            }
            assert!(plan.reflora.sequence.max(plan.relora.sequence) <= plan.world.shape.positions);
            assert!(plan.relora.adapter_steps >= plan.relora.restore_steps && !plan.tasks.is_empty());
        }
    }
}
