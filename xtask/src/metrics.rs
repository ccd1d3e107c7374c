//! The measures of GLUE, as scikit-learn and scipy compute them.

/// The share of predictions that are right.
pub fn accuracy(predicted: &[i32], truth: &[i32]) -> f64 {
    let right = predicted.iter().zip(truth).filter(|(predicted, truth)| predicted == truth).count();
    right as f64 / truth.len() as f64
}

/// The harmonic mean of precision and recall of class 1; 0 when it is neither predicted nor true.
pub fn f1(predicted: &[i32], truth: &[i32]) -> f64 {
    let count = |which: fn(i32, i32) -> bool| {
        predicted.iter().zip(truth).filter(|&(&predicted, &truth)| which(predicted, truth)).count() as f64
    };
    let both = count(|predicted, truth| predicted == 1 && truth == 1);
    let one = count(|predicted, truth| (predicted == 1) != (truth == 1));
    if both == 0.0 { 0.0 } else { both / (both + 0.5 * one) }
}

/// Matthews' correlation of two labellings, for any number of classes (Gorodkin 2004): with n labels of which c agree,
/// and p and t the counts of each class in either, (c·n − Σpt) / √((n² − Σp²)(n² − Σt²)); 0 when one of them is constant.
pub fn matthews(predicted: &[i32], truth: &[i32]) -> f64 {
    let classes = predicted.iter().chain(truth).copied().max().unwrap_or(0) + 1;
    let counts = |labels: &[i32]| -> Vec<f64> {
        (0..classes).map(|class| labels.iter().filter(|&&label| label == class).count() as f64).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (p, t) = (counts(predicted), counts(truth));
    let n = truth.len() as f64;
    let agree = accuracy(predicted, truth) * n;
    let spread = (n * n - dot(&p, &p)) * (n * n - dot(&t, &t));
    if spread == 0.0 { 0.0 } else { (agree * n - dot(&p, &t)) / spread.sqrt() }
}

/// Pearson's correlation coefficient; NaN when one side is constant.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mean_x, y - mean_y);
        xx += x * x;
        yy += y * y;
        xy += x * y;
    }
    if xx == 0.0 || yy == 0.0 { f64::NAN } else { (xy / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0) }
}

/// Spearman's rank correlation: Pearson's of the ranks, where equal values share the mean of theirs.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    pearson(&ranks(x), &ranks(y))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    // Adding zero makes the two zeros one.
    let values: Vec<f64> = values.iter().map(|value| value + 0.0).collect();
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        // A run of equal values that begins after `before` smaller ones has the ranks before + 1 to before + length.
        let before = order.partition_point(|&item| values[item].total_cmp(&values[equal[0]]).is_lt());
        let shared = before as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|&item| ranks[item] = shared);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
    }

    // Expected values: scikit-learn 1.9.1 and scipy 1.17.1.
    const TRUTH: [i32; 10] = [1, 0, 1, 1, 0, 1, 0, 0, 1, 1];
    const PREDICTED: [i32; 10] = [1, 0, 0, 1, 1, 1, 0, 0, 1, 0];

    #[test]
    fn classifications_are_measured_as_scikit_learn_does() {
        close(accuracy(&PREDICTED, &TRUTH), 0.7);
        close(f1(&PREDICTED, &TRUTH), 0.727_272_727_272_727_3);
        close(matthews(&PREDICTED, &TRUTH), 0.408_248_290_463_863);
        close(matthews(&[0, 2, 2, 1, 1, 0, 0], &[0, 1, 2, 2, 1, 0, 1]), 0.375);
        close(matthews(&TRUTH, &TRUTH), 1.0);
    }

    #[test]
    fn constant_labels_have_a_value() {
        close(matthews(&[1, 1, 1], &[1, 1, 0]), 0.0);
        close(f1(&[0, 0], &[0, 0]), 0.0);
        assert!(pearson(&[1.0, 1.0], &[2.0, 3.0]).is_nan() && spearman(&[1.0, 2.0], &[3.0, 3.0]).is_nan());
    }

    #[test]
    fn correlations_are_measured_as_scipy_does() {
        let (x, y) = ([1.0, 2.5, 2.5, 4.0, 0.5, 3.0], [0.9, 2.0, 3.1, 3.1, 1.0, 2.0]);
        close(pearson(&x, &y), 0.855_292_944_736_374_6);
        close(spearman(&x, &y), 0.746_351_792_533_165_1);
        close(pearson(&x, &x.map(|x| -3.0 * x + 1.0)), -1.0);
        assert_eq!(ranks(&[0.5, 2.0, -0.0, 0.0, 2.0]), [3.0, 4.5, 1.5, 1.5, 4.5]);
    }
}
