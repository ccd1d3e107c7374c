//! One run of `bench`: the plan is told, suites are run one after another, and what each found is written at once, so that a
//! run that is interrupted leaves a report of what it finished.

use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::about::about;
use super::lineage::{Lineage, Needs};
use super::plan::{Expected, Pace, Plan};
use super::{Arguments, Bench, Results, Suite, figures, kernels, peers, reflora, relora, step};
use crate::Common;
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::output::{Output, table};
use crate::report::{Report, SCHEMA};
use crate::world;

/// Runs the suites that were asked for.
pub fn run(arguments: &Arguments, common: &Common, output: &Output) -> Outcome<ExitCode> {
    interrupt::watch();
    let device = common.open_device(output)?;
    let plan = Plan::new(&device, arguments.quick);
    let scratch = tempfile::tempdir()?;
    let work = arguments.relora.work.as_deref().unwrap_or(scratch.path());
    let bench = Bench { device: &device, common, plan, output, work };
    let suites = suites(arguments, output);
    let mut session = Session::new(arguments, &bench)?;
    // What is wrong with the flags and the output is better known before the work than after it.
    session.write()?;
    let given = arguments.lineage.given()?;
    if given.is_some() && suites.contains(&Suite::Relora) && arguments.relora.needs_lineage() {
        relora::whole(given.as_ref())?;
    }
    let needs = needs(arguments, &suites, &bench);
    if needs.is_some() {
        world::check_cache()?;
    }
    session.tell_plan(&suites, needs.as_ref(), given.as_ref())?;
    let mut outcome = Ok(());
    for part in parts(&suites, needs.is_some()) {
        outcome = session.part(part, needs.as_ref(), given.as_ref());
        if outcome.is_err() {
            break;
        }
    }
    session.report.about.complete = outcome.is_ok();
    session.write()?;
    session.conclude();
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whatever was under way may have told of it in its own words.
        Err(_) if interrupt::requested() => Err(Failure::Interrupted(match &arguments.out {
            Some(out) => {
                format!("interrupted; what was measured until then is in {}", out.join("report.html").display())
            }
            None => "interrupted; with --out, what was measured until then would be kept".into(),
        })),
        Err(failure) => Err(failure),
    }
}

/// The suites, in the order of [`Suite::ALL`] when none was named. A model of the user's without an update leaves nothing for
/// the last of them.
fn suites(arguments: &Arguments, output: &Output) -> Vec<Suite> {
    if !arguments.suites.is_empty() {
        return arguments.suites.clone();
    }
    let mut suites = Suite::ALL.to_vec();
    if arguments.lineage.is_given() && !arguments.lineage.has_update() {
        output.say("suite relora is left out: it needs --new-model, an update of --model");
        suites.retain(|&suite| suite != Suite::Relora);
    }
    suites
}

/// What the suites need of the embedded world; `None` where they need nothing, or the user gave a model.
fn needs(arguments: &Arguments, suites: &[Suite], bench: &Bench<'_>) -> Option<Needs> {
    let restores = suites.contains(&Suite::Relora) && arguments.relora.needs_lineage();
    let tunes = suites.contains(&Suite::Reflora) && arguments.reflora.needs_lineage();
    if arguments.lineage.is_given() || !(restores || tunes) {
        return None;
    }
    let plan = bench.plan;
    Some(Needs {
        recipe: arguments.lineage.world_recipe(plan.world),
        updates: if restores { plan.updates.to_vec() } else { Vec::new() },
        tasks: plan.tasks.to_vec(),
        rows: (arguments.lineage.world_rows(plan.rows.0), plan.rows.1),
    })
}

/// A part of a run: making the world, or a suite.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    World,
    Suite(Suite),
}

/// The suites, and before the first that trains on it the world.
fn parts(suites: &[Suite], with_world: bool) -> Vec<Part> {
    let mut parts: Vec<Part> = suites.iter().map(|&suite| Part::Suite(suite)).collect();
    let trains = |part: &Part| matches!(part, Part::Suite(Suite::Reflora | Suite::Relora));
    if let (true, Some(first)) = (with_world, parts.iter().position(trains)) {
        parts.insert(first, Part::World);
    }
    parts
}

/// A run under way.
struct Session<'a> {
    arguments: &'a Arguments,
    bench: &'a Bench<'a>,
    started: Instant,
    report: Report,
    /// For `--json`.
    results: Map<String, Value>,
    /// The world's, once it is made.
    world: Option<Lineage>,
}

impl<'a> Session<'a> {
    fn new(arguments: &'a Arguments, bench: &'a Bench<'a>) -> Outcome<Self> {
        let Bench { device, common, .. } = *bench;
        let title = "Fine-tuning benchmarks".into();
        let mut results = Map::new();
        results.insert("device".into(), json!(device.to_string()));
        results.insert("driver".into(), json!(device.adapter().map(|adapter| adapter.driver.clone())));
        results.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        let report = Report { schema: SCHEMA, title, about: about(device, common), sections: Vec::new() };
        Ok(Session { arguments, bench, started: Instant::now(), report, results, world: None })
    }

    /// What will be done and about how long it takes.
    fn tell_plan(&self, suites: &[Suite], needs: Option<&Needs>, given: Option<&Lineage>) -> Outcome<()> {
        let Bench { device, plan, output, .. } = *self.bench;
        let expected = Expected { plan, pace: Pace::measure(device, plan.world.shape)? };
        let mut rows = Vec::new();
        let mut total = 0.0;
        for part in parts(suites, needs.is_some()) {
            let seconds = match (part, needs) {
                (Part::World, Some(needs)) => expected.world(needs.steps_to_do(self.bench)),
                (Part::World, None) => 0.0,
                (Part::Suite(Suite::Kernels), _) => expected.kernels(),
                (Part::Suite(Suite::Step), _) => expected.step(),
                (Part::Suite(Suite::Peers), _) => expected.peers(),
                (Part::Suite(Suite::Reflora), _) => expected.reflora(&self.arguments.reflora),
                (Part::Suite(Suite::Relora), _) => {
                    let (updates, tasks) = match given {
                        Some(given) => (given.updates.len(), given.tasks.len()),
                        None => (plan.updates.len(), plan.tasks.len()),
                    };
                    expected.relora(&self.arguments.relora.settings(self.bench), updates, tasks)
                }
            };
            total += seconds;
            rows.push(vec![part.name().to_string(), part.description().to_string(), minutes(seconds)]);
        }
        rows.push(vec!["all".into(), String::new(), minutes(total)]);
        let of_own = if given.is_some() { " (as if --model were as small as the world's)" } else { "" };
        output.say(format!("\nplan{of_own}\n{}", table(&["suite", "what", "about"], &rows)));
        Ok(())
    }

    /// Does one part; what it found is kept even where it ends badly.
    fn part(&mut self, part: Part, needs: Option<&Needs>, given: Option<&Lineage>) -> Outcome<()> {
        let (arguments, bench) = (self.arguments, self.bench);
        let mut results = Results::default();
        let outcome = match part {
            Part::World => needs.map_or(Ok(None), |needs| needs.prepare(bench, &mut results).map(Some)).map(|world| {
                self.world = world;
            }),
            Part::Suite(Suite::Kernels) => kernels::run(bench, &mut results),
            Part::Suite(Suite::Step) => step::run(&arguments.step, bench, &mut results),
            Part::Suite(Suite::Peers) => peers::run(&arguments.peers, &arguments.step, bench, &mut results),
            Part::Suite(Suite::Reflora) => {
                reflora::run(&arguments.reflora, given.or(self.world.as_ref()), bench, &mut results)
            }
            Part::Suite(Suite::Relora) => {
                relora::run(&arguments.relora, given.or(self.world.as_ref()), bench, &mut results)
            }
        };
        let raw = results.into_value();
        self.results.insert(part.name().into(), raw.clone());
        self.report.sections.push(figures::section(part.name(), raw)?);
        self.write()?;
        outcome
    }

    fn write(&mut self) -> Outcome<()> {
        self.report.about.seconds = self.started.elapsed().as_secs_f64();
        self.arguments.out.as_ref().map_or(Ok(()), |out| self.report.write(out))
    }

    fn conclude(self) {
        let output = self.bench.output;
        output.say(format!("\n{}", self.report.summary().trim_end()));
        if let Some(out) = &self.arguments.out {
            output.say(format!("report: {}", out.join("report.html").display()));
        }
        output.result(&Value::Object(self.results));
    }
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::World => "world",
            Part::Suite(suite) => suite.name(),
        }
    }

    fn description(self) -> &'static str {
        match self {
            Part::World => "a base pretrained on generated text, and its updates",
            Part::Suite(Suite::Kernels) => "matrix products and memory bandwidth",
            Part::Suite(Suite::Step) => "a LoRA training step of well-known shapes",
            Part::Suite(Suite::Reflora) => "LoRA, RefLoRA and RefLoRA-S: toy problem, overhead, convergence",
            Part::Suite(Suite::Peers) => "the same steps by PyTorch and PEFT",
            Part::Suite(Suite::Relora) => "adapters after an update of their base, by every method",
        }
    }
}

/// A duration as people plan with it.
fn minutes(seconds: f64) -> String {
    if seconds < 100.0 { format!("{:.0} s", seconds.ceil()) } else { format!("{:.0} min", (seconds / 60.0).ceil()) }
}
