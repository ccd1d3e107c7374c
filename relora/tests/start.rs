//! Stages 0 and 1 on a made-up objective, whose losses are known functions of the coefficients.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use lora::{AdapterSet, LoraConfig, LoraError, ModuleShape, Targets};
use proptest::prelude::*;
use relora::bayesian::Stop;
use relora::{
    GroupCoefficients, Grouping, Groups, Objective, Start, StartOptions, StartOrigin, Verdict, gate, search_start,
};
use tensor::{DType, Device, RandomKey, Tensor};

/// Adapters of rank 1 on two layers whose A is α and whose B is β, so that the objective can read them back.
fn adapters(of: impl Fn(&str) -> (f64, f64)) -> AdapterSet {
    let modules = [ModuleShape::new("layers.0.query", 1, 1), ModuleShape::new("layers.1.query", 1, 1)];
    let config = LoraConfig { rank: 1, targets: Targets::names(["query"]), ..LoraConfig::default() };
    AdapterSet::from_factors(config, &modules[..], &Device::cpu(), |adapter| {
        let (alpha, beta) = of(&adapter.module);
        let one = |value: f64| Tensor::full(&Device::cpu(), &[1, 1], DType::F32, value as f32);
        Ok((one(alpha)?, one(beta)?))
    })
    .unwrap()
}

fn made(coefficients: &GroupCoefficients) -> lora::Result<AdapterSet> {
    Ok(adapters(|module| (coefficients.of(module).alpha, coefficients.of(module).beta)))
}

fn value(set: &AdapterSet, module: &str) -> (f64, f64) {
    let factors = set.factors(module).unwrap();
    (f64::from(factors.a.item::<f32>().unwrap()), f64::from(factors.b.item::<f32>().unwrap()))
}

/// Loss of example i: its own level, times one plus a bowl around each layer's best point; and a slope of its own in α
/// and β, so that near candidates have nearly the same losses and few examples have their lowest mean elsewhere.
struct Bowl {
    best: [(f64, f64); 2],
    /// 0: the base did not change, and β plays no part.
    beta_weight: f64,
    noise: f64,
    count: usize,
    seed: u64,
    fails: fn(f64, f64) -> bool,
    asked: Rc<Cell<u64>>,
    widest: Rc<Cell<usize>>,
}

impl Bowl {
    fn new(best: (f64, f64), noise: f64) -> Self {
        Bowl {
            best: [best; 2],
            beta_weight: 1.0,
            noise,
            count: 600,
            seed: 0,
            fails: |_, _| false,
            asked: Rc::default(),
            widest: Rc::default(),
        }
    }

    fn height(&self, set: &AdapterSet) -> f64 {
        let one = |(module, (a, b)): (&str, (f64, f64))| {
            let (alpha, beta) = value(set, module);
            0.5 * (alpha - a).powi(2) + self.beta_weight * (beta - b).powi(2)
        };
        1.0 + ["layers.0.query", "layers.1.query"].into_iter().zip(self.best).map(one).sum::<f64>()
    }
}

impl Objective for Bowl {
    fn examples(&self) -> usize {
        self.count
    }

    fn losses(&mut self, candidates: &[AdapterSet], examples: Range<usize>) -> lora::Result<Vec<Vec<f64>>> {
        self.asked.set(self.asked.get() + (candidates.len() * examples.len()) as u64);
        self.widest.set(self.widest.get().max(candidates.len()));
        let normal = |name: &str, step: u64| {
            let key = RandomKey::named(self.seed, name, step);
            Tensor::random_normal(&Device::cpu(), &[self.count], 0.0, 1.0, key).unwrap().to_vec::<f32>().unwrap()
        };
        let (levels, by_alpha, by_beta) = (normal("level", 0), normal("alpha", 0), normal("beta", 0));
        let one = |set: &AdapterSet| {
            let (alpha, beta) = value(set, "layers.0.query");
            let height = self.height(set);
            let loss = |i: usize| {
                if (self.fails)(alpha, beta) {
                    return f64::NAN;
                }
                let tilt = f64::from(by_alpha[i]) * (alpha - 1.0) + self.beta_weight * f64::from(by_beta[i]) * beta;
                0.3 * f64::from(levels[i]).exp() * height + self.noise * tilt
            };
            examples.clone().map(loss).collect()
        };
        Ok(candidates.iter().map(one).collect())
    }
}

fn groups(grouping: Grouping) -> std::sync::Arc<Groups> {
    Groups::of(&adapters(|_| (0.0, 0.0)), grouping)
}

fn search(objective: &mut Bowl, options: &StartOptions) -> Start {
    search_start(objective, &groups(Grouping::Global), &[], options, made).unwrap()
}

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len() as f64
}

#[test]
fn the_search_finds_the_bottom_and_says_what_it_cost() {
    let mut bowl = Bowl::new((0.8, -0.4), 0.02);
    let start = search(&mut bowl, &StartOptions::default());
    assert!(!start.origin.is_anchor());
    assert!(bowl.height(&start.adapters) < 1.03, "{} at {:?}", bowl.height(&start.adapters), start.coefficients);
    let gain = start.gain.unwrap();
    assert!(gain.mean > gain.standard_error && gain.examples >= 16);
    let all: Vec<_> = start.candidates.iter().map(|candidate| candidate.origin).collect();
    assert_eq!(all[..3], [StartOrigin::Reuse, StartOrigin::NoAdapter, StartOrigin::Rebase]);
    assert_eq!(all[3..8], [StartOrigin::Sobol; 5]);
    assert!(all[8..].iter().all(|&origin| origin == StartOrigin::Improvement) && all.len() <= 16);
    assert_eq!(start.cost.forward_passes, bowl.asked.get(), "every evaluation is counted");
    assert!(start.cost.seconds >= start.cost.loss_seconds + start.cost.fusion_seconds);
    assert_eq!(start.cost.step_equivalents(32), start.cost.forward_passes as f64 / 96.0);
    assert!(bowl.widest.get() >= 7, "the design rides one pass");
    let seen: u64 = start.candidates.iter().map(|candidate| candidate.examples as u64).sum();
    assert_eq!(seen, start.cost.forward_passes);
    assert!(start.candidates.iter().any(|candidate| candidate.dropped && candidate.examples <= 32));
}

#[test]
fn dropping_saves_most_of_the_cost_and_changes_little() {
    for noise in [0.05, 0.2, 0.8] {
        let (mut passes, mut excess) = ([0; 2], [0.0f64; 2]);
        for seed in 0..10 {
            let usual = StartOptions { seed, ..StartOptions::default() };
            let exhaustive = StartOptions { indifference: 0.0, least_improvement: 0.0, ..usual.clone() };
            for (index, options) in [usual, exhaustive].into_iter().enumerate() {
                let mut bowl = Bowl { seed, ..Bowl::new((0.9, -0.3), noise) };
                let start = search(&mut bowl, &options);
                passes[index] += start.cost.forward_passes;
                excess[index] += (bowl.height(&start.adapters) - 1.0) / 10.0;
            }
        }
        assert!(4 * passes[0] < passes[1], "noise {noise}: {passes:?}");
        // Noise of the loss's size hides differences that first looks at 8 examples do not see.
        let allowed = if noise > 0.5 { 0.02 } else { 0.01 };
        assert!(excess[0] < excess[1] + allowed, "noise {noise}: {excess:?}");
    }
}

#[test]
fn a_search_on_the_way_to_a_target_is_coarse_and_cheap() {
    let options = StartOptions::default();
    assert_eq!(options.clone().towards(1.0, 1.0), options, "nothing is missing");
    assert_eq!(options.clone().towards(2.0, 1.0), options, "the target is met");
    // The old adapter is at a height of 1.97, the bottom at 1.
    let (mut excess, mut passes) = ([0.0; 2], [0; 2]);
    for seed in 0..20 {
        for (index, options) in [options.clone(), options.clone().towards(1.0, 1.97)].into_iter().enumerate() {
            let mut bowl = Bowl { seed, ..Bowl::new((0.5, -0.6), 0.3) };
            let start = search(&mut bowl, &StartOptions { seed, ..options });
            excess[index] += (bowl.height(&start.adapters) - 1.0) / 20.0;
            passes[index] += start.cost.forward_passes;
        }
    }
    // A twentieth of the way, for two thirds of the passes.
    assert!(excess[1] < 0.05 && 3 * passes[1] < 2 * passes[0], "{excess:?} {passes:?}");
}

#[test]
fn an_unchanged_base_keeps_the_old_adapter() {
    let mut kept = 0;
    for seed in 0..20 {
        let mut bowl = Bowl { beta_weight: 0.0, seed, ..Bowl::new((1.0, 0.0), 0.1) };
        let start = search(&mut bowl, &StartOptions { seed, ..StartOptions::default() });
        kept += usize::from(start.coefficients.of("layers.0.query").alpha == 1.0);
        assert!(bowl.height(&start.adapters) < 1.002, "seed {seed}: {:?}", start.coefficients);
        assert!(start.cost.step_equivalents(32) < 10.0, "{:?}", start.cost);
    }
    assert!(kept >= 16, "{kept} of 20");
}

#[test]
fn known_losses_are_not_measured_again() {
    let mut bowl = Bowl::new((0.8, -0.4), 0.02);
    let old = adapters(|_| (1.0, 0.0));
    let mut target = |set: &AdapterSet, losses: &[f64]| {
        assert_eq!(value(set, "layers.1.query"), (1.0, 0.0));
        Ok(mean(losses) < 0.1)
    };
    let gate = gate(&mut bowl, &old, 0.01, 512, &mut target).unwrap();
    assert_eq!((gate.verdict, gate.losses.len(), gate.cost.forward_passes), (Verdict::Search, 512, 512));
    assert_eq!(gate.loss, mean(&gate.losses));
    let with =
        search_start(&mut bowl, &groups(Grouping::Global), &gate.losses, &StartOptions::default(), made).unwrap();
    assert_eq!(with.candidates[0].examples, 512);
    let others: u64 = with.candidates[1..].iter().map(|candidate| candidate.examples as u64).sum();
    assert_eq!(with.cost.forward_passes, others);
    assert_eq!(with.cost.plus(&gate.cost).forward_passes, with.cost.forward_passes + 512);
}

#[test]
fn the_gate_tells_the_three_cases_apart() {
    let old = adapters(|_| (1.0, 0.0));
    let verdict = |change: f64, met: bool| {
        let mut bowl = Bowl::new((0.8, -0.4), 0.02);
        gate(&mut bowl, &old, change, 100, &mut |_, _| Ok(met)).map(|gate| gate.verdict)
    };
    assert_eq!(verdict(0.1, true).unwrap(), Verdict::Ready);
    assert_eq!(verdict(0.0, true).unwrap(), Verdict::Ready);
    assert_eq!(verdict(1e-7, false).unwrap(), Verdict::Unchanged);
    assert_eq!(verdict(1e-5, false).unwrap(), Verdict::Search);
    assert!(matches!(verdict(f64::NAN, false), Err(LoraError::NotFinite { .. })));
}

#[test]
fn candidates_that_fail_are_passed_over() {
    // Everything that adds evolution, and no adapter at all, is not finite; so is reuse in the second case.
    let mut bowl = Bowl { fails: |alpha, beta| beta > 0.05 || alpha == 0.0, ..Bowl::new((0.8, -0.4), 0.02) };
    let start = search(&mut bowl, &StartOptions::default());
    assert!(bowl.height(&start.adapters) < 1.1 && start.loss.is_finite());
    assert!(start.candidates[1].loss.is_infinite());
    let mut bowl = Bowl { fails: |_, beta| beta > -0.05, ..Bowl::new((0.8, -0.4), 0.02) };
    let start = search(&mut bowl, &StartOptions::default());
    assert!(start.gain.is_none() && start.loss.is_finite());
    let mut bowl = Bowl { fails: |_, _| true, ..Bowl::new((0.8, -0.4), 0.02) };
    let error = search_start(&mut bowl, &groups(Grouping::Global), &[], &StartOptions::default(), made).unwrap_err();
    assert!(matches!(error, LoraError::NotFinite { .. }), "{error}");
}

#[test]
fn few_examples_and_bad_options_are_refused_or_made_do_with() {
    let attempt = |count: usize, options: &StartOptions| {
        let mut bowl = Bowl { count, ..Bowl::new((0.8, -0.4), 0.02) };
        search_start(&mut bowl, &groups(Grouping::Global), &[], options, made)
    };
    let defaults = StartOptions::default();
    assert!(attempt(0, &defaults).unwrap_err().to_string().contains("validation data"));
    for count in [1, 5, 40] {
        let start = attempt(count, &defaults).unwrap();
        assert!(start.examples <= count && start.loss.is_finite());
    }
    let refused = |options: StartOptions| attempt(100, &options).unwrap_err().to_string();
    assert!(refused(StartOptions { first_look: 1, ..defaults.clone() }).contains("first_look"));
    assert!(refused(StartOptions { score_examples: 64, ..defaults.clone() }).contains("score_examples"));
    assert!(refused(StartOptions { candidates_per_pass: 0, ..defaults.clone() }).contains("candidates_per_pass"));
    assert!(refused(StartOptions { indifference: f64::NAN, ..defaults.clone() }).contains("indifference"));
    assert!(refused(StartOptions { beta: (-0.5, 0.5), ..defaults.clone() }).contains("outside the box"));
    assert!(refused(StartOptions { batch: 0, ..defaults.clone() }).contains("batch"));
}

#[test]
fn narrow_passes_give_the_same_start() {
    let run = |candidates_per_pass| {
        let mut bowl = Bowl::new((0.7, 0.2), 0.05);
        let start = search(&mut bowl, &StartOptions { candidates_per_pass, ..StartOptions::default() });
        assert!(bowl.widest.get() <= candidates_per_pass);
        (start.coefficients, start.loss, start.candidates, start.stop)
    };
    assert_eq!(run(16), run(1));
    assert_eq!(run(16), run(3));
}

#[test]
fn layers_may_have_coefficients_of_their_own() {
    let bowl = || Bowl { best: [(1.2, 0.3), (0.5, -0.7)], ..Bowl::new((0.0, 0.0), 0.02) };
    let global = search(&mut bowl(), &StartOptions::default());
    let layers = groups(Grouping::Layer);
    let options = StartOptions {
        starts: vec![global.coefficients.regrouped(&layers).unwrap()],
        sobol_points: 8,
        steps: 24,
        ..StartOptions::default()
    };
    let mut objective = bowl();
    let start = search_start(&mut objective, &layers, &[], &options, made).unwrap();
    assert_eq!(start.candidates[3].origin, StartOrigin::Given);
    let [one, two] = [&global.adapters, &start.adapters].map(|set| objective.height(set));
    assert!(two < one - 0.1, "{one} {two}: {:?}", start.coefficients);
}

#[test]
fn a_search_ends_early_where_there_is_nothing_to_find() {
    let mut bowl = Bowl { beta_weight: 0.0, ..Bowl::new((1.0, 0.0), 0.0) };
    let start = search(&mut bowl, &StartOptions { steps: 60, ..StartOptions::default() });
    assert_eq!(start.stop, Stop::Tolerance);
    assert!(start.candidates.len() < 40, "{}", start.candidates.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_start_is_never_worse_than_an_anchor(
        a in 0.0f64..1.5, b in -1.25f64..0.75, noise in 0.0f64..1.0, seed in 0u64..500, count in 20usize..600
    ) {
        let options = StartOptions { seed, ..StartOptions::default() };
        let new = || Bowl { seed, count, ..Bowl::new((a, b), noise) };
        let start = search(&mut new(), &options);
        prop_assert!(start.examples <= count);
        let mut bowl = new();
        let mut of = |alpha: f64, beta: f64, range: Range<usize>| {
            bowl.losses(&[adapters(|_| (alpha, beta))], range).unwrap().swap_remove(0)
        };
        let chosen = start.coefficients.of("layers.0.query");
        for (anchor, (alpha, beta)) in start.candidates.iter().zip([(1.0, 0.0), (0.0, 0.0), (1.0, -1.0)]) {
            // On all that both were measured on.
            let range = 0..anchor.examples.min(start.examples);
            let (own, other) = (of(chosen.alpha, chosen.beta, range.clone()), of(alpha, beta, range));
            prop_assert!(mean(&own) <= mean(&other), "{:?} {} {}", chosen, mean(&own), mean(&other));
            if !start.origin.is_anchor() {
                let gain = relora::PairedDifference::of(&other, &own);
                prop_assert!(gain.mean > gain.standard_error);
            }
        }
        let again = search(&mut new(), &options);
        prop_assert_eq!(again.coefficients, start.coefficients);
        prop_assert_eq!(again.candidates, start.candidates);
        prop_assert_eq!(again.cost.forward_passes, start.cost.forward_passes);
    }
}
