//! Properties of the Gaussian process, of expected improvement and of the search.

use proptest::prelude::*;
use relora::bayesian::{
    BayesianError, GaussianProcess, Hyperparameters, Origin, Search, SearchOptions, Space, Stop, expected_improvement,
    log_expected_improvement, minimise,
};
use tensor::{Device, RandomKey, Tensor};

/// Distinct points of the unit square, and a smooth function's values there.
fn observations() -> impl Strategy<Value = (Vec<Vec<f64>>, Vec<f64>)> {
    (3usize..12, 0.0f64..6.0, 0.0f64..6.0, 0.0f64..1.0).prop_map(|(count, a, b, shift)| {
        let inputs: Vec<Vec<f64>> = (0..count)
            .map(|i| vec![(i as f64 * 0.754_877_666 + shift).fract(), (i as f64 * 0.569_840_29 + shift).fract()])
            .collect();
        let targets = inputs.iter().map(|x| (a * x[0]).sin() + (b * x[1]).cos() + 0.1 * x[0] * x[1]).collect();
        (inputs, targets)
    })
}

fn given(noise: f64) -> Hyperparameters {
    Hyperparameters { length_scales: vec![0.4, 0.6], noise }
}

fn spread(targets: &[f64]) -> f64 {
    let mean = targets.iter().sum::<f64>() / targets.len() as f64;
    (targets.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / targets.len() as f64).sqrt()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn without_noise_the_process_interpolates((inputs, targets) in observations()) {
        let process = GaussianProcess::with_hyperparameters(&inputs, &targets, given(0.0)).unwrap();
        let spread = spread(&targets);
        for (input, target) in inputs.iter().zip(&targets) {
            let prediction = process.predict(input).unwrap();
            prop_assert!((prediction.mean - target).abs() < 1e-5 * spread, "{prediction:?} {target}");
            prop_assert!(prediction.variance < 1e-6 * spread * spread, "{prediction:?}");
        }
    }

    #[test]
    fn far_away_there_is_only_the_prior((inputs, targets) in observations()) {
        let mean = targets.iter().sum::<f64>() / targets.len() as f64;
        let variance = spread(&targets).powi(2);
        for process in [
            GaussianProcess::with_hyperparameters(&inputs, &targets, given(1e-4)).unwrap(),
            GaussianProcess::fit(&inputs, &targets).unwrap(),
        ] {
            let far = process.predict(&[1e5, -1e5]).unwrap();
            prop_assert!((far.mean - mean).abs() < 1e-9 * (1.0 + mean.abs()));
            prop_assert!((far.variance - variance).abs() < 1e-9 * variance);
            for i in 0..25 {
                let near = process.predict(&[(i % 5) as f64 / 4.0, (i / 5) as f64 / 4.0]).unwrap();
                prop_assert!(0.0 <= near.variance && near.variance <= variance * (1.0 + 1e-12));
            }
        }
    }

    #[test]
    fn order_does_not_matter_to_the_last_bit((inputs, targets) in observations(), turn in 1usize..11) {
        let rotate = |length: usize| (0..length).map(move |i| (i * 7 + turn) % length);
        prop_assume!(inputs.len() != 7);
        let other_inputs: Vec<Vec<f64>> = rotate(inputs.len()).map(|i| inputs[i].clone()).collect();
        let other_targets: Vec<f64> = rotate(inputs.len()).map(|i| targets[i]).collect();
        let one = GaussianProcess::fit(&inputs, &targets).unwrap();
        let other = GaussianProcess::fit(&other_inputs, &other_targets).unwrap();
        prop_assert_eq!(one.hyperparameters(), other.hyperparameters());
        prop_assert_eq!(one.predict(&[0.3, 0.7]).unwrap(), other.predict(&[0.3, 0.7]).unwrap());
    }

    #[test]
    fn affine_targets_give_affine_predictions((inputs, targets) in observations(), a in -30.0f64..30.0, b in -9.0f64..9.0) {
        prop_assume!(a.abs() > 0.1);
        let moved: Vec<f64> = targets.iter().map(|y| a * y + b).collect();
        for (one, other) in [
            (
                GaussianProcess::with_hyperparameters(&inputs, &targets, given(1e-3)).unwrap(),
                GaussianProcess::with_hyperparameters(&inputs, &moved, given(1e-3)).unwrap(),
            ),
            (GaussianProcess::fit(&inputs, &targets).unwrap(), GaussianProcess::fit(&inputs, &moved).unwrap()),
        ] {
            let (one, other) = (one.predict(&[0.2, 0.8]).unwrap(), other.predict(&[0.2, 0.8]).unwrap());
            let scale = 1.0 + a.abs() + b.abs();
            prop_assert!((a * one.mean + b - other.mean).abs() < 1e-4 * scale, "{one:?} {other:?}");
            prop_assert!((a * a * one.variance - other.variance).abs() < 1e-4 * scale * scale, "{one:?} {other:?}");
        }
    }

    #[test]
    fn constant_and_repeated_observations_stay_finite((mut inputs, mut targets) in observations(), level in -1e6f64..1e6) {
        let constant = GaussianProcess::fit(&inputs, &vec![level; inputs.len()]).unwrap();
        let prediction = constant.predict(&[0.4, 0.4]).unwrap();
        prop_assert!((prediction.mean - level).abs() < 1e-6 * (1.0 + level.abs()) && prediction.variance.is_finite());
        inputs.extend(inputs.clone());
        targets.extend(targets.iter().map(|y| y + 0.05).collect::<Vec<_>>());
        let repeated = GaussianProcess::fit(&inputs, &targets).unwrap();
        let prediction = repeated.predict(&inputs[0]).unwrap();
        prop_assert!(prediction.mean.is_finite() && prediction.variance.is_finite());
        prop_assert!((prediction.mean - targets[0] - 0.025).abs() < 0.2, "{prediction:?} {}", targets[0]);
    }

    #[test]
    fn improvement_is_bounded_below_and_monotone(mean in -9.0f64..9.0, deviation in 1e-6f64..9.0, best in -9.0f64..9.0) {
        let value = expected_improvement(mean, deviation, best);
        prop_assert!(value >= (best - mean).max(0.0));
        prop_assert_eq!(expected_improvement(mean, 0.0, best), (best - mean).max(0.0));
        let log = log_expected_improvement(mean, deviation, best);
        prop_assert!(log.is_finite() && (value == 0.0 || (log - value.ln()).abs() < 1e-8 * (1.0 + log.abs())));
        prop_assert!(log_expected_improvement(mean + 0.01, deviation, best) < log);
        prop_assert!(log_expected_improvement(mean, deviation * 1.01, best) >= log);
    }

    #[test]
    fn a_search_keeps_to_its_box_and_budget(seed in 0u64..1000, steps in 0usize..7, batch in 1usize..4, x in 0.0f64..1.5) {
        let space = Space::new(&[(0.0, 1.5), (-1.25, 0.75)]).unwrap();
        let anchors = vec![vec![1.0, 0.0], vec![0.0, 0.0], vec![1.0, -1.0]];
        let options = SearchOptions { seed, anchors: anchors.clone(), sobol_points: 4, steps, batch, tolerance: 0.0 };
        let mut asked = Vec::new();
        let found = minimise(&space, &options, |point| {
            asked.push(point.to_vec());
            Ok::<_, BayesianError>((point[0] - x).powi(2) + (point[1] + 0.3).powi(2))
        })
        .unwrap();
        prop_assert_eq!(asked.len(), 3 + 4 + steps, "exactly as many as were paid for");
        prop_assert_eq!(&asked[..3], &anchors[..], "anchors first, as they were given");
        prop_assert!(asked.iter().all(|point| space.contains(point)));
        prop_assert_eq!(found.stop, Stop::Steps);
        let lowest = found.observations.iter().map(|observation| observation.value).fold(f64::INFINITY, f64::min);
        prop_assert_eq!(found.best.value, lowest);
        prop_assert!(found.observations.iter().map(|o| &o.point).eq(&asked));
        for (i, one) in asked.iter().enumerate() {
            prop_assert!(asked[..i].iter().all(|other| one != other), "{:?} twice", one);
        }
        let again = minimise(&space, &options, |point| {
            Ok::<_, BayesianError>((point[0] - x).powi(2) + (point[1] + 0.3).powi(2))
        });
        prop_assert_eq!(again.unwrap(), found);
    }
}

#[test]
fn improvement_agrees_with_monte_carlo() {
    let draws = 400_000;
    let key = RandomKey::named(2, "improvement", 0);
    let sample = Tensor::random_normal(&Device::cpu(), &[draws], 0.0, 1.0, key).unwrap().to_vec::<f32>().unwrap();
    for (mean, deviation, best) in [(0.0, 1.0, 0.0), (1.0, 0.5, 0.3), (-0.4, 2.0, 0.1), (2.0, 1.0, -0.5)] {
        let gains: Vec<f64> = sample.iter().map(|&z| (best - (mean + deviation * f64::from(z))).max(0.0)).collect();
        let average = gains.iter().sum::<f64>() / draws as f64;
        let variance = gains.iter().map(|gain| (gain - average).powi(2)).sum::<f64>() / draws as f64;
        let value = expected_improvement(mean, deviation, best);
        assert!((value - average).abs() < 4.0 * (variance / draws as f64).sqrt(), "{value} {average}");
    }
}

#[test]
fn improvement_vanishes_where_everything_was_observed() {
    let inputs: Vec<Vec<f64>> = (0..6).map(|i| vec![i as f64 / 5.0, (i * i) as f64 / 25.0]).collect();
    let targets: Vec<f64> = inputs.iter().map(|x| (3.0 * x[0]).sin()).collect();
    let process = GaussianProcess::with_hyperparameters(&inputs, &targets, given(0.0)).unwrap();
    let best = targets.iter().copied().fold(f64::INFINITY, f64::min);
    for input in &inputs {
        let prediction = process.predict(input).unwrap();
        assert!(expected_improvement(prediction.mean, prediction.deviation(), best) < 1e-4);
    }
}

#[test]
fn a_search_finds_what_random_points_do_not() {
    let space = Space::new(&[(0.0, 1.5), (-1.25, 0.75)]).unwrap();
    let function = |p: &[f64]| ((p[0] - 0.83) / 0.5).powi(2) + ((p[1] + 0.37 + 0.3 * (p[0] - 0.83)) / 0.4).powi(2);
    let mut excess = [0.0f64; 2];
    for seed in 0..10 {
        for (index, (sobol_points, steps)) in [(5, 8), (13, 0)].into_iter().enumerate() {
            let options = SearchOptions { seed, sobol_points, steps, ..SearchOptions::default() };
            let found = minimise(&space, &options, |p| Ok::<_, BayesianError>(function(p))).unwrap();
            excess[index] += found.best.value / 10.0;
        }
    }
    assert!(excess[0] < 0.1 * excess[1], "{excess:?}");
}

#[test]
fn a_search_stops_when_nothing_promises_enough() {
    let space = Space::new(&[(0.0, 1.0)]).unwrap();
    let options = SearchOptions { steps: 40, tolerance: 1e-3, ..SearchOptions::default() };
    let found = minimise(&space, &options, |p| Ok::<_, BayesianError>((p[0] - 0.3).powi(2))).unwrap();
    assert_eq!(found.stop, Stop::Tolerance);
    assert!(found.observations.len() < 20 && found.best.value < 2e-3, "{found:?}");
}

#[test]
fn bad_values_and_bad_settings_are_survived_or_refused() {
    let space = Space::new(&[(0.0, 1.0), (0.0, 1.0)]).unwrap();
    let function = |p: &[f64]| if p[0] < 0.4 { f64::NAN } else { (p[0] - 0.7).powi(2) + p[1] };
    let options = SearchOptions { steps: 12, ..SearchOptions::default() };
    let found = minimise(&space, &options, |p| Ok::<_, BayesianError>(function(p))).unwrap();
    assert!(found.best.value < 0.1, "{:?}", found.best);
    let error = minimise(&space, &options, |_| Ok::<_, BayesianError>(f64::INFINITY)).unwrap_err();
    assert_eq!(error, BayesianError::NothingFinite { observations: 5 });

    let new = |options| Search::new(space.clone(), options).map(|_| ()).unwrap_err().to_string();
    let with = |anchor: Vec<f64>| SearchOptions { anchors: vec![anchor], ..SearchOptions::default() };
    assert!(new(with(vec![0.5])).contains("an anchor has 1 coordinates"));
    assert!(new(with(vec![0.5, 1.5])).contains("outside the box"));
    assert!(new(SearchOptions { sobol_points: 0, ..SearchOptions::default() }).contains("at least one anchor"));
    assert!(new(SearchOptions { batch: 0, ..SearchOptions::default() }).contains("batch"));
    assert!(new(SearchOptions { tolerance: f64::NAN, ..SearchOptions::default() }).contains("tolerance"));
    assert!(Space::new(&[]).is_err() && Space::new(&[(1.0, 1.0)]).is_err() && Space::new(&[(0.0, f64::NAN)]).is_err());
    let fit = |inputs: &[Vec<f64>], targets: &[f64]| GaussianProcess::fit(inputs, targets).map(|_| ()).unwrap_err();
    assert!(matches!(fit(&[], &[]), BayesianError::Setting { .. }));
    assert!(matches!(fit(&[vec![1.0], vec![1.0, 2.0]], &[0.0, 1.0]), BayesianError::Dimensions { .. }));
    assert!(matches!(fit(&[vec![1.0], vec![2.0]], &[0.0, f64::NAN]), BayesianError::NotFinite { index: 1, .. }));
}

#[test]
fn a_batch_holds_different_points_and_each_is_answered_once() {
    let space = Space::new(&[(0.0, 1.0), (0.0, 1.0)]).unwrap();
    let options = SearchOptions { batch: 4, anchors: vec![vec![0.5, 0.5]; 2], ..SearchOptions::default() };
    let mut search = Search::new(space, options).unwrap();
    let design = search.propose().unwrap();
    assert_eq!(design.iter().filter(|proposal| proposal.origin == Origin::Anchor).count(), 1, "one of two equals");
    assert_eq!(design.len(), 6);
    for proposal in &design {
        search.observe(proposal, proposal.point.iter().sum()).unwrap();
    }
    assert!(search.observe(&design[0], 1.0).is_err());
    let batch = search.propose().unwrap();
    assert_eq!(batch.len(), 4);
    for (i, one) in batch.iter().enumerate() {
        for other in &batch[..i] {
            let distance: f64 = one.point.iter().zip(&other.point).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
            assert!(distance >= 1e-3, "{batch:?}");
        }
    }
    // The rest is proposed although none of the first four came back.
    let rest = search.propose().unwrap();
    assert_eq!(rest.len(), 4);
    assert!(search.propose().unwrap().is_empty());
    assert_eq!(search.stop(), Some(Stop::Steps));
}
