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

use super::summary;
use crate::Common;
use crate::commands::finetune::{self, Inputs, OptimizerKind};
use crate::failure::{Failure, Outcome};
use crate::loading::lora_failure;
use crate::output::Output;

#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Suite reflora, convergence: learning rates.
    #[arg(long, value_delimiter = ',', default_value = "3e-4,1e-3,3e-3,1e-2")]
    rates: Vec<f32>,
    /// Suite reflora, convergence: methods; default: all.
    #[arg(long, value_delimiter = ',')]
    methods: Vec<Method>,
    /// Suite reflora, convergence: optimizers.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "adamw")]
    optimizers: Vec<OptimizerKind>,
    /// Suite reflora, convergence: ranks.
    #[arg(long, value_delimiter = ',', default_value = "8")]
    ranks: Vec<usize>,
    /// Suite reflora, convergence: number of seeds.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Suite reflora, convergence: factors by which A is multiplied and B divided at the beginning: how badly the pair is
    /// scaled.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    imbalance: Vec<f32>,
    /// Suite reflora, convergence: a file of finished runs, one a line; those in it are not done again.
    #[arg(long, value_name = "FILE")]
    runs: Option<PathBuf>,
    /// Suite reflora, convergence: what is fine-tuned, as flags of `finetune` (--model, --task, --data, --steps, …).
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

pub fn run(options: &Options, common: &Common, device: &tensor::Device, output: &Output) -> Outcome<Value> {
    let mut grid = Grid::open(options.runs.as_ref())?;
    if !options.finetune.is_empty() {
        fill(&mut grid, options, common, device, output)?;
    } else if grid.runs.is_empty() {
        return Err(Failure::input(
            "--part convergence: say what to fine-tune after --, as: -- --model DIR --task sst2 --data DIR --steps 400",
        ));
    }
    summary::report(&grid.runs, output);
    Ok(json!(grid.runs))
}

fn fill(grid: &mut Grid, options: &Options, common: &Common, device: &tensor::Device, output: &Output) -> Outcome<()> {
    let mut words = options.finetune.clone();
    // Nothing is written there.
    words.extend(["--out".into(), "unused".into()]);
    let arguments = Line::try_parse_from(&words).map_err(|error| Failure::input(error.to_string()))?.arguments;
    let methods = if options.methods.is_empty() { &Method::ALL[..] } else { &options.methods };
    for seed in common.seed..common.seed + options.seeds {
        let common = Common { seed, ..common.clone() };
        let mut inputs = None;
        for template in cases(options, methods, &arguments, seed) {
            if grid.runs.iter().any(|run| run.is(&template)) {
                continue;
            }
            let inputs = match &mut inputs {
                Some(inputs) => inputs,
                None => inputs.insert(finetune::read_inputs(&arguments, &common, device, output)?),
            };
            let run = train(template, &arguments, inputs)?;
            output.say(format!(
                "{} {} {} rank {} x{} rate {:.1e} seed {seed}: loss {:.4}, {:.1} s",
                run.task,
                run.method,
                run.optimizer,
                run.rank,
                run.imbalance,
                run.rate,
                summary::final_loss(&run),
                run.seconds
            ));
            grid.add(run)?;
        }
    }
    Ok(())
}

/// The runs of one seed, not yet done.
fn cases(options: &Options, methods: &[Method], arguments: &finetune::Arguments, seed: u64) -> Vec<Run> {
    let mut cases = Vec::new();
    for optimizer in &options.optimizers {
        for &rank in &options.ranks {
            for &imbalance in &options.imbalance {
                for &rate in &options.rates {
                    cases.extend(methods.iter().map(|method| Run {
                        task: arguments.task_name(),
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
