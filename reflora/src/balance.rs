//! Numbers that show how far an adapter's factors are from balance. For people: computed on the host in f64.

use autograd::{Gradients, Optimizer};
use lora::{AdapterSet, GradientTransform, Result};
use tensor::{Device, SINGULAR_VALUE_FLOOR, Tensor, dense_refactoring, linalg};

use crate::pairs;

/// One adapter's balance at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// The module's path.
    pub module: String,
    /// ‖A‖, Frobenius.
    pub norm_a: f64,
    /// ‖B‖, Frobenius.
    pub norm_b: f64,
    /// Largest singular value of A beside its smallest; infinite for a singular factor.
    pub condition_a: f64,
    /// Largest singular value of B beside its smallest; infinite for a singular factor.
    pub condition_b: f64,
    /// 2·‖B·A‖₂, the bound on sharpness that a balanced pair attains; 0 where S̃ is not defined.
    pub sharpness_bound: f64,
    /// ‖A·Aᵀ − Bᵀ·B‖ / (‖A·Aᵀ‖ + ‖Bᵀ·B‖), Frobenius: 0 for balanced factors, 1 when one of them is zero.
    pub distance: f64,
}

/// The balance of every adapter. Copies the factors to the host.
///
/// # Errors
/// The device's own errors.
pub fn balance(adapters: &AdapterSet) -> Result<Vec<Balance>> {
    let host = Device::cpu();
    let mut balances = Vec::new();
    for adapter in pairs::linear(adapters) {
        let Some(factors) = adapters.factors(&adapter.module) else { continue };
        let (a, b) = (factors.a.to_device(&host)?, factors.b.to_device(&host)?);
        let (a_values, b_values) = (wide(&a)?, wide(&b)?);
        let found = dense_refactoring(adapter.rank, &a_values, &b_values, SINGULAR_VALUE_FLOOR);
        let grams = (gram(adapter.rank, &a_values, 1, adapter.inputs), gram(adapter.rank, &b_values, adapter.rank, 1));
        let difference: Vec<f64> = grams.0.iter().zip(&grams.1).map(|(x, y)| x - y).collect();
        let total = norm(&grams.0) + norm(&grams.1);
        balances.push(Balance {
            module: adapter.module.clone(),
            norm_a: norm(&a_values),
            norm_b: norm(&b_values),
            condition_a: condition(&a, adapter.rank)?,
            condition_b: condition(&b, adapter.rank)?,
            sharpness_bound: found.map_or(0.0, |found| 2.0 * found.singular_values[0]),
            distance: if total > 0.0 { norm(&difference) / total } else { 0.0 },
        });
    }
    Ok(balances)
}

fn wide(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.to_vec::<f32>()?.into_iter().map(f64::from).collect())
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Σ over the long axis of x(i, ·)·x(j, ·): element (i, k) lies at i·(length or 1) + k·step.
fn gram(rank: usize, x: &[f64], step: usize, row: usize) -> Vec<f64> {
    let length = x.len() / rank;
    let product = |i: usize, j: usize| (0..length).map(|k| x[i * row + k * step] * x[j * row + k * step]).sum();
    (0..rank * rank).map(|index| product(index / rank, index % rank)).collect()
}

fn condition(factor: &Tensor, rank: usize) -> Result<f64> {
    let (_, values, _) = linalg::svd(factor)?;
    let values = values.to_vec::<f32>()?;
    let smallest = if values.len() < rank { 0.0 } else { values[values.len() - 1] };
    Ok(f64::from(values[0]) / f64::from(smallest))
}

/// A transform that also tells, every so many steps, how balanced the adapters are after the step. Each time waits for the
/// device and copies the factors to the host.
pub struct LogBalance<T, F> {
    inner: T,
    every: u64,
    sink: F,
}

impl<T: GradientTransform, F: FnMut(u64, &[Balance]) -> Result<()>> LogBalance<T, F> {
    /// Around `inner`; `sink` gets the steps done so far and the balances, every `every` steps (0 counts as 1).
    pub fn new(inner: T, every: u64, sink: F) -> Self {
        LogBalance { inner, every: every.max(1), sink }
    }
}

impl<T: GradientTransform, F: FnMut(u64, &[Balance]) -> Result<()>> GradientTransform for LogBalance<T, F> {
    fn prepare(&mut self, adapters: &AdapterSet, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.inner.prepare(adapters, optimizer)
    }

    fn apply(&mut self, adapters: &mut AdapterSet, gradients: &mut Gradients, step: u64) -> Result<()> {
        self.inner.apply(adapters, gradients, step)
    }

    fn after_update(&mut self, adapters: &mut AdapterSet, optimizer: &mut dyn Optimizer, step: u64) -> Result<()> {
        self.inner.after_update(adapters, optimizer, step)?;
        if (step + 1).is_multiple_of(self.every) {
            (self.sink)(step + 1, &balance(adapters)?)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.inner.state()
    }

    fn load_state(&mut self, state: Vec<(String, Tensor)>) -> Result<()> {
        self.inner.load_state(state)
    }

    fn report(&self) -> Result<Vec<(String, f64)>> {
        self.inner.report()
    }
}
