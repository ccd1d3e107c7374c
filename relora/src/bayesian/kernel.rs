//! The covariance of two points: Matérn with ν = 5/2 and one length-scale for each dimension (automatic relevance
//! determination), unit variance. Rasmussen and Williams, "Gaussian Processes for Machine Learning", eq. 4.17.

/// With r² = Σ ((aᵢ − bᵢ)/ℓᵢ)²: k = (1 + √5·r + 5r²/3)·exp(−√5·r), and the slope that all derivatives share,
/// s = (5/3)·(1 + √5·r)·exp(−√5·r): ∂k/∂aᵢ = −s·(aᵢ − bᵢ)/ℓᵢ², ∂k/∂ln ℓᵢ = s·(aᵢ − bᵢ)²/ℓᵢ².
pub(super) fn matern(a: &[f64], b: &[f64], length_scales: &[f64]) -> (f64, f64) {
    let squared: f64 = a.iter().zip(b).zip(length_scales).map(|((a, b), scale)| ((a - b) / scale).powi(2)).sum();
    let scaled = (5.0 * squared).sqrt();
    let decay = (-scaled).exp();
    ((1.0 + scaled + scaled * scaled / 3.0) * decay, 5.0 / 3.0 * (1.0 + scaled) * decay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_the_derivative() {
        let (a, b, scales) = ([0.3, 0.8], [0.5, 0.1], [0.4, 1.3]);
        let at = |a: [f64; 2], scales: [f64; 2]| matern(&a, &b, &scales).0;
        let (value, slope) = matern(&a, &b, &scales);
        assert_eq!(matern(&a, &a, &scales).0, 1.0);
        assert!(value < 1.0 && (matern(&b, &a, &scales).0 - value).abs() < 1e-16);
        let h = 1e-6;
        for i in 0..2 {
            let moved = |by: f64| std::array::from_fn(|j| if i == j { a[j] + by } else { a[j] });
            let numeric = (at(moved(h), scales) - at(moved(-h), scales)) / (2.0 * h);
            assert!((numeric + slope * (a[i] - b[i]) / scales[i].powi(2)).abs() < 1e-9);
            let grown = |by: f64| std::array::from_fn(|j| if i == j { scales[j] * by.exp() } else { scales[j] });
            let numeric = (at(a, grown(h)) - at(a, grown(-h))) / (2.0 * h);
            assert!((numeric - slope * ((a[i] - b[i]) / scales[i]).powi(2)).abs() < 1e-9);
        }
    }
}
