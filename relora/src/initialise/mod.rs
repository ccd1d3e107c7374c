//! Stages 0 and 1: whether anything has to be done, and the point that fine-tuning starts from.
//!
//! The plane of (α, β) holds every way of starting without training as a point of its own, an anchor: (1, 0) reuse, (0, 0)
//! no adapter, (1, −1) rebase. The search tries them first, then Sobol points, then those of the largest expected
//! improvement of the logarithm of the mean validation loss; the best are compared again on more examples.

mod choice;
mod gate;

use std::sync::Arc;
use std::time::Instant;

use lora::{AdapterSet, LoraError, Result};

use crate::bayesian::{Origin, Search, SearchOptions, Space, Stop};
use crate::candidates::{DropRule, PairedDifference, Race, Standing};
use crate::groups::{GroupCoefficients, Groups};
use crate::objective::{Objective, SearchCost, available};
pub use gate::{Gate, UNCHANGED, Verdict, gate};

/// The anchors, reuse first.
const ANCHORS: [(StartOrigin, f64, f64); 3] =
    [(StartOrigin::Reuse, 1.0, 0.0), (StartOrigin::NoAdapter, 0.0, 0.0), (StartOrigin::Rebase, 1.0, -1.0)];

/// How the search for a start goes.
#[derive(Clone, Debug, PartialEq)]
pub struct StartOptions {
    /// Seed of everything random.
    pub seed: u64,
    /// The range of α; holds 0 and 1.
    pub alpha: (f64, f64),
    /// The range of β; holds 0 and −1.
    pub beta: (f64, f64),
    /// Points to try beside the anchors, for instance what a search with fewer groups found.
    pub starts: Vec<GroupCoefficients>,
    /// Sobol points after the anchors.
    pub sobol_points: usize,
    /// Points by expected improvement after those.
    pub steps: usize,
    /// How many of them are evaluated together.
    pub batch: usize,
    /// Candidates that ride one pass.
    pub candidates_per_pass: usize,
    /// Examples that candidates are compared on during the search.
    pub search_examples: usize,
    /// Examples that the best are compared on at the end.
    pub score_examples: usize,
    /// How many of the best, beside the anchors.
    pub finalists: usize,
    /// Examples before the first look at who cannot win any more; the looks after it are at twice as many each.
    pub first_look: usize,
    /// The share of the loss that is worth nothing: a candidate is dropped when that costs less on average. 0: nothing is
    /// dropped.
    pub indifference: f64,
    /// The search ends when the share of the loss that another candidate is expected to gain is lower. 0: it takes all its
    /// steps.
    pub least_improvement: f64,
    /// Standard errors by which a searched point has to beat every anchor.
    pub required_deviations: f64,
}

impl Default for StartOptions {
    fn default() -> Self {
        StartOptions {
            seed: 0,
            alpha: (0.0, 1.5),
            beta: (-1.25, 0.75),
            starts: Vec::new(),
            sobol_points: 5,
            steps: 8,
            batch: 4,
            candidates_per_pass: 16,
            search_examples: 128,
            score_examples: 512,
            finalists: 3,
            first_look: 16,
            indifference: 5e-3,
            least_improvement: 5e-3,
            required_deviations: 1.0,
        }
    }
}

impl StartOptions {
    /// The same search for somebody who trains on towards `target`: what is worth nothing is then at least
    /// a tenth of the way there from `reuse`, the old adapter's loss. Training goes that far with its first
    /// steps from any start, so that telling candidates apart more finely would take longer than it saves. Half the
    /// examples are then enough for a first look.
    pub fn towards(self, target: f64, reuse: f64) -> Self {
        let way = SHARE_OF_THE_WAY * (reuse - target) / reuse.abs().max(f64::MIN_POSITIVE);
        if way <= self.indifference {
            return self;
        }
        StartOptions { indifference: way, first_look: (self.first_look / 2).max(2), ..self }
    }
}

/// The share of the way to a target that is not searched for.
const SHARE_OF_THE_WAY: f64 = 0.1;

/// Where a candidate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StartOrigin {
    /// (1, 0): the old adapter.
    Reuse,
    /// (0, 0): the new base alone.
    NoAdapter,
    /// (1, −1): the old base with its adapter, as far as the rank goes.
    Rebase,
    /// One of [`StartOptions::starts`].
    Given,
    /// A Sobol point.
    Sobol,
    /// A point of the largest expected improvement.
    Improvement,
}

impl StartOrigin {
    /// Whether it is one of the three points that need no search.
    pub fn is_anchor(self) -> bool {
        self <= StartOrigin::Rebase
    }
}

/// One candidate of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateReport {
    /// Its coefficients.
    pub coefficients: GroupCoefficients,
    /// Where it comes from.
    pub origin: StartOrigin,
    /// Mean loss over all examples of the search; estimated where it was dropped before. Infinite where it failed.
    pub loss: f64,
    /// The examples it was measured on.
    pub examples: usize,
    /// Whether it was dropped as unable to win.
    pub dropped: bool,
}

/// The outcome of [`search_start`].
#[derive(Clone, Debug)]
pub struct Start {
    /// The chosen coefficients.
    pub coefficients: GroupCoefficients,
    /// Where they come from.
    pub origin: StartOrigin,
    /// Their adapter.
    pub adapters: AdapterSet,
    /// Its mean loss.
    pub loss: f64,
    /// Its loss on every example that it was measured on, from the first on.
    pub losses: Vec<f64>,
    /// The examples it was chosen on.
    pub examples: usize,
    /// By how much reuse is worse, on the examples both were measured on; `None` where reuse has no finite loss.
    pub gain: Option<PairedDifference>,
    /// All candidates, in the order they were tried.
    pub candidates: Vec<CandidateReport>,
    /// Why the search ended.
    pub stop: Stop,
    /// What it cost.
    pub cost: SearchCost,
}

/// Searches for the point that fine-tuning starts from: the coefficients with the lowest validation loss found.
///
/// `make` turns coefficients into an adapter, [`crate::Fusion::with`] for instance, the same every time it is asked.
/// `reuse` are losses of (1, 0) that are known already, of the examples from the first on; may be empty.
///
/// On the examples that the choice was made on, the start is never worse than an anchor. A point that is none must beat
/// every anchor by [`StartOptions::required_deviations`] standard errors of the paired differences, so that noise alone
/// does not lead away from the old adapter.
///
/// # Errors
/// [`LoraError::Setting`] for no examples or options out of range, [`LoraError::NotFinite`] when no candidate has a
/// finite loss, or errors of the objective and of `make`.
pub fn search_start(
    objective: &mut dyn Objective,
    groups: &Arc<Groups>,
    reuse: &[f64],
    options: &StartOptions,
    mut make: impl FnMut(&GroupCoefficients) -> Result<AdapterSet>,
) -> Result<Start> {
    let begin = Instant::now();
    options.validate()?;
    let search_examples = available(objective, options.search_examples)?;
    let score_examples = available(objective, options.score_examples)?;
    let rule = DropRule { first_look: options.first_look, indifference: options.indifference };
    let known: Vec<f64> = reuse.iter().copied().take(objective.examples()).collect();
    let mut race = Race::new(objective, &mut make, rule, options.candidates_per_pass);
    let mut search = Search::new(options.space(groups)?, options.search(groups))?;
    let mut origins = Vec::new();
    loop {
        let proposals = search.propose()?;
        if proposals.is_empty() {
            break;
        }
        for proposal in &proposals {
            let losses = if proposal.index == 0 { known.clone() } else { Vec::new() };
            race.add(groups.at(&proposal.point), losses);
            origins.push(origin_of(proposal.origin, proposal.index));
            search.observe(proposal, f64::INFINITY)?;
        }
        race.run(&race.everyone(), search_examples)?;
        // Candidates have seen different examples, whose levels differ more than they do. What is known of each is held
        // against the lowest of those that have seen the most, all anew where that is another one.
        let seen = race.most_seen(search_examples);
        for place in race.everyone() {
            search.revise(place, race.estimate(place, seen).max(f64::MIN_POSITIVE).ln())?;
        }
    }
    let seen = race.most_seen(search_examples);
    let finalists = choice::finalists(&race, &origins, seen, options.finalists);
    let (place, examples) = choice::choose(&mut race, &origins, &finalists, score_examples, options)?;
    let adapters = race.make(place)?;
    let reuse = &race.candidates[0];
    let chosen = &race.candidates[place];
    let gain = (reuse.standing != Standing::Failed).then(|| PairedDifference::of(&reuse.losses, &chosen.losses));
    let mut cost = race.cost;
    cost.seconds = begin.elapsed().as_secs_f64();
    Ok(Start {
        coefficients: chosen.coefficients.clone(),
        origin: origins[place],
        adapters,
        loss: race.estimate(place, examples),
        losses: chosen.losses.clone(),
        examples,
        gain,
        candidates: reports(&race, &origins, seen),
        // The loop ends where the search has said why.
        stop: search.stop().unwrap_or(Stop::Steps),
        cost,
    })
}

fn origin_of(origin: Origin, index: usize) -> StartOrigin {
    match origin {
        Origin::Anchor => ANCHORS.get(index).map_or(StartOrigin::Given, |anchor| anchor.0),
        Origin::Sobol => StartOrigin::Sobol,
        Origin::Improvement => StartOrigin::Improvement,
    }
}

fn reports(race: &Race<'_>, origins: &[StartOrigin], examples: usize) -> Vec<CandidateReport> {
    let report = |(place, &origin): (usize, &StartOrigin)| {
        let candidate = &race.candidates[place];
        CandidateReport {
            coefficients: candidate.coefficients.clone(),
            origin,
            loss: race.estimate(place, examples),
            examples: candidate.losses.len(),
            dropped: candidate.standing == Standing::Dropped,
        }
    };
    origins.iter().enumerate().map(report).collect()
}

impl StartOptions {
    fn validate(&self) -> Result<()> {
        let counts = [
            ("search_examples", self.search_examples, 1),
            ("first_look", self.first_look, 2),
            ("candidates_per_pass", self.candidates_per_pass, 1),
            ("score_examples", self.score_examples, self.search_examples),
        ];
        if let Some((setting, found, least)) = counts.into_iter().find(|(_, found, least)| found < least) {
            return Err(LoraError::Setting { setting, message: format!("must be at least {least}, is {found}") });
        }
        let shares = [
            ("indifference", self.indifference),
            ("least_improvement", self.least_improvement),
            ("required_deviations", self.required_deviations),
        ];
        match shares.into_iter().find(|(_, value)| value.is_nan() || *value < 0.0) {
            Some((setting, value)) => {
                Err(LoraError::Setting { setting, message: format!("must not be negative, is {value}") })
            }
            None => Ok(()),
        }
    }

    fn space(&self, groups: &Groups) -> Result<Space> {
        Ok(Space::new(&[self.alpha, self.beta].repeat(groups.names().len()))?)
    }

    fn search(&self, groups: &Arc<Groups>) -> SearchOptions {
        let anchors = ANCHORS.iter().map(|&(_, alpha, beta)| groups.uniform(alpha, beta).point());
        SearchOptions {
            seed: self.seed,
            anchors: anchors.chain(self.starts.iter().map(GroupCoefficients::point)).collect(),
            sobol_points: self.sobol_points,
            steps: self.steps,
            batch: self.batch,
            tolerance: self.least_improvement,
        }
    }
}
