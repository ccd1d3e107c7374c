//! The search: first points by design, then the most promising ones, one or several at a time.

use std::collections::BTreeMap;

use super::acquisition::{Promise, Situation, same};
use super::error::{BayesianError, Result};
use super::gaussian_process::GaussianProcess;
use super::random::Random;
use super::sobol::Sobol;
use super::space::Space;

/// How a search goes.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchOptions {
    /// Seed of everything random. The same seed and observations give the same proposals.
    pub seed: u64,
    /// Points that are observed first, in this order: what is known to be good or is to be beaten. One that repeats
    /// another is left out.
    pub anchors: Vec<Vec<f64>>,
    /// Points of a scrambled Sobol sequence that follow.
    pub sobol_points: usize,
    /// Points chosen by expected improvement after those.
    pub steps: usize,
    /// How many of them are proposed together.
    pub batch: usize,
    /// An expected improvement that is not worth an observation: the search stops when nothing promises more. 0: never.
    /// What an observation's noise can hide is a good value.
    pub tolerance: f64,
}

impl Default for SearchOptions {
    /// Five Sobol points and eight steps, one at a time, to the end.
    fn default() -> Self {
        SearchOptions { seed: 0, anchors: Vec::new(), sobol_points: 5, steps: 8, batch: 1, tolerance: 0.0 }
    }
}

/// Why a point is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// It was given.
    Anchor,
    /// It is of the Sobol sequence.
    Sobol,
    /// It had the largest expected improvement.
    Improvement,
}

/// Why a search is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All steps were taken.
    Steps,
    /// Nothing promised more than the tolerance.
    Tolerance,
    /// Every candidate had been observed.
    Exhausted,
}

/// A point to be observed.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// Where.
    pub point: Vec<f64>,
    /// Why.
    pub origin: Origin,
    /// What it promises, for points chosen by expected improvement.
    pub expected_improvement: Option<f64>,
    /// Its place among all proposals, from 0.
    pub index: usize,
}

/// A point that was observed.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Where.
    pub point: Vec<f64>,
    /// The function's value; NaN and infinities count as worse than every other.
    pub value: f64,
    /// Why.
    pub origin: Origin,
}

/// A search for the lowest value of a function of a few coordinates, by question ([`Search::propose`]) and answer
/// ([`Search::observe`]).
#[derive(Clone, Debug)]
pub struct Search {
    space: Space,
    options: SearchOptions,
    /// In the order they came.
    observations: Vec<Observation>,
    /// Where they were, in the unit cube.
    units: Vec<Vec<f64>>,
    /// Proposals that were not observed yet, by index.
    pending: BTreeMap<usize, Vec<f64>>,
    proposed: usize,
    steps_proposed: usize,
    stop: Option<Stop>,
}

impl Search {
    /// A search that has proposed nothing yet.
    ///
    /// # Errors
    /// [`BayesianError::Dimensions`] or [`BayesianError::Setting`] for anchors outside the space, no first point at all,
    /// a batch of 0, or a tolerance that is negative or NaN.
    pub fn new(space: Space, options: SearchOptions) -> Result<Self> {
        let setting = |setting, message: String| Err(BayesianError::Setting { setting, message });
        let expected = space.dimensions();
        for anchor in &options.anchors {
            if anchor.len() != expected {
                return Err(BayesianError::Dimensions { what: "an anchor", expected, found: anchor.len() });
            }
            if !space.contains(anchor) {
                return setting("anchors", format!("{anchor:?} is outside the box {:?}", space.bounds()));
            }
        }
        if options.anchors.is_empty() && options.sobol_points == 0 {
            return setting("sobol_points", "a search begins with at least one anchor or Sobol point".into());
        }
        if options.batch == 0 {
            return setting("batch", "must be at least 1".into());
        }
        if options.tolerance.is_nan() || options.tolerance < 0.0 {
            return setting("tolerance", "must not be negative".into());
        }
        Ok(Search {
            space,
            options,
            observations: Vec::new(),
            units: Vec::new(),
            pending: BTreeMap::new(),
            proposed: 0,
            steps_proposed: 0,
            stop: None,
        })
    }

    /// The next points to observe: first all of the design, then batches of steps. Empty when the search is over.
    ///
    /// # Errors
    /// [`BayesianError::NothingFinite`] when no finite value was observed before the first step, or an error of the fit.
    pub fn propose(&mut self) -> Result<Vec<Proposal>> {
        if self.proposed == 0 {
            return Ok(self.design());
        }
        let left = self.options.steps - self.steps_proposed;
        if left == 0 {
            self.stop.get_or_insert(Stop::Steps);
        }
        if self.stop.is_some() {
            return Ok(Vec::new());
        }
        let mut process = self.process()?;
        for point in self.pending.values() {
            process = process.believing(point)?;
        }
        let mut proposals = Vec::new();
        for _ in 0..self.options.batch.min(left) {
            let Some(Promise { point, improvement }) = self.most_promising(&process)? else {
                self.stop = Some(Stop::Exhausted);
                break;
            };
            if improvement < self.options.tolerance {
                self.stop = Some(Stop::Tolerance);
                break;
            }
            process = process.believing(&point)?;
            let place = self.space.point_of(&point);
            proposals.push(self.register(place, point, Origin::Improvement, Some(improvement)));
            self.steps_proposed += 1;
        }
        Ok(proposals)
    }

    /// Takes the value of a proposed point.
    ///
    /// # Errors
    /// [`BayesianError::Setting`] for a proposal that was not made, or observed before.
    pub fn observe(&mut self, proposal: &Proposal, value: f64) -> Result<()> {
        let Some(unit) = self.pending.remove(&proposal.index) else {
            let message = format!("proposal {} is not waiting for a value", proposal.index);
            return Err(BayesianError::Setting { setting: "proposal", message });
        };
        let Proposal { point, origin, .. } = proposal.clone();
        self.observations.push(Observation { point, value, origin });
        self.units.push(unit);
        Ok(())
    }

    /// A better value for an observation that was made, by its place in [`observations`](Self::observations).
    ///
    /// # Errors
    /// [`BayesianError::Setting`] where there is no such observation.
    pub fn revise(&mut self, place: usize, value: f64) -> Result<()> {
        let count = self.observations.len();
        let observation = self.observations.get_mut(place).ok_or_else(|| BayesianError::Setting {
            setting: "observation",
            message: format!("there are {count}, none at place {place}"),
        })?;
        observation.value = value;
        Ok(())
    }

    /// What was observed so far, in order.
    pub fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// The lowest observation, the first of equals; `None` before the first finite one.
    pub fn best(&self) -> Option<&Observation> {
        self.lowest().map(|index| &self.observations[index])
    }

    /// Why no more points are proposed; `None` while there are more.
    pub fn stop(&self) -> Option<Stop> {
        self.stop
    }

    /// The Gaussian process of all observations, over the unit cube.
    ///
    /// # Errors
    /// [`BayesianError::NothingFinite`], or an error of the fit.
    pub fn process(&self) -> Result<GaussianProcess> {
        let finite = self.observations.iter().map(|observation| observation.value).filter(|value| value.is_finite());
        let worst =
            finite.reduce(f64::max).ok_or(BayesianError::NothingFinite { observations: self.observations.len() })?;
        // A value that is not finite is bad, but how bad is not known.
        let targets = self.observations.iter().map(|o| if o.value.is_finite() { o.value } else { worst });
        GaussianProcess::fit(&self.units, &targets.collect::<Vec<_>>())
    }

    fn lowest(&self) -> Option<usize> {
        let finite = self.observations.iter().enumerate().filter(|(_, observation)| observation.value.is_finite());
        finite.reduce(|best, other| if other.1.value < best.1.value { other } else { best }).map(|(index, _)| index)
    }

    fn most_promising(&self, process: &GaussianProcess) -> Result<Option<Promise>> {
        let lowest = self.lowest().ok_or(BayesianError::NothingFinite { observations: self.observations.len() })?;
        let seen: Vec<Vec<f64>> = self.units.iter().chain(self.pending.values()).cloned().collect();
        let situation =
            Situation { process, best: self.observations[lowest].value, incumbent: &self.units[lowest], seen: &seen };
        situation.maximise(self.options.seed, self.steps_proposed as u64)
    }

    fn design(&mut self) -> Vec<Proposal> {
        let mut proposals: Vec<Proposal> = Vec::new();
        for anchor in self.options.anchors.clone() {
            let unit = self.space.unit_of(&anchor);
            if !self.waits(&unit) {
                proposals.push(self.register(anchor, unit, Origin::Anchor, None));
            }
        }
        let seed = Random::new(self.options.seed, "design", 0).next();
        let sequence = Sobol::scrambled(self.space.dimensions(), seed);
        let wanted = proposals.len() + self.options.sobol_points;
        // The sequence fills the cube, so that anchors cannot be near all of its points; the limit is for the reader.
        for unit in sequence.take(wanted + 1000) {
            if proposals.len() == wanted {
                break;
            }
            if !self.waits(&unit) {
                proposals.push(self.register(self.space.point_of(&unit), unit, Origin::Sobol, None));
            }
        }
        proposals
    }

    fn waits(&self, unit: &[f64]) -> bool {
        self.pending.values().any(|pending| same(pending, unit))
    }

    fn register(&mut self, point: Vec<f64>, unit: Vec<f64>, origin: Origin, improvement: Option<f64>) -> Proposal {
        let index = self.proposed;
        self.proposed += 1;
        self.pending.insert(index, unit);
        Proposal { point, origin, expected_improvement: improvement, index }
    }
}

/// The outcome of [`minimise`].
#[derive(Clone, Debug, PartialEq)]
pub struct Minimum {
    /// The lowest observation.
    pub best: Observation,
    /// All of them, in order.
    pub observations: Vec<Observation>,
    /// Why there are no more.
    pub stop: Stop,
}

/// Searches for the lowest value of a function over a box.
///
/// # Errors
/// What the function returns, or an error of [`Search::new`] or [`Search::propose`].
pub fn minimise<E: From<BayesianError>>(
    space: &Space,
    options: &SearchOptions,
    mut function: impl FnMut(&[f64]) -> Result<f64, E>,
) -> Result<Minimum, E> {
    let mut search = Search::new(space.clone(), options.clone())?;
    loop {
        let proposals = search.propose()?;
        for proposal in &proposals {
            let value = function(&proposal.point)?;
            search.observe(proposal, value)?;
        }
        if let (true, Some(stop)) = (proposals.is_empty(), search.stop()) {
            let best = search.best().cloned();
            let best = best.ok_or(BayesianError::NothingFinite { observations: search.observations.len() })?;
            return Ok(Minimum { best, observations: search.observations, stop });
        }
    }
}
