//! L-BFGS in a box: the two-loop recursion (Nocedal and Wright, "Numerical Optimization", algorithm 7.4) on the
//! coordinates that no bound holds, with a projected backtracking line search (Bertsekas 1982). For smooth functions of
//! a few dozen variables at most.

use std::collections::VecDeque;

/// Pairs of steps and gradient differences that are remembered.
const MEMORY: usize = 8;
/// The search is over when no free coordinate's derivative is larger, relative to the value.
const GRADIENT_TOLERANCE: f64 = 1e-9;
/// The decrease that a step must bring, as a fraction of what the gradient promises.
const SUFFICIENT_DECREASE: f64 = 1e-4;
const HALVINGS: usize = 40;

/// Where a minimisation ended.
#[derive(Clone, Debug)]
pub(super) struct Lowest {
    pub point: Vec<f64>,
    pub value: f64,
}

/// One step and the change of the gradient along it.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    curvature: f64,
}

/// A local minimum of `function` in the box, which returns the value and writes the gradient. Never worse than `start`
/// (moved into the box). A value that is not finite ends the search where it was.
pub(super) fn minimise(
    start: &[f64],
    bounds: &[(f64, f64)],
    iterations: usize,
    mut function: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Lowest {
    let mut point: Vec<f64> = start.iter().zip(bounds).map(|(x, &(low, high))| x.clamp(low, high)).collect();
    let mut gradient = vec![0.0; point.len()];
    let mut value = function(&point, &mut gradient);
    let mut pairs: VecDeque<Pair> = VecDeque::new();
    for _ in 0..iterations {
        let free: Vec<bool> = (0..point.len()).map(|i| !held(point[i], gradient[i], bounds[i])).collect();
        let steepest = masked(&gradient, &free);
        let largest = steepest.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        if !value.is_finite() || largest <= GRADIENT_TOLERANCE * value.abs().max(1.0) {
            break;
        }
        let mut direction = masked(&downhill(&steepest, &pairs), &free);
        if dot(&direction, &steepest) >= 0.0 || direction.iter().any(|x| !x.is_finite()) {
            pairs.clear();
            direction = steepest.iter().map(|x| -x).collect();
        }
        let first = if pairs.is_empty() { (0.1 / norm(&direction)).min(1.0) } else { 1.0 };
        let Some((next, next_value, next_gradient)) =
            line_search(&point, value, &gradient, &direction, first, bounds, &mut function)
        else {
            if pairs.is_empty() {
                break;
            }
            pairs.clear();
            continue;
        };
        let step = difference(&next, &point);
        let change = difference(&next_gradient, &gradient);
        let curvature = dot(&step, &change);
        if curvature > 1e-12 * norm(&step) * norm(&change) {
            pairs.push_back(Pair { step, change, curvature });
            if pairs.len() > MEMORY {
                pairs.pop_front();
            }
        }
        let settled = value - next_value <= 1e-14 * value.abs();
        (point, value, gradient) = (next, next_value, next_gradient);
        if settled {
            break;
        }
    }
    Lowest { point, value }
}

/// The first point of the halved steps that is enough of a decrease, with its value and gradient.
fn line_search(
    point: &[f64],
    value: f64,
    gradient: &[f64],
    direction: &[f64],
    first: f64,
    bounds: &[(f64, f64)],
    function: &mut impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Option<(Vec<f64>, f64, Vec<f64>)> {
    let mut length = first;
    for _ in 0..HALVINGS {
        let next: Vec<f64> =
            (0..point.len()).map(|i| (point[i] + length * direction[i]).clamp(bounds[i].0, bounds[i].1)).collect();
        let mut next_gradient = vec![0.0; point.len()];
        let next_value = function(&next, &mut next_gradient);
        let promised = dot(gradient, &difference(&next, point));
        if next_value <= value + SUFFICIENT_DECREASE * promised && next_gradient.iter().all(|x| x.is_finite()) {
            return (next != point).then_some((next, next_value, next_gradient));
        }
        length *= 0.5;
    }
    None
}

/// −H·g for the inverse Hessian H that the pairs describe.
fn downhill(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|x| -x).collect();
    let mut weights = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let weight = dot(&pair.step, &direction) / pair.curvature;
        direction.iter_mut().zip(&pair.change).for_each(|(x, change)| *x -= weight * change);
        weights.push(weight);
    }
    if let Some(last) = pairs.back() {
        let scale = last.curvature / dot(&last.change, &last.change);
        direction.iter_mut().for_each(|x| *x *= scale);
    }
    for (pair, weight) in pairs.iter().zip(weights.into_iter().rev()) {
        let correction = weight - dot(&pair.change, &direction) / pair.curvature;
        direction.iter_mut().zip(&pair.step).for_each(|(x, step)| *x += correction * step);
    }
    direction
}

/// Whether a coordinate is at a bound that descent would cross.
fn held(x: f64, derivative: f64, (low, high): (f64, f64)) -> bool {
    (x <= low && derivative > 0.0) || (x >= high && derivative < 0.0)
}

fn masked(vector: &[f64], free: &[bool]) -> Vec<f64> {
    vector.iter().zip(free).map(|(&x, &free)| if free { x } else { 0.0 }).collect()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rosenbrock's function.
    fn valley(x: &[f64], gradient: &mut [f64]) -> f64 {
        let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
        gradient.copy_from_slice(&[-2.0 * a - 400.0 * x[0] * b, 200.0 * b]);
        a * a + 100.0 * b * b
    }

    #[test]
    fn finds_the_minimum_inside_and_at_the_bounds() {
        let free = minimise(&[-1.2, 1.0], &[(-5.0, 5.0); 2], 200, valley);
        assert!(free.value < 1e-12 && (free.point[0] - 1.0).abs() < 1e-5, "{free:?}");
        // With x ≤ 0.5 the minimum is at (0.5, 0.25).
        let bounded = minimise(&[-1.2, 1.0], &[(-5.0, 0.5), (-5.0, 5.0)], 200, valley);
        assert!(bounded.point[0] == 0.5 && (bounded.point[1] - 0.25).abs() < 1e-6, "{bounded:?}");
        let corner = minimise(&[9.0, 9.0, 9.0], &[(-1.0, 2.0), (0.5, 1.0), (3.0, 4.0)], 50, |x, gradient| {
            gradient.copy_from_slice(&[1.0, -1.0, 2.0 * x[2]]);
            x[0] - x[1] + x[2] * x[2]
        });
        assert_eq!(corner.point, [-1.0, 1.0, 3.0]);
    }

    #[test]
    fn stays_where_the_function_is_finite() {
        // ln x − x has no minimum towards 0; NaN below.
        let barrier = minimise(&[0.5], &[(-1.0, 3.0)], 100, |x, gradient| {
            gradient[0] = 1.0 - 1.0 / x[0];
            if x[0] > 0.0 { x[0] - x[0].ln() } else { f64::NAN }
        });
        assert!((barrier.point[0] - 1.0).abs() < 1e-6, "{barrier:?}");
        let nothing = minimise(&[0.5], &[(0.0, 1.0)], 10, |_, gradient| {
            gradient[0] = f64::NAN;
            f64::NAN
        });
        assert_eq!(nothing.point, [0.5]);
    }
}
