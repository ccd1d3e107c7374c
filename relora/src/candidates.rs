//! Candidates that are compared example by example. Losses of two adapters on the same example go up and down together,
//! so that their differences tell after a few examples what the losses alone would take hundreds for; a candidate that
//! cannot win any more is dropped at the next look.

use std::collections::BTreeMap;
use std::time::Instant;

use lora::{AdapterSet, LoraError, Result};

use crate::bayesian::expected_improvement;
use crate::groups::GroupCoefficients;
use crate::objective::{Objective, SearchCost, measure};

/// How much larger one candidate's losses are than another's, on the examples both have seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedDifference {
    /// Mean difference.
    pub mean: f64,
    /// Standard error of the mean: the differences' standard deviation over the root of their number. 0 for one.
    pub standard_error: f64,
    /// The number of examples.
    pub examples: usize,
}

impl PairedDifference {
    /// `first` − `second`, over the examples from the beginning that both have.
    pub fn of(first: &[f64], second: &[f64]) -> Self {
        let differences: Vec<f64> = first.iter().zip(second).map(|(first, second)| first - second).collect();
        let examples = differences.len();
        let mean = mean(&differences);
        let squares: f64 = differences.iter().map(|difference| (difference - mean).powi(2)).sum();
        let count = examples as f64;
        let standard_error = if examples > 1 { (squares / ((count - 1.0) * count)).sqrt() } else { 0.0 };
        PairedDifference { mean, standard_error, examples }
    }

    /// The standard deviation of Student's t around the mean: the standard error of few examples is itself uncertain.
    fn uncertainty(&self) -> f64 {
        let freedom = self.examples.saturating_sub(1).max(3) as f64;
        self.standard_error * (freedom / (freedom - 2.0)).sqrt()
    }
}

/// When a candidate is dropped: its losses are compared with the lowest ones on the same examples after `first_look` of
/// them, after twice as many, and so on. With D the difference that all examples there could ever be would show, taken
/// as normal around what was seen with the deviation of Student's t, dropping loses E\[max(−D, 0)\] on average (the expected opportunity loss of ranking and
/// selection; Chick and Inoue 2001). The candidate is out when that is less than the share `indifference` of the lowest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropRule {
    pub first_look: usize,
    pub indifference: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Racing,
    Dropped,
    /// A loss was NaN or infinite.
    Failed,
}

#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub coefficients: GroupCoefficients,
    /// Of the examples from the first on.
    pub losses: Vec<f64>,
    pub standing: Standing,
}

/// Makes the adapter of given coefficients.
pub(crate) type Make<'m> = dyn FnMut(&GroupCoefficients) -> Result<AdapterSet> + 'm;

/// The candidates of one search and everything that was measured.
pub(crate) struct Race<'r> {
    objective: &'r mut dyn Objective,
    make: &'r mut Make<'r>,
    rule: DropRule,
    /// Candidates that ride one pass.
    width: usize,
    pub candidates: Vec<Candidate>,
    pub cost: SearchCost,
}

impl<'r> Race<'r> {
    pub fn new(objective: &'r mut dyn Objective, make: &'r mut Make<'r>, rule: DropRule, width: usize) -> Self {
        Race { objective, make, rule, width, candidates: Vec::new(), cost: SearchCost::default() }
    }

    /// Adds a candidate, with losses that are known already; returns its place.
    pub fn add(&mut self, coefficients: GroupCoefficients, losses: Vec<f64>) -> usize {
        let standing = if losses.iter().all(|loss| loss.is_finite()) { Standing::Racing } else { Standing::Failed };
        self.candidates.push(Candidate { coefficients, losses, standing });
        self.candidates.len() - 1
    }

    /// The adapter of a candidate.
    pub fn make(&mut self, place: usize) -> Result<AdapterSet> {
        let begin = Instant::now();
        let adapters = (self.make)(&self.candidates[place].coefficients)?;
        self.cost.fusion_seconds += begin.elapsed().as_secs_f64();
        self.cost.fusions += 1;
        Ok(adapters)
    }

    /// Measures members up to `examples`, look by look, dropping those that cannot win, until one is left.
    pub fn run(&mut self, members: &[usize], examples: usize) -> Result<()> {
        let mut adapters = BTreeMap::new();
        let mut look = self.rule.first_look.min(examples);
        loop {
            let racing = self.racing(members);
            if racing.len() <= 1 {
                return Ok(());
            }
            self.measure_to(&racing, look, &mut adapters)?;
            self.drop_hopeless(&self.racing(&racing), look);
            adapters.retain(|&place, _| self.candidates[place].standing == Standing::Racing);
            if look >= examples {
                return Ok(());
            }
            look = (2 * look).min(examples);
        }
    }

    /// Measures one candidate up to `examples`, whatever its standing.
    pub fn complete(&mut self, place: usize, examples: usize) -> Result<()> {
        self.measure_to(&[place], examples, &mut BTreeMap::new())
    }

    /// All candidates.
    pub fn everyone(&self) -> Vec<usize> {
        (0..self.candidates.len()).collect()
    }

    /// The most examples that a candidate without failure has seen, `limit` at most.
    pub fn most_seen(&self, limit: usize) -> usize {
        let sound = self.candidates.iter().filter(|candidate| candidate.standing != Standing::Failed);
        sound.map(|candidate| candidate.losses.len()).max().unwrap_or(0).min(limit)
    }

    pub fn racing(&self, members: &[usize]) -> Vec<usize> {
        members.iter().copied().filter(|&place| self.candidates[place].standing == Standing::Racing).collect()
    }

    /// The mean of the first losses of a candidate that has as many.
    pub fn mean_of(&self, place: usize, examples: usize) -> Option<f64> {
        let candidate = &self.candidates[place];
        let enough = candidate.standing != Standing::Failed && candidate.losses.len() >= examples;
        enough.then(|| mean(&candidate.losses[..examples]))
    }

    /// The candidate with the lowest mean over its first losses, the first of equals.
    pub fn lowest(&self, examples: usize) -> Option<(usize, f64)> {
        self.lowest_of(0..self.candidates.len(), examples)
    }

    /// The one of some candidates with the lowest mean over its first losses, the first of equals.
    pub fn lowest_of(&self, places: impl IntoIterator<Item = usize>, examples: usize) -> Option<(usize, f64)> {
        let means = places.into_iter().filter_map(|place| Some((place, self.mean_of(place, examples)?)));
        means.reduce(|best, other| if other.1 < best.1 { other } else { best })
    }

    /// The mean loss over the first examples. For a candidate that was dropped before, from the ratio of its losses to
    /// those of the lowest on the examples both have; infinite for one that failed.
    pub fn estimate(&self, place: usize, examples: usize) -> f64 {
        if let Some(mean) = self.mean_of(place, examples) {
            return mean;
        }
        let seen = self.candidates[place].losses.len();
        match (self.lowest(examples), self.mean_of(place, seen)) {
            (_, None) => f64::INFINITY,
            (Some((lowest, whole)), Some(own)) if seen > 0 => {
                let part = mean(&self.candidates[lowest].losses[..seen]);
                if part > 0.0 { whole * own / part } else { whole + own }
            }
            (_, Some(own)) => own,
        }
    }

    /// Brings members to the same number of examples, together where they have seen the same.
    fn measure_to(
        &mut self,
        members: &[usize],
        examples: usize,
        adapters: &mut BTreeMap<usize, AdapterSet>,
    ) -> Result<()> {
        let mut by_seen: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for &place in members.iter().filter(|&&place| self.candidates[place].losses.len() < examples) {
            by_seen.entry(self.candidates[place].losses.len()).or_default().push(place);
        }
        for (seen, places) in by_seen {
            for places in places.chunks(self.width) {
                for &place in places {
                    if let std::collections::btree_map::Entry::Vacant(entry) = adapters.entry(place) {
                        let begin = Instant::now();
                        entry.insert((self.make)(&self.candidates[place].coefficients)?);
                        self.cost.fusion_seconds += begin.elapsed().as_secs_f64();
                        self.cost.fusions += 1;
                    }
                }
                let sets: Vec<AdapterSet> = places.iter().filter_map(|place| adapters.get(place).cloned()).collect();
                let losses = measure(self.objective, &sets, seen..examples, &mut self.cost)?;
                for (&place, losses) in places.iter().zip(losses) {
                    let candidate = &mut self.candidates[place];
                    if losses.iter().any(|loss| !loss.is_finite()) {
                        candidate.standing = Standing::Failed;
                    }
                    candidate.losses.extend(losses);
                }
            }
        }
        if self.candidates.iter().all(|candidate| candidate.standing == Standing::Failed) {
            return Err(LoraError::NotFinite {
                tensor: "validation loss".into(),
                message: "no candidate has a finite one; look at the data, or at the new base on its own".into(),
            });
        }
        Ok(())
    }

    fn drop_hopeless(&mut self, members: &[usize], look: usize) {
        let Some((lowest, level)) = self.lowest_of(members.iter().copied(), look) else { return };
        for &place in members.iter().filter(|&&place| place != lowest) {
            let losses = &self.candidates[place].losses;
            let difference = PairedDifference::of(&losses[..look], &self.candidates[lowest].losses[..look]);
            let lost = expected_improvement(difference.mean, difference.uncertainty(), 0.0);
            if lost < self.rule.indifference * level.abs() {
                self.candidates[place].standing = Standing::Dropped;
            }
        }
    }
}

/// 0 for no values.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
