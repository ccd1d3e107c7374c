//! Small dense matrices in f64, written the plain way: an oracle should be easy to read.

use tensor::{Device, RandomKey, Tensor};

#[derive(Clone, Debug)]
pub struct Matrix {
    pub rows: usize,
    pub columns: usize,
    /// Row-major.
    pub values: Vec<f64>,
}

impl Matrix {
    pub fn new(rows: usize, columns: usize, values: Vec<f64>) -> Self {
        assert_eq!(values.len(), rows * columns);
        Matrix { rows, columns, values }
    }

    fn from_fn(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        Matrix::new(rows, columns, (0..rows * columns).map(|i| value(i / columns, i % columns)).collect())
    }

    pub fn identity(rows: usize) -> Self {
        Matrix::from_fn(rows, rows, |i, j| if i == j { 1.0 } else { 0.0 })
    }

    /// Standard normal numbers that depend on the seed and the name.
    pub fn normal(rows: usize, columns: usize, seed: u64, name: &str) -> Self {
        let key = RandomKey::named(seed, name, 0);
        let tensor = Tensor::random_normal(&Device::cpu(), &[rows, columns], 0.0, 1.0, key).unwrap();
        Matrix::new(rows, columns, tensor.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect())
    }

    /// A random square matrix whose singular values fall geometrically from 1 to 1 / `condition`.
    pub fn with_condition(rows: usize, condition: f64, seed: u64) -> Self {
        let left = Matrix::normal(rows, rows, seed, "left").orthonormal();
        let right = Matrix::normal(rows, rows, seed, "right").orthonormal();
        let sigma = |k: usize| condition.powf(-(k as f64) / (rows.max(2) - 1) as f64);
        Matrix::from_fn(rows, rows, |i, k| left.at(i, k) * sigma(k)).times(&right)
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.columns + j]
    }

    pub fn t(&self) -> Self {
        Matrix::from_fn(self.columns, self.rows, |i, j| self.at(j, i))
    }

    pub fn times(&self, other: &Matrix) -> Self {
        assert_eq!(self.columns, other.rows);
        Matrix::from_fn(self.rows, other.columns, |i, j| {
            (0..self.columns).map(|k| self.at(i, k) * other.at(k, j)).sum()
        })
    }

    pub fn map(&self, function: impl Fn(f64) -> f64) -> Self {
        Matrix::new(self.rows, self.columns, self.values.iter().map(|&x| function(x)).collect())
    }

    pub fn scaled(&self, factor: f64) -> Self {
        self.map(|x| factor * x)
    }

    pub fn plus(&self, other: &Matrix) -> Self {
        Matrix::from_fn(self.rows, self.columns, |i, j| self.at(i, j) + other.at(i, j))
    }

    pub fn minus(&self, other: &Matrix) -> Self {
        self.plus(&other.scaled(-1.0))
    }

    pub fn trace(&self) -> f64 {
        (0..self.rows).map(|i| self.at(i, i)).sum()
    }

    pub fn norm(&self) -> f64 {
        self.values.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// Columns made orthonormal by Gram-Schmidt, twice.
    fn orthonormal(&self) -> Self {
        let mut columns: Vec<Vec<f64>> = Vec::new();
        for j in 0..self.columns {
            let mut column: Vec<f64> = (0..self.rows).map(|i| self.at(i, j)).collect();
            for _ in 0..2 {
                for other in &columns {
                    let share: f64 = column.iter().zip(other).map(|(x, y)| x * y).sum();
                    column.iter_mut().zip(other).for_each(|(x, y)| *x -= share * y);
                }
                let norm = column.iter().map(|x| x * x).sum::<f64>().sqrt();
                column.iter_mut().for_each(|x| *x /= norm);
            }
            columns.push(column);
        }
        Matrix::from_fn(self.rows, self.columns, |i, j| columns[j][i])
    }

    /// Eigenvalues and vectors (columns) of a symmetric matrix by cyclic Jacobi rotations.
    fn eigen(&self) -> (Vec<f64>, Matrix) {
        let n = self.rows;
        let (mut a, mut vectors) = (self.clone(), Matrix::identity(n));
        for _ in 0..15 {
            for p in 0..n {
                for q in p + 1..n {
                    let off = a.at(p, q);
                    if off == 0.0 {
                        continue;
                    }
                    let angle = 0.5 * (2.0 * off).atan2(a.at(q, q) - a.at(p, p));
                    let mut turn = Matrix::identity(n);
                    turn.values[p * n + p] = angle.cos();
                    turn.values[q * n + q] = angle.cos();
                    turn.values[p * n + q] = angle.sin();
                    turn.values[q * n + p] = -angle.sin();
                    a = turn.t().times(&a).times(&turn);
                    vectors = vectors.times(&turn);
                }
            }
        }
        ((0..n).map(|i| a.at(i, i)).collect(), vectors)
    }

    pub fn eigenvalues(&self) -> Vec<f64> {
        self.eigen().0
    }

    /// A power of a symmetric positive definite matrix.
    pub fn power(&self, exponent: f64) -> Self {
        let (values, vectors) = self.eigen();
        let scaled = Matrix::from_fn(self.rows, self.rows, |i, k| vectors.at(i, k) * values[k].powf(exponent));
        scaled.times(&vectors.t())
    }

    /// The ratio of the extreme eigenvalues of a symmetric positive definite matrix.
    pub fn condition(&self) -> f64 {
        let values = self.eigenvalues();
        let largest = values.iter().fold(f64::MIN, |x, &y| x.max(y));
        largest / values.iter().fold(f64::MAX, |x, &y| x.min(y))
    }

    /// By Gauss-Jordan with pivoting.
    pub fn inverse(&self) -> Self {
        let n = self.rows;
        let (mut a, mut inverse) = (self.clone(), Matrix::identity(n));
        for k in 0..n {
            let pivot = (k..n).max_by(|&i, &j| a.at(i, k).abs().total_cmp(&a.at(j, k).abs())).unwrap();
            for matrix in [&mut a, &mut inverse] {
                for j in 0..n {
                    matrix.values.swap(k * n + j, pivot * n + j);
                }
            }
            let scale = a.at(k, k);
            for matrix in [&mut a, &mut inverse] {
                matrix.values[k * n..(k + 1) * n].iter_mut().for_each(|x| *x /= scale);
            }
            for i in (0..n).filter(|&i| i != k) {
                let share = a.at(i, k);
                for matrix in [&mut a, &mut inverse] {
                    for j in 0..n {
                        matrix.values[i * n + j] -= share * matrix.values[k * n + j];
                    }
                }
            }
        }
        inverse
    }
}
