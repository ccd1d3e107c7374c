//! The properties of S̃ in f64, on pairs of factors without a model. Conventions: A `[rank, inputs]`, B `[outputs, rank]`,
//! X = A·Aᵀ, Y = Bᵀ·B, M = B·A.

mod matrix;

use matrix::Matrix;
use proptest::prelude::*;
use tensor::dense_refactoring;

#[derive(Debug)]
struct Pair {
    a: Matrix,
    b: Matrix,
}

impl Pair {
    fn new(rank: usize, inputs: usize, outputs: usize, seed: u64) -> Self {
        Pair { a: Matrix::normal(rank, inputs, seed, "a"), b: Matrix::normal(outputs, rank, seed, "b") }
    }

    fn s(&self) -> (Matrix, Matrix) {
        let found = dense_refactoring(self.a.rows, &self.a.values, &self.b.values, 0.0).expect("full rank");
        let rank = self.a.rows;
        (Matrix::new(rank, rank, found.s), Matrix::new(rank, rank, found.inverse))
    }

    fn x(&self) -> Matrix {
        self.a.times(&self.a.t())
    }

    fn y(&self) -> Matrix {
        self.b.t().times(&self.b)
    }

    fn product(&self) -> Matrix {
        self.b.times(&self.a)
    }

    /// (P⁻¹·A, B·P)
    fn refactored(&self, p: &Matrix) -> Pair {
        Pair { a: p.inverse().times(&self.a), b: self.b.times(p) }
    }
}

fn pairs() -> impl Strategy<Value = Pair> {
    (1usize..=6, 0usize..=10, 0usize..=10, any::<u64>())
        .prop_map(|(rank, inputs, outputs, seed)| Pair::new(rank, rank + 2 + inputs, rank + 2 + outputs, seed))
}

fn close(what: &str, got: &Matrix, want: &Matrix, tolerance: f64) {
    let difference = got.minus(want).norm() / want.norm().max(1e-300);
    assert!(difference <= tolerance, "{what}: relative difference {difference:e}");
}

/// Random factors are well conditioned most of the time; the bound allows for those that are not.
fn tolerance(pair: &Pair) -> f64 {
    1e-14 * pair.x().condition() * pair.y().condition() + 1e-12
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn qr_and_svd_give_the_matrix_geometric_mean(pair in pairs()) {
        let (s, inverse) = pair.s();
        let root = pair.x().power(0.5);
        let root_inverse = pair.x().power(-0.5);
        let middle = root.times(&pair.y()).times(&root);
        let mean = root_inverse.times(&middle.power(0.5)).times(&root_inverse);
        close("S̃", &s, &mean, tolerance(&pair));
        close("S̃⁻¹", &inverse, &root.times(&middle.power(-0.5)).times(&root), tolerance(&pair));
        close("S̃·S̃⁻¹", &s.times(&inverse), &Matrix::identity(s.rows), tolerance(&pair));
    }

    #[test]
    fn it_solves_the_riccati_equation(pair in pairs()) {
        let (s, _) = pair.s();
        close("S̃·X·S̃ = Y", &s.times(&pair.x()).times(&s), &pair.y(), tolerance(&pair));
    }

    #[test]
    fn it_minimises_the_bound_to_twice_the_nuclear_norm(pair in pairs(), seed in any::<u64>()) {
        let (s, inverse) = pair.s();
        let bound = |s: &Matrix, inverse: &Matrix| pair.x().times(s).trace() + pair.y().times(inverse).trace();
        let least = bound(&s, &inverse);
        let nuclear: f64 = pair.product().t().times(&pair.product()).eigenvalues().iter().map(|x| x.max(0.0).sqrt()).sum();
        prop_assert!((least - 2.0 * nuclear).abs() <= 1e-6 * nuclear, "{least} beside {}", 2.0 * nuclear);
        // Along a geodesic in any direction it grows.
        let direction = Matrix::normal(s.rows, s.rows, seed, "direction");
        let root = s.power(0.5);
        for step in [1e-2, 0.3] {
            let moved = Matrix::identity(s.rows).plus(&direction.plus(&direction.t()).scaled(step));
            let other = root.times(&moved.times(&moved)).times(&root);
            prop_assert!(bound(&other, &other.power(-1.0)) >= least * (1.0 - 1e-12));
        }
    }

    #[test]
    fn refactored_factors_are_balanced_and_have_the_same_product(pair in pairs()) {
        let (s, _) = pair.s();
        let balanced = Pair { a: s.power(0.5).times(&pair.a), b: pair.b.times(&s.power(-0.5)) };
        close("A·Aᵀ = Bᵀ·B", &balanced.x(), &balanced.y(), tolerance(&pair));
        close("B·A", &balanced.product(), &pair.product(), tolerance(&pair));
        // σ(A)² = σ(B·A), of which as many as the rank are not zero.
        let mut squares = balanced.x().eigenvalues();
        let mut singular: Vec<f64> =
            pair.product().t().times(&pair.product()).eigenvalues().iter().map(|x| x.max(0.0).sqrt()).collect();
        squares.sort_by(f64::total_cmp);
        singular.sort_by(f64::total_cmp);
        for (square, singular) in squares.iter().rev().zip(singular.iter().rev()) {
            prop_assert!((square - singular).abs() <= 1e-7 * squares[squares.len() - 1]);
        }
        let (identity, _) = balanced.s();
        close("S̃ of balanced factors", &identity, &Matrix::identity(s.rows), tolerance(&pair));
    }

    #[test]
    fn it_follows_changes_of_coordinates(pair in pairs(), seed in any::<u64>(), a in 0.01f64..100.0, b in 0.01f64..100.0) {
        let (s, inverse) = pair.s();
        let p = Matrix::with_condition(s.rows, 10.0, seed);
        close("Pᵀ·S̃·P", &pair.refactored(&p).s().0, &p.t().times(&s).times(&p), 100.0 * tolerance(&pair));
        let swapped = Pair { a: pair.b.t(), b: pair.a.t() };
        close("swapped", &swapped.s().0, &inverse, tolerance(&pair));
        let scaled = Pair { a: pair.a.scaled(a), b: pair.b.scaled(b) };
        close("scaled", &scaled.s().0, &s.scaled(b / a), tolerance(&pair));
    }

    #[test]
    fn closed_forms_in_the_product(pair in pairs()) {
        let (s, inverse) = pair.s();
        let m = pair.product();
        // Squares, since roots of singular matrices lose half the digits.
        let left = pair.a.t().times(&s).times(&pair.a);
        let right = pair.b.times(&inverse).times(&pair.b.t());
        close("(Aᵀ·S̃·A)² = Mᵀ·M", &left.times(&left), &m.t().times(&m), tolerance(&pair));
        close("(B·S̃⁻¹·Bᵀ)² = M·Mᵀ", &right.times(&right), &m.times(&m.t()), tolerance(&pair));
    }

    #[test]
    fn rank_one_is_the_scalar_form(inputs in 1usize..20, outputs in 1usize..20, seed in any::<u64>()) {
        let pair = Pair::new(1, inputs, outputs, seed);
        let ratio = pair.b.norm() / pair.a.norm();
        prop_assert!((pair.s().0.values[0] - ratio).abs() <= 1e-13 * ratio);
    }
}

/// How a method makes the next factors from gradients.
#[derive(Clone, Copy)]
enum Step {
    Plain,
    Preconditioned,
    /// The scalar form: plain steps between rescaled factors.
    Scalar,
}

/// The weight B·A after some steps down a quadratic loss ½‖B·A − T‖², from a factorisation, with momentum or Adam.
fn trained(mut pair: Pair, target: &Matrix, step: Step, momentum: f64, adam: bool, steps: usize) -> Matrix {
    let zero = |x: &Matrix| Matrix::new(x.rows, x.columns, vec![0.0; x.values.len()]);
    let mut moments = [[zero(&pair.a), zero(&pair.a)], [zero(&pair.b), zero(&pair.b)]];
    for t in 1..=steps {
        let slope = pair.product().minus(target);
        let (mut for_a, mut for_b) = (pair.b.t().times(&slope), slope.times(&pair.a.t()));
        match step {
            Step::Plain => {}
            Step::Preconditioned => {
                let (s, inverse) = pair.s();
                (for_a, for_b) = (inverse.times(&for_a), for_b.times(&s));
            }
            Step::Scalar => {
                let s = pair.b.norm() / pair.a.norm();
                (for_a, for_b) = (for_a.scaled(1.0 / s), for_b.scaled(s));
            }
        }
        for ((factor, gradient), moments) in [(&mut pair.a, for_a), (&mut pair.b, for_b)].into_iter().zip(&mut moments)
        {
            let update = if adam {
                moments[0] = moments[0].scaled(0.9).plus(&gradient.scaled(0.1));
                moments[1] = moments[1].scaled(0.999).plus(&gradient.map(|x| 0.001 * x * x));
                let corrections = (1.0 - 0.9f64.powi(t as i32), 1.0 - 0.999f64.powi(t as i32));
                let values = moments[0].values.iter().zip(&moments[1].values);
                let update = values.map(|(m, v)| m / corrections.0 / ((v / corrections.1).sqrt() + 1e-12));
                Matrix::new(factor.rows, factor.columns, update.collect())
            } else {
                moments[0] = moments[0].scaled(momentum).plus(&gradient);
                moments[0].clone()
            };
            *factor = factor.minus(&update.scaled(1e-3));
        }
    }
    pair.product()
}

/// The largest relative difference between the changes of the weight from (A, B) and (P⁻¹·A, B·P) over some seeds.
fn inconsistency(condition: f64, step: Step, momentum: f64, adam: bool, steps: usize) -> f64 {
    (0..5).fold(0.0f64, |worst, seed| {
        let pair = Pair::new(4, 12, 10, seed);
        let target = Matrix::normal(10, 12, seed, "target");
        let start = pair.product();
        let other = pair.refactored(&Matrix::with_condition(4, condition, seed + 100));
        let one = trained(pair, &target, step, momentum, adam, steps).minus(&start);
        let two = trained(other, &target, step, momentum, adam, steps).minus(&start);
        worst.max(one.minus(&two).norm() / one.norm())
    })
}

#[test]
fn the_update_does_not_depend_on_the_factorisation() {
    for (condition, bound) in [(10.0, 1e-12), (1e2, 1e-10), (1e4, 1e-6)] {
        let full = inconsistency(condition, Step::Preconditioned, 0.0, false, 1);
        assert!(full <= bound, "condition {condition}: {full:e}");
        let plain = inconsistency(condition, Step::Plain, 0.0, false, 1);
        assert!(plain > 0.5, "plain LoRA would be consistent at condition {condition}: {plain:e}");
    }
    let heavy_ball = inconsistency(10.0, Step::Preconditioned, 0.9, false, 5);
    assert!(heavy_ball <= 1e-12, "{heavy_ball:e}");
    let adam = inconsistency(10.0, Step::Preconditioned, 0.0, true, 5);
    assert!(adam > 1e-3, "Adam's normalisation depends on coordinates: {adam:e}");
}

#[test]
fn the_scalar_form_is_consistent_for_scaled_rotations_only() {
    let difference = |p: &dyn Fn(u64) -> Matrix| {
        (0..5).fold(0.0f64, |worst, seed| {
            let pair = Pair::new(4, 12, 10, seed);
            let target = Matrix::normal(10, 12, seed, "target");
            let start = pair.product();
            let other = pair.refactored(&p(seed));
            let one = trained(pair, &target, Step::Scalar, 0.0, false, 1).minus(&start);
            let two = trained(other, &target, Step::Scalar, 0.0, false, 1).minus(&start);
            worst.max(one.minus(&two).norm() / one.norm())
        })
    };
    let rotation = difference(&|seed| Matrix::with_condition(4, 1.0, seed).scaled(7.0));
    assert!(rotation <= 1e-12, "{rotation:e}");
    let skewed = difference(&|seed| Matrix::with_condition(4, 10.0, seed));
    assert!(skewed > 0.1, "{skewed:e}");
}

#[test]
fn there_is_no_s_for_zero_or_unreadable_factors() {
    let pair = Pair::new(3, 5, 4, 1);
    let none = |a: &[f64], b: &[f64]| dense_refactoring(3, a, b, 1e-7).is_none();
    assert!(none(&[0.0; 15], &pair.b.values) && none(&pair.a.values, &[0.0; 12]));
    assert!(none(&[f64::NAN; 15], &pair.b.values) && none(&pair.a.values, &[f64::INFINITY; 12]));
    assert!(dense_refactoring(0, &[], &[], 1e-7).is_none());
    assert!(!none(&pair.a.values, &pair.b.values));
}
