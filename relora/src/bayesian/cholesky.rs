//! The Cholesky factor of a covariance, by faer on one thread, so that nothing depends on how many there are.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor as llt;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Auto, Mat, Par, Spec};

/// L with L·Lᵀ = K.
#[derive(Clone, Debug)]
pub(super) struct Cholesky {
    /// Only the lower triangle is of meaning.
    lower: Mat<f64>,
}

fn settings<P: Auto<f64>>() -> Spec<P, f64> {
    Spec::default()
}

impl Cholesky {
    /// The factor of a symmetric matrix, of which the lower triangle is read. `None` when it is not positive definite.
    pub fn new(mut matrix: Mat<f64>) -> Option<Self> {
        let mut buffer = MemBuffer::new(llt::cholesky_in_place_scratch::<f64>(matrix.nrows(), Par::Seq, settings()));
        let stack = MemStack::new(&mut buffer);
        llt::cholesky_in_place(matrix.as_mut(), Default::default(), Par::Seq, stack, settings()).ok()?;
        (0..matrix.nrows()).all(|i| matrix[(i, i)].is_finite()).then_some(Cholesky { lower: matrix })
    }

    /// ln det K.
    pub fn log_determinant(&self) -> f64 {
        (0..self.lower.nrows()).map(|i| 2.0 * self.lower[(i, i)].ln()).sum()
    }

    /// L⁻¹·x.
    pub fn half_solve(&self, x: &[f64]) -> Vec<f64> {
        let mut column = column(x);
        solve_lower_triangular_in_place(self.lower.as_ref(), column.as_mut(), Par::Seq);
        values(&column)
    }

    /// K⁻¹·x.
    pub fn solve(&self, x: &[f64]) -> Vec<f64> {
        let mut column = column(x);
        self.solve_in_place(&mut column);
        values(&column)
    }

    /// K⁻¹.
    pub fn inverse(&self) -> Mat<f64> {
        let n = self.lower.nrows();
        let mut inverse = Mat::identity(n, n);
        self.solve_in_place(&mut inverse);
        inverse
    }

    fn solve_in_place(&self, matrix: &mut Mat<f64>) {
        solve_lower_triangular_in_place(self.lower.as_ref(), matrix.as_mut(), Par::Seq);
        solve_upper_triangular_in_place(self.lower.transpose(), matrix.as_mut(), Par::Seq);
    }
}

fn column(x: &[f64]) -> Mat<f64> {
    Mat::from_fn(x.len(), 1, |i, _| x[i])
}

fn values(column: &Mat<f64>) -> Vec<f64> {
    (0..column.nrows()).map(|i| column[(i, 0)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_what_it_factorised_and_refuses_the_rest() {
        let matrix = Mat::from_fn(3, 3, |i, j| [[4.0, 2.0, 0.4], [2.0, 3.0, 0.1], [0.4, 0.1, 1.0]][i][j]);
        let factor = Cholesky::new(matrix.clone()).unwrap();
        let x = factor.solve(&[1.0, -2.0, 0.5]);
        for (i, expected) in [1.0, -2.0, 0.5].into_iter().enumerate() {
            let found: f64 = (0..3).map(|j| matrix[(i, j)] * x[j]).sum();
            assert!((found - expected).abs() < 1e-14, "{found} {expected}");
        }
        let half: f64 = factor.half_solve(&[1.0, -2.0, 0.5]).iter().map(|x| x * x).sum();
        assert!((half - (x[0] - 2.0 * x[1] + 0.5 * x[2])).abs() < 1e-14, "xᵀK⁻¹x both ways");
        assert!((factor.log_determinant() - 7.64f64.ln()).abs() < 1e-14, "{}", factor.log_determinant().exp());
        let inverse = factor.inverse();
        let product: f64 = (0..3).map(|j| inverse[(1, j)] * matrix[(j, 1)]).sum();
        assert!((product - 1.0).abs() < 1e-14);
        assert!(Cholesky::new(Mat::from_fn(2, 2, |i, j| if i == j { 1.0 } else { 1.5 })).is_none());
        assert!(Cholesky::new(Mat::from_fn(2, 2, |_, _| f64::NAN)).is_none());
    }
}
