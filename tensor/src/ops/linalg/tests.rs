use proptest::prelude::*;

use super::{cholesky, gpu, householder, qr, svd, symmetric_eigen};
use crate::device::Backend;
use crate::testing::{Recipe, check, on_each_backend, recipe_of};
use crate::{DType, Device, Tensor};

/// A row-major matrix in f64.
#[derive(Clone, Debug)]
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f64>,
}

impl Matrix {
    fn new(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let values = (0..rows * columns).map(|index| value(index / columns, index % columns)).collect();
        Matrix { rows, columns, values }
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.columns + j]
    }

    fn t(&self) -> Self {
        Matrix::new(self.columns, self.rows, |i, j| self.at(j, i))
    }

    fn times(&self, other: &Matrix) -> Self {
        Matrix::new(self.rows, other.columns, |i, j| (0..self.columns).map(|k| self.at(i, k) * other.at(k, j)).sum())
    }

    fn norm(&self) -> f64 {
        let largest = self.values.iter().fold(0.0f64, |best, x| best.max(x.abs()));
        if largest == 0.0 {
            return 0.0;
        }
        largest * self.values.iter().map(|x| (x / largest).powi(2)).sum::<f64>().sqrt()
    }

    fn tensor(&self, device: &Device) -> Tensor {
        let values: Vec<f32> = self.values.iter().map(|&x| x as f32).collect();
        Tensor::from_slice(device, &[self.rows, self.columns], &values).unwrap()
    }

    /// ‖self − other‖ ≤ tolerance·scale in Frobenius' norm.
    fn assert_near(&self, other: &Matrix, scale: f64, tolerance: f64, what: &str) {
        assert_eq!((self.rows, self.columns), (other.rows, other.columns), "{what}");
        let difference = Matrix::new(self.rows, self.columns, |i, j| self.at(i, j) - other.at(i, j)).norm();
        assert!(difference <= tolerance * scale, "{what}: off by {difference:e}, norm {scale:e}");
    }

    fn assert_orthonormal_columns(&self, what: &str) {
        let identity = Matrix::new(self.columns, self.columns, |i, j| f64::from(i == j));
        // Frobenius' norm of k unit vectors is √k.
        self.t().times(self).assert_near(&identity, (self.columns as f64).sqrt().max(1.0), 1e-5, what);
    }
}

/// The matrices of a batch as the tensor holds them.
fn matrices(tensor: &Tensor) -> Vec<Matrix> {
    let [.., rows, columns] = tensor.shape()[..] else { panic!("{tensor:?} has no matrices") };
    let values = tensor.to_vec::<f32>().unwrap();
    let values: Vec<f64> = values.into_iter().map(f64::from).collect();
    if values.is_empty() {
        return Vec::new();
    }
    values.chunks(rows * columns).map(|values| Matrix { rows, columns, values: values.to_vec() }).collect()
}

/// A diagonal matrix for each row of `[.., n]`.
fn diagonals(tensor: &Tensor) -> Vec<Matrix> {
    let n = tensor.shape()[tensor.rank() - 1];
    let values = tensor.to_vec::<f32>().unwrap();
    values.chunks(n.max(1)).map(|row| Matrix::new(n, n, |i, j| if i == j { f64::from(row[i]) } else { 0.0 })).collect()
}

const TOLERANCE: f64 = 1e-5;

fn check_qr(a: &Tensor) {
    let (q, r) = qr(a).unwrap();
    for ((a, q), r) in matrices(a).iter().zip(matrices(&q)).zip(matrices(&r)) {
        q.times(&r).assert_near(a, a.norm(), TOLERANCE, "Q·R");
        q.assert_orthonormal_columns("QᵀQ");
        for i in 0..r.rows {
            assert!(r.at(i, i) >= 0.0, "the diagonal of R is not negative");
            assert!((0..i.min(r.columns)).all(|j| r.at(i, j) == 0.0), "R is upper triangular");
        }
    }
}

fn check_svd(a: &Tensor) {
    let (u, s, vt) = svd(a).unwrap();
    let results = matrices(&u).into_iter().zip(diagonals(&s)).zip(matrices(&vt));
    for (a, ((u, s), vt)) in matrices(a).iter().zip(results) {
        u.times(&s).times(&vt).assert_near(a, a.norm(), TOLERANCE, "U·S·Vᵀ");
        u.assert_orthonormal_columns("UᵀU");
        vt.t().assert_orthonormal_columns("VᵀV");
        let s: Vec<f64> = (0..s.rows).map(|i| s.at(i, i)).collect();
        assert!(s.iter().all(|&s| s >= 0.0) && s.is_sorted_by(|a, b| a >= b), "{s:?}");
        assert_positive_peaks(&u);
    }
}

fn check_eigen(a: &Tensor) {
    let (values, vectors) = symmetric_eigen(a).unwrap();
    for ((a, l), v) in matrices(a).iter().zip(diagonals(&values)).zip(matrices(&vectors)) {
        let a = Matrix::new(a.rows, a.columns, |i, j| 0.5 * (a.at(i, j) + a.at(j, i)));
        v.times(&l).times(&v.t()).assert_near(&a, a.norm(), TOLERANCE, "V·Λ·Vᵀ");
        v.assert_orthonormal_columns("VᵀV");
        assert!((1..l.rows).all(|i| l.at(i - 1, i - 1) <= l.at(i, i)), "{l:?}");
        assert_positive_peaks(&v);
    }
}

fn check_cholesky(a: &Tensor) {
    for (a, l) in matrices(a).iter().zip(matrices(&cholesky(a).unwrap())) {
        l.times(&l.t()).assert_near(a, a.norm(), TOLERANCE, "L·Lᵀ");
        for i in 0..l.rows {
            assert!(l.at(i, i) > 0.0 && (i + 1..l.columns).all(|j| l.at(i, j) == 0.0), "{l:?}");
        }
    }
}

/// The sign convention: the first component of the largest magnitude in each column is positive.
fn assert_positive_peaks(u: &Matrix) {
    for j in 0..u.columns {
        let peak = (0..u.rows).map(|i| u.at(i, j)).fold(0.0f64, |best, x| if x.abs() > best.abs() { x } else { best });
        assert!(peak >= 0.0, "column {j} of {u:?}");
    }
}

/// Numbers in −1..1 that look random.
fn noise(i: usize, j: usize) -> f64 {
    let mut x = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (j as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^= 0x94d0_49bb_1331_11eb;
    for _ in 0..3 {
        x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// Matrices that trouble decompositions.
fn hard_cases(m: usize, n: usize) -> Vec<(&'static str, Matrix)> {
    vec![
        ("zero", Matrix::new(m, n, |_, _| 0.0)),
        ("ones", Matrix::new(m, n, |_, _| 1.0)),
        ("identity", Matrix::new(m, n, |i, j| f64::from(i == j))),
        ("rank two", Matrix::new(m, n, |i, j| noise(i, 0) * noise(j, 1) + noise(i, 2) * noise(j, 3))),
        ("first column zero", Matrix::new(m, n, |i, j| if j == 0 { 0.0 } else { noise(i, j) })),
        ("last row zero", Matrix::new(m, n, |i, j| if i == m - 1 { 0.0 } else { noise(i, j) })),
        ("equal columns", Matrix::new(m, n, |i, j| noise(i, j / 2))),
        ("tiny", Matrix::new(m, n, |i, j| 1e-20 * noise(i, j))),
        ("huge", Matrix::new(m, n, |i, j| 1e18 * noise(i, j))),
        ("graded", Matrix::new(m, n, |i, j| noise(i, j) * 10f64.powi(-(j as i32)))),
        ("graded the other way", Matrix::new(m, n, |i, j| noise(i, j) * 10f64.powi(-(i as i32)))),
        ("nearly dependent", Matrix::new(m, n, |i, j| noise(i, 0) + 1e-6 * noise(i, j))),
    ]
}

fn shapes(square: bool) -> impl Strategy<Value = Vec<usize>> {
    (prop::collection::vec(0usize..=3, 0..=2), 0usize..=9, 0usize..=9).prop_map(move |(mut shape, m, n)| {
        shape.extend([m, if square { m } else { n }]);
        shape
    })
}

fn recipes(square: bool) -> impl Strategy<Value = Recipe> {
    shapes(square).prop_flat_map(|shape| recipe_of(shape, -2.0..2.0))
}

/// x·xᵀ + I/2.
fn positive_definite(x: &Matrix) -> Matrix {
    let product = x.times(&x.t());
    Matrix::new(x.rows, x.rows, |i, j| product.at(i, j) + if i == j { 0.5 } else { 0.0 })
}

on_each_backend! {
    fn qr_of_random_matrices(device) {
        check(recipes(false), |recipe| {
            check_qr(&recipe.build(device));
            Ok(())
        });
    }

    fn svd_of_random_matrices(device) {
        check(recipes(false), |recipe| {
            check_svd(&recipe.build(device));
            Ok(())
        });
    }

    fn eigenvalues_of_random_matrices(device) {
        check(recipes(true), |recipe| {
            check_eigen(&recipe.build(device));
            Ok(())
        });
    }

    fn cholesky_of_random_matrices(device) {
        check((1usize..=9, 0usize..100), |(n, seed)| {
            let batch: Vec<f32> = (0..3)
                .flat_map(|b| positive_definite(&Matrix::new(n, n, |i, j| noise(i + 10 * b, j + 10 * seed))).values)
                .map(|x| x as f32)
                .collect();
            let a = Tensor::from_slice(device, &[3, n, n], &batch)?;
            check_cholesky(&a);
            check_cholesky(&a.t()?.slice(0, 1, 3)?);
            Ok(())
        });
    }

    fn hard_matrices(device) {
        for (m, n) in [(1, 1), (7, 7), (24, 24), (40, 11), (11, 40), (16, 1), (1, 16)] {
            for (name, matrix) in hard_cases(m, n) {
                println!("{name} {m}×{n}");
                let a = matrix.tensor(device);
                check_qr(&a);
                check_svd(&a);
                if m == n {
                    check_eigen(&a);
                }
            }
        }
    }

    fn medium_matrices(device) {
        let square = Matrix::new(66, 66, noise);
        let tall = Matrix::new(300, 33, noise);
        check_qr(&tall.tensor(device));
        check_svd(&tall.t().tensor(device));
        check_svd(&square.tensor(device));
        check_eigen(&square.tensor(device));
        check_cholesky(&positive_definite(&square).tensor(device));
    }

    fn repeated_and_opposite_eigenvalues(device) {
        // Reflections I − 2vvᵀ/vᵀv have eigenvalues 1, …, 1, −1.
        let v = Matrix::new(10, 1, noise);
        let length = v.norm().powi(2);
        let a = Matrix::new(10, 10, |i, j| f64::from(i == j) - 2.0 * v.at(i, 0) * v.at(j, 0) / length);
        check_eigen(&a.tensor(device));
        check_svd(&a.tensor(device));
        let values = symmetric_eigen(&a.tensor(device)).unwrap().0.to_vec::<f32>().unwrap();
        for (index, value) in values.into_iter().enumerate() {
            let want = if index == 0 { -1.0 } else { 1.0 };
            assert!((value - want).abs() < 2e-6, "{value}");
        }
    }

    fn known_singular_values(device) {
        // diag(3, 2) turned by exact rotations of the 3-4-5 triangle on both sides.
        let turn = Matrix { rows: 2, columns: 2, values: vec![0.6, -0.8, 0.8, 0.6] };
        let core = Matrix { rows: 2, columns: 2, values: vec![3.0, 0.0, 0.0, 2.0] };
        let (u, s, vt) = svd(&turn.times(&core).times(&turn).tensor(device)).unwrap();
        let near = |tensor: &Tensor, want: &[f32]| {
            let got = tensor.to_vec::<f32>().unwrap();
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?} instead of {want:?}");
        };
        near(&s, &[3.0, 2.0]);
        near(&u, &[0.6, 0.8, 0.8, -0.6]);
        near(&vt, &[0.6, -0.8, -0.8, -0.6]);
    }

    fn nan_and_infinity_show(device) {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values: Vec<f32> = (0..24).map(|i| noise(i, 0) as f32).collect();
            values[5] = bad;
            // The second matrix is sound and must stay so.
            let a = Tensor::from_slice(device, &[2, 4, 3], &values).unwrap();
            let (u, s, _) = svd(&a).unwrap();
            let (q, r) = qr(&a).unwrap();
            let finite = |tensor: &Tensor, batch| {
                let part = tensor.select(0, batch).unwrap().to_vec::<f32>().unwrap();
                part.iter().all(|x| x.is_finite())
            };
            assert!(!finite(&s, 0) || !finite(&u, 0));
            assert!(!finite(&q, 0) || !finite(&r, 0));
            assert!(finite(&s, 1) && finite(&u, 1) && finite(&q, 1) && finite(&r, 1));
        }
    }

    fn inputs_keep_their_values(device) {
        let a = Matrix::new(5, 5, |i, j| noise(i, j) + if i == j { 5.0 } else { 0.0 }).tensor(device);
        let before = a.to_vec::<f32>().unwrap();
        qr(&a.t().unwrap()).unwrap();
        cholesky(&a).unwrap();
        svd(&a).unwrap();
        symmetric_eigen(&a).unwrap();
        assert_eq!(a.to_vec::<f32>().unwrap(), before);
    }

    fn results_are_repeatable(device) {
        let a = Matrix::new(20, 12, noise).tensor(device);
        let bits = |tensor: Tensor| tensor.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(svd(&a).unwrap().0), bits(svd(&a).unwrap().0));
    }

    fn empty_shapes_are_kept(device) {
        let a = Tensor::zeros(device, &[3, 0, 4], DType::F32).unwrap();
        let (u, s, vt) = svd(&a).unwrap();
        assert_eq!((&u.shape()[..], &s.shape()[..], &vt.shape()[..]), (&[3, 0, 0][..], &[3, 0][..], &[3, 0, 4][..]));
        let (q, r) = qr(&a).unwrap();
        assert_eq!((&q.shape()[..], &r.shape()[..]), (&[3, 0, 0][..], &[3, 0, 4][..]));
        let square = Tensor::zeros(device, &[0, 2, 2], DType::F32).unwrap();
        assert_eq!(symmetric_eigen(&square).unwrap().0.shape()[..], [0, 2]);
        assert_eq!(cholesky(&square).unwrap().shape()[..], [0, 2, 2]);
    }

    fn indefinite_matrices_have_no_cholesky_factor(device) {
        let a = Tensor::from_slice(device, &[3, 2, 2], &[4.0f32, 0.0, 2.0, 2.0, 1.0, 0.0, 2.0, 1.0, 9.0, 0.0, 0.0, 1.0])
            .unwrap();
        match cholesky(&a) {
            Err(error) => {
                assert!(device.is_cpu());
                assert_eq!(error.to_string(), "cholesky: matrix 1 of the batch is not positive definite");
            }
            Ok(l) => {
                assert!(!device.is_cpu());
                let l = l.to_vec::<f32>().unwrap();
                assert_eq!(l[..4], [2.0, 0.0, 1.0, 1.0]);
                assert!(l[4..8].iter().all(|x| x.is_nan()), "{l:?}");
                assert_eq!(l[8..], [3.0, 0.0, 0.0, 1.0]);
            }
        }
    }
}

/// Sweeps until the device calls the matrix converged, the last one included, in which nothing noteworthy turned.
fn sweeps_needed(a: &Tensor, symmetric: bool) -> usize {
    let Backend::Gpu(gpu) = a.device().backend() else { panic!("only kernels count sweeps") };
    let jacobi = gpu::Jacobi::prepare(gpu, &a.unsqueeze(0).unwrap(), symmetric).unwrap();
    let converged = |sweeps: &usize| {
        jacobi.sweep(gpu, 1).unwrap();
        *sweeps > 1 && jacobi.states.to_vec::<u32>().unwrap()[1] == 0
    };
    (1..=gpu::SWEEPS).find(converged).expect("converges within the sweeps that are launched")
}

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn sweeps_leave_a_margin() {
    let mut cases = hard_cases(24, 24);
    let thin = Matrix::new(24, 12, noise);
    cases.push(("half rank", thin.times(&thin.t())));
    cases.push(("Hilbert", Matrix::new(24, 24, |i, j| 1.0 / (1.0 + i as f64 + j as f64))));
    cases.push(("powers", Matrix::new(24, 24, |i, j| 0.9f64.powi(i.abs_diff(j) as i32))));
    for (name, matrix) in cases {
        let a = matrix.tensor(crate::testing::gpu());
        let one_sided = sweeps_needed(&qr(&a).unwrap().1, false);
        let two_sided = sweeps_needed(&a, true);
        assert!(one_sided.max(two_sided) <= gpu::SWEEPS / 2, "{name}: {one_sided} and {two_sided} sweeps");
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let device = Device::cpu();
    let vector = Tensor::zeros(&device, &[3], DType::F32).unwrap();
    assert_eq!(qr(&vector).unwrap_err().to_string(), "qr: expected at least two axes, found shape [3]");
    let tall = Tensor::zeros(&device, &[3, 2], DType::F32).unwrap();
    let refused = symmetric_eigen(&tall).unwrap_err().to_string();
    assert_eq!(refused, "symmetric_eigen: expected square matrices, found shape [3, 2]");
    assert!(cholesky(&tall).is_err());
    assert!(svd(&Tensor::zeros(&device, &[2, 2], DType::U32).unwrap()).is_err());
}

#[test]
fn every_variant_is_valid_wgsl() {
    let validate = crate::gpu::validate;
    for workgroup in [64.0, 256.0, 1024.0] {
        let sizes = [("WORKGROUP", workgroup), ("LANES", 16.0)];
        validate("factor", householder::FACTOR, &sizes);
        for flag in [0.0, 1.0] {
            validate("apply", householder::APPLY, &[sizes[0], sizes[1], ("TRIANGULAR", flag)]);
            validate("start", householder::START, &[("GIVEN", flag)]);
            validate("prepare", gpu::PREPARE, &[sizes[0], sizes[1], ("SYMMETRIC", flag)]);
            validate("rank", gpu::RANK, &[sizes[0], sizes[1], ("EIGEN", flag)]);
        }
        validate("svd", gpu::SVD, &sizes);
        validate("eigen", gpu::EIGEN, &sizes[..1]);
    }
    validate("triangle", householder::TRIANGLE, &[]);
    validate("rows", gpu::ROWS, &[]);
    validate("signs", gpu::SIGNS, &[]);
    validate("cholesky", gpu::CHOLESKY, &[]);
}
