//! Convergence on a real fine-tune: every method over the same grid of learning rates and seeds. Runs are kept as lines of a
//! file, so that a grid can be done in parts; the summary is made from all of them.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;

use clap::Parser;
use lora::{AdapterSet, Base, Observer, StepReport, Trainer, TrainingOptions, evaluate};
use reflora::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::lineage::Lineage;
use super::super::plan::Reflora;
use super::super::progress::Meter;
use super::super::{Bench, Results};
use super::summary;
use crate::Common;
use crate::commands::finetune::{self, Inputs, OptimizerKind};
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::loading::lora_failure;
use crate::output::Output;

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Suite reflora, convergence: learning rates; default: by optimizer.
    #[arg(long, value_delimiter = ',')]
    rates: Vec<f32>,
    /// Suite reflora, convergence: methods.
    #[arg(long, value_delimiter = ',', default_value = "lora,reflora,reflora-s")]
    methods: Vec<Method>,
    /// Suite reflora, convergence: optimizers; default: by device.
    #[arg(long, value_enum, value_delimiter = ',')]
    optimizers: Vec<OptimizerKind>,
    /// Suite reflora, convergence: ranks.
    #[arg(long, value_delimiter = ',', default_value = "8")]
    ranks: Vec<usize>,
    /// Suite reflora, convergence: number of seeds; default: by device.
    #[arg(long)]
    seeds: Option<u64>,
    /// Suite reflora, convergence: factors by which A is multiplied and B divided at the beginning: how badly the pair is
    /// scaled.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    imbalance: Vec<f32>,
    /// Suite reflora, convergence: a file of finished runs, one a line; those in it are not done again.
    #[arg(long, value_name = "FILE")]
    runs: Option<PathBuf>,
    /// Suite reflora, convergence: flags of `finetune` for every run (--model, --task, --data, --steps, …); they win.
    #[arg(last = true, value_name = "FINETUNE FLAGS")]
    finetune: Vec<String>,
}

/// One finished run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub task: String,
    pub method: String,
    pub optimizer: String,
    pub rank: usize,
    pub imbalance: f32,
    pub rate: f32,
    pub seed: u64,
    /// Training loss of each step; empty where it stopped being a number.
    pub losses: Vec<f32>,
    /// Wall-clock seconds of the training.
    pub seconds: f64,
    /// Loss and measures on the validation data.
    pub validation: Option<Value>,
}

impl Run {
    fn is(&self, other: &Run) -> bool {
        let key = |run: &Run| {
            let numbers = (run.rank, run.imbalance.to_bits(), run.rate.to_bits(), run.seed);
            (run.task.clone(), run.method.clone(), run.optimizer.clone(), numbers)
        };
        key(self) == key(other)
    }
}

#[derive(Parser)]
#[command(name = "finetune", no_binary_name = true)]
struct Line {
    #[command(flatten)]
    arguments: finetune::Arguments,
}

/// Keeps the losses.
struct Losses(Rc<RefCell<Vec<f32>>>);

impl Observer for Losses {
    fn on_step(&mut self, report: &StepReport) -> lora::Result<()> {
        self.0.borrow_mut().push(report.loss);
        Ok(())
    }

    fn should_stop(&mut self) -> bool {
        interrupt::requested()
    }
}

/// A grid's runs, those of the file and new ones.
struct Grid {
    runs: Vec<Run>,
    file: Option<PathBuf>,
}

impl Grid {
    fn open(file: Option<&PathBuf>) -> Outcome<Self> {
        let mut runs = Vec::new();
        if let Some(path) = file.filter(|path| path.exists()) {
            let refused = |error: String| Failure::input(format!("--runs {}: {error}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
            for (number, line) in text.lines().enumerate() {
                let run = serde_json::from_str(line);
                runs.push(run.map_err(|error| refused(format!("line {}: {error}", number + 1)))?);
            }
        }
        Ok(Grid { runs, file: file.cloned() })
    }

    fn add(&mut self, run: Run) -> Outcome<()> {
        if let Some(path) = &self.file {
            let refused = |error: std::io::Error| Failure::input(format!("--runs {}: {error}", path.display()));
            let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(refused)?;
            writeln!(file, "{}", json!(run)).map_err(refused)?;
        }
        self.runs.push(run);
        Ok(())
    }
}

impl Options {
    /// Whether the flags leave it open what is fine-tuned.
    pub fn needs_lineage(&self) -> bool {
        !self.finetune.iter().any(|word| word == "--model" || word.starts_with("--model="))
    }

    /// The plan's sizes where no flag says otherwise.
    fn with_defaults(&self, plan: &Reflora) -> Self {
        let optimizers = if self.optimizers.is_empty() { plan.optimizers.to_vec() } else { self.optimizers.clone() };
        Options { optimizers, seeds: Some(self.seeds.unwrap_or(plan.seeds)), ..self.clone() }
    }

    /// Runs of the grid.
    pub fn runs(&self, plan: &Reflora) -> u64 {
        let options = self.with_defaults(plan);
        let per_seed = options.cases("", 0).len() as u64;
        per_seed * options.seeds.unwrap_or(0)
    }

    /// The runs of one seed, not yet done.
    fn cases(&self, task: &str, seed: u64) -> Vec<Run> {
        let mut cases = Vec::new();
        for &optimizer in &self.optimizers {
            let rates = if self.rates.is_empty() { Reflora::rates(optimizer) } else { &self.rates };
            for &rank in &self.ranks {
                for &imbalance in &self.imbalance {
                    for &rate in rates {
                        cases.extend(self.methods.iter().map(|method| Run {
                            task: task.into(),
                            method: method.name().into(),
                            optimizer: optimizer.name().into(),
                            rank,
                            imbalance,
                            rate,
                            seed,
                            losses: Vec::new(),
                            seconds: 0.0,
                            validation: None,
                        }));
                    }
                }
            }
        }
        cases
    }
}

pub fn run(options: &Options, lineage: Option<&Lineage>, bench: &Bench<'_>, results: &mut Results) -> Outcome<()> {
    let mut grid = Grid::open(options.runs.as_ref())?;
    let outcome = fill(&mut grid, &options.with_defaults(&bench.plan.reflora), lineage, bench);
    summary::report(&grid.runs, bench.output);
    results.set("convergence", json!(grid.runs));
    outcome
}

/// What is fine-tuned and how, but for what the grid varies. RefLoRA and RefLoRA-S begin where the learning rate has risen.
fn arguments(options: &Options, lineage: Option<&Lineage>, plan: &Reflora) -> Outcome<(String, finetune::Arguments)> {
    let task = lineage.and_then(|lineage| lineage.tasks.first());
    let warmup = plan.steps.div_ceil(10).to_string();
    let mut flags: Vec<(&str, String)> = vec![
        ("steps", plan.steps.to_string()),
        ("batch", plan.batch.to_string()),
        ("seq", plan.sequence.to_string()),
        ("warmup", warmup.clone()),
        ("method-warmup", warmup),
    ];
    flags.extend(lineage.map(|lineage| ("model", lineage.base.display().to_string())));
    flags.extend(task.iter().flat_map(|task| task.flags()));
    let flags = flags.into_iter().flat_map(|(flag, value)| [format!("--{flag}"), value]);
    // Nothing is written to --out.
    let words = flags.chain(options.finetune.iter().cloned()).chain(["--out".into(), "unused".into()]);
    let line = Line::try_parse_from(words).map_err(|error| Failure::input(error.to_string()))?;
    let name = task.map_or_else(|| line.arguments.task_name(), |task| task.name.clone());
    Ok((name, line.arguments))
}

fn fill(grid: &mut Grid, options: &Options, lineage: Option<&Lineage>, bench: &Bench<'_>) -> Outcome<()> {
    let Bench { device, common, plan, output, .. } = *bench;
    let (task, arguments) = arguments(options, lineage, &plan.reflora)?;
    output.say("\nconvergence: every method over the same learning rates and seeds");
    let meter = Meter::new(output, options.runs(&plan.reflora));
    for seed in common.seed..common.seed + options.seeds.unwrap_or(plan.reflora.seeds) {
        let common = Common { seed, ..common.clone() };
        let mut inputs = None;
        for template in options.cases(&task, seed) {
            if grid.runs.iter().any(|run| run.is(&template)) {
                meter.advance(1)?;
                continue;
            }
            let inputs = match &mut inputs {
                Some(inputs) => inputs,
                None => inputs.insert(finetune::read_inputs(&arguments, &common, device, &Output::captured())?),
            };
            let run = train(template, &arguments, inputs)?;
            let line = format!(
                "{} {} {} rank {} x{} rate {:.0e} seed {seed}: loss {:.4}, {:.1} s",
                run.task,
                run.method,
                run.optimizer,
                run.rank,
                run.imbalance,
                run.rate,
                summary::final_loss(&run),
                run.seconds
            );
            grid.add(run)?;
            meter.done(1, &line)?;
        }
    }
    Ok(())
}

fn train(template: Run, arguments: &finetune::Arguments, inputs: &Inputs) -> Outcome<Run> {
    let mut arguments = arguments.clone();
    // The scaling stays what the rank of the flags gives it.
    let alpha = arguments.alpha.unwrap_or(2.0 * arguments.rank as f64) / arguments.rank as f64;
    (arguments.rank, arguments.alpha, arguments.lr) =
        (template.rank, Some(alpha * template.rank as f64), template.rate);
    arguments.method.method = template.method.parse().map_err(lora_failure)?;
    arguments.method.optimizer = OptimizerKind::by_name(&template.optimizer)?;
    let model = inputs.loaded.model();
    let adapters = adapters(&template, &arguments, model)?;
    let training = &*inputs.sources.training;
    let mut options = TrainingOptions::new(arguments.length(), autograd::Schedule::constant(template.rate));
    options.schedule = arguments.learning_rates(options.steps(training));
    options.max_gradient_norm = (arguments.clip != 0.0).then_some(arguments.clip);
    options.seed = template.seed;
    // Losses are wanted at the end only.
    options.report_every = Some(100);
    let losses = Rc::new(RefCell::new(Vec::new()));
    let optimizer = arguments.method.optimizer.build(arguments.weight_decay);
    let transform = arguments.method.transform(&arguments.out, false)?;
    let trainer = Trainer::new(model, adapters, optimizer, options).map_err(lora_failure)?;
    let trainer = trainer.with_transform(transform).with_observer(Losses(Rc::clone(&losses)));
    let started = std::time::Instant::now();
    let outcome = trainer.run(training, None);
    let seconds = started.elapsed().as_secs_f64();
    let outcome = match outcome {
        // A learning rate too large is a result, too.
        Err(lora::LoraError::NotFinite { .. }) => return Ok(Run { seconds, ..template }),
        outcome => outcome.map_err(lora_failure)?,
    };
    if outcome.stopped {
        interrupt::check()?;
    }
    let validation = match inputs.judge.measure(&inputs.loaded, Some(&outcome.adapters))? {
        Some(scores) => scores,
        None => {
            let measured = evaluate(model, Some(&outcome.adapters), &*inputs.sources.validation);
            json!({ "validation": { "loss": measured.map_err(lora_failure)?.loss } })
        }
    };
    Ok(Run { losses: losses.take(), seconds, validation: Some(validation), ..template })
}

/// Fresh adapters, or those of `--init-adapter`; A multiplied by the imbalance and B divided by it, so that the model stays
/// what it is.
fn adapters(template: &Run, arguments: &finetune::Arguments, model: &dyn lora::Model) -> Outcome<AdapterSet> {
    let base = Base::of(model);
    let mut adapters = match &arguments.init_adapter {
        Some(directory) => AdapterSet::load(directory, &base, model.device()).map(|(adapters, _)| adapters),
        None => AdapterSet::new(arguments.lora_config(&model.savable_modules()), &base, model.device(), template.seed),
    }
    .map_err(lora_failure)?;
    if template.imbalance != 1.0 {
        let modules: Vec<String> = adapters.adapters().map(|adapter| adapter.module.clone()).collect();
        for module in modules {
            let Some(factors) = adapters.factors(&module) else { continue };
            let (a, b) =
                (factors.a.affine(template.imbalance, 0.0)?, factors.b.affine(template.imbalance.recip(), 0.0)?);
            adapters.set_factors(&module, a, b).map_err(lora_failure)?;
        }
    }
    Ok(adapters)
}
