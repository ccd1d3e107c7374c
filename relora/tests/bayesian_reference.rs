//! The Gaussian process and expected improvement against numbers of scikit-learn, SciPy and mpmath, which
//! `docs/checks/bayesian.py` made.

use relora::bayesian::{GaussianProcess, Hyperparameters, expected_improvement, log_expected_improvement};
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/bayesian.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

fn assert_near(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance * (1.0 + expected.abs()), "{what}: {found}, expected {expected}");
}

#[test]
fn predictions_and_likelihoods_are_those_of_scikit_learn() {
    for case in fixture()["processes"].as_array().unwrap() {
        let (inputs, targets, points) = (rows(&case["inputs"]), numbers(&case["targets"]), rows(&case["points"]));
        let name = case["name"].as_str().unwrap();
        for given in case["given"].as_array().unwrap() {
            let hyperparameters = Hyperparameters {
                length_scales: numbers(&given["length_scales"]),
                noise: given["noise"].as_f64().unwrap(),
            };
            let process = GaussianProcess::with_hyperparameters(&inputs, &targets, hyperparameters).unwrap();
            let expected = given["log_marginal_likelihood"].as_f64().unwrap();
            assert_near(name, process.log_marginal_likelihood(), expected, 1e-8);
            let (means, variances) = (numbers(&given["mean"]), numbers(&given["variance"]));
            for ((point, mean), variance) in points.iter().zip(means).zip(variances) {
                let prediction = process.predict(point).unwrap();
                assert_near(name, prediction.mean, mean, 1e-7);
                assert_near(name, prediction.variance, variance, 1e-7);
            }
        }
    }
}

#[test]
fn the_fit_is_as_good_as_thirty_starts_of_scipy() {
    for case in fixture()["processes"].as_array().unwrap() {
        let (inputs, targets) = (rows(&case["inputs"]), numbers(&case["targets"]));
        let process = GaussianProcess::fit(&inputs, &targets).unwrap();
        let fitted = process.hyperparameters();
        let prior: f64 = fitted.length_scales.iter().map(|scale| 0.5 * (scale / 0.5).ln().powi(2)).sum();
        let value = prior - process.log_marginal_likelihood();
        let expected = &case["fitted"];
        let lowest = expected["negative_log_posterior"].as_f64().unwrap();
        assert!(value < lowest + 1e-6, "{}: {value}, SciPy found {lowest}; {fitted:?}", case["name"]);
        for (found, expected) in fitted.length_scales.iter().zip(numbers(&expected["length_scales"])) {
            assert!((found / expected).ln().abs() < 1e-2, "{}: {found} {expected}", case["name"]);
        }
        let noise = expected["noise"].as_f64().unwrap();
        assert!((fitted.noise / noise).ln().abs() < 5e-2, "{}: {} {noise}", case["name"], fitted.noise);
    }
}

#[test]
fn expected_improvement_has_the_digits_of_mpmath() {
    for case in fixture()["improvements"].as_array().unwrap() {
        let [mean, deviation, best, value, log] =
            ["mean", "deviation", "best", "value", "log"].map(|name| case[name].as_f64().unwrap());
        let found = expected_improvement(mean, deviation, best);
        assert!((found - value).abs() <= 1e-9 * value, "{case}: {found}");
        let found = log_expected_improvement(mean, deviation, best);
        assert!((found - log).abs() <= 1e-9 * log.abs().max(1e-3), "{case}: {found}");
    }
}
