//! Finite-difference checks of backward rules, for tests here and in the crates above (feature `testing`).

use tensor::{Device, Result, Tensor};

use crate::tape::Tape;
use crate::var::Var;

/// A small deterministic source of random test cases (SplitMix64): the same cases on every machine.
#[derive(Clone, Debug)]
pub struct TestRandom {
    state: u64,
}

impl TestRandom {
    /// A source that depends on `seed` only.
    pub fn new(seed: u64) -> Self {
        TestRandom { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `low..high`.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.next() >> 40) as f32 / (1u64 << 24) as f32)
    }

    /// A whole number in `low..=high`.
    pub fn integer(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// An axis of a test tensor: 1 to 5 elements.
    pub fn extent(&mut self) -> usize {
        self.integer(1, 5)
    }

    /// `rank` axes of a test tensor.
    pub fn shape(&mut self, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| self.extent()).collect()
    }

    /// `count` whole numbers in `0..bound`.
    pub fn indices(&mut self, count: usize, bound: usize) -> Vec<u32> {
        (0..count).map(|_| self.integer(0, bound - 1) as u32).collect()
    }

    /// `count` numbers in `low..high`.
    pub fn values(&mut self, count: usize, low: f32, high: f32) -> Vec<f32> {
        (0..count).map(|_| self.uniform(low, high)).collect()
    }

    /// A tensor of numbers in `low..high`.
    ///
    /// # Errors
    /// The device's own errors.
    pub fn tensor(&mut self, device: &Device, shape: &[usize], low: f32, high: f32) -> Result<Tensor> {
        Tensor::from_vec(device, shape, self.values(shape.iter().product(), low, high))
    }
}

/// Half the distance between the outer points of a difference quotient.
const STEP: f64 = 1e-2;
/// Admitted difference relative to Σ|gradient·direction|, and relative to what rounding of the outputs makes of it.
const RELATIVE: f64 = 2e-3;
const ROUNDING: f64 = 1e-4;

/// Checks the gradients of `operation` against finite differences.
///
/// The operation is placed in the middle of a graph: its inputs are `tanh` of the leaves (so they lie in −1..1; a
/// test moves them elsewhere with [`Var::affine`]), and its output gets a random upstream gradient, stored transposed
/// where it has two axes or more. Leaves are random of the given shapes, at least 0.1 away from 0 so that kinks at 0
/// are not stepped over. Compared are derivatives along random directions and single coordinates of each input,
/// by central differences with one step of Richardson's extrapolation. Then each input in turn is made the only one
/// that requires a gradient, which must come out the same.
///
/// # Errors
/// Those of the operation and of the device.
///
/// # Panics
/// When a gradient is missing or wrong.
pub fn check_gradients(
    what: &str,
    device: &Device,
    random: &mut TestRandom,
    shapes: &[&[usize]],
    operation: impl Fn(&[Var]) -> Result<Var>,
) -> Result<()> {
    let points: Vec<Vec<f32>> = shapes
        .iter()
        .map(|shape| {
            let sign = |random: &mut TestRandom| if random.integer(0, 1) == 0 { -1.0 } else { 1.0 };
            (0..shape.iter().product()).map(|_| sign(random) * random.uniform(0.1, 1.5)).collect()
        })
        .collect();
    let probe = Probe { device, shapes, operation: &operation };
    let (output_shape, outputs) = probe.output(&points)?;
    let weights = random.values(outputs.len(), -1.0, 1.0);
    let scale: f64 = outputs.iter().zip(&weights).map(|(y, w)| f64::from(y * w).powi(2)).sum::<f64>().sqrt();

    let all: Vec<usize> = (0..shapes.len()).collect();
    let gradients = probe.gradients(&points, &all, &output_shape, &weights)?;
    for input in 0..shapes.len() {
        let gradient = gradients[input].as_ref().unwrap_or_else(|| panic!("{what}: input {input} got no gradient"));
        for (kind, direction) in directions(random, gradient.len()) {
            let products: Vec<f64> = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * d).collect();
            let analytic: f64 = products.iter().sum();
            let magnitude: f64 = products.iter().map(|product| product.abs()).sum();
            let slope = |step: f64| -> Result<f64> {
                let ahead = probe.weighted_output(&points, input, &direction, step, &weights)?;
                let behind = probe.weighted_output(&points, input, &direction, -step, &weights)?;
                Ok((ahead - behind) / (2.0 * step))
            };
            let numeric = (4.0 * slope(STEP)? - slope(2.0 * STEP)?) / 3.0;
            assert!(
                (analytic - numeric).abs() <= RELATIVE * magnitude + ROUNDING * (1.0 + scale),
                "{what}, shapes {shapes:?}: along {kind} of input {input} the rule gives {analytic}, \
                 finite differences give {numeric}"
            );
        }
        let alone = probe.gradients(&points, &[input], &output_shape, &weights)?;
        let alone = alone[input].as_ref().unwrap_or_else(|| panic!("{what}: input {input} alone got no gradient"));
        for (a, b) in gradient.iter().zip(alone) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{what}: input {input} alone gets {b} instead of {a}");
        }
    }
    Ok(())
}

/// Two random directions, and up to two coordinates.
fn directions(random: &mut TestRandom, count: usize) -> Vec<(String, Vec<f64>)> {
    let mut directions = Vec::new();
    for number in 0..if count > 1 { 2 } else { 0 } {
        let direction = random.values(count, -1.0, 1.0).into_iter().map(f64::from).collect();
        directions.push((format!("direction {number}"), direction));
    }
    for _ in 0..count.min(2) {
        let coordinate = random.integer(0, count - 1);
        let mut direction = vec![0.0; count];
        direction[coordinate] = 1.0;
        directions.push((format!("coordinate {coordinate}"), direction));
    }
    directions
}

/// The operation under test, ready to be evaluated.
struct Probe<'a, F> {
    device: &'a Device,
    shapes: &'a [&'a [usize]],
    operation: &'a F,
}

impl<F: Fn(&[Var]) -> Result<Var>> Probe<'_, F> {
    fn output(&self, points: &[Vec<f32>]) -> Result<(Vec<usize>, Vec<f32>)> {
        let inputs = points
            .iter()
            .zip(self.shapes)
            .map(|(values, shape)| Ok(Var::constant(Tensor::from_slice(self.device, shape, values)?.tanh()?)));
        let output = (self.operation)(&inputs.collect::<Result<Vec<Var>>>()?)?;
        assert!(!output.requires_gradient(), "an operation of constants is a constant");
        Ok((output.shape().to_vec(), output.tensor().to_vec()?))
    }

    /// Σ weights · output with one input moved along a direction, summed in f64.
    fn weighted_output(
        &self,
        points: &[Vec<f32>],
        input: usize,
        direction: &[f64],
        step: f64,
        weights: &[f32],
    ) -> Result<f64> {
        let mut moved = points.to_vec();
        for (value, slope) in moved[input].iter_mut().zip(direction) {
            *value = (f64::from(*value) + step * slope) as f32;
        }
        let (_, outputs) = self.output(&moved)?;
        Ok(outputs.iter().zip(weights).map(|(&y, &w)| f64::from(y) * f64::from(w)).sum())
    }

    /// The gradient of each leaf, where only those named are trainable.
    fn gradients(
        &self,
        points: &[Vec<f32>],
        trainable: &[usize],
        output_shape: &[usize],
        weights: &[f32],
    ) -> Result<Vec<Option<Vec<f32>>>> {
        let tape = Tape::new();
        let inputs = points.iter().zip(self.shapes).enumerate().map(|(input, (values, shape))| {
            let tensor = Tensor::from_slice(self.device, shape, values)?;
            let leaf = match trainable.contains(&input) {
                true => tape.leaf(&input.to_string(), &tensor),
                false => Var::constant(tensor),
            };
            leaf.tanh()
        });
        let output = (self.operation)(&inputs.collect::<Result<Vec<Var>>>()?)?;
        let mut upstream = Tensor::from_slice(self.device, output_shape, weights)?;
        if let [.., rows, columns] = *output_shape
            && rows > 1
            && columns > 1
        {
            upstream = transposed_storage(&upstream)?;
        }
        let gradients = tape.backward_from(&output, upstream)?;
        assert!(tape.is_empty(), "a backward pass empties the tape");
        assert!(gradients.len() <= trainable.len(), "only trainable inputs get gradients");
        (0..points.len()).map(|input| gradients.get(&input.to_string()).map(Tensor::to_vec).transpose()).collect()
    }
}

/// The same tensor, stored with its last two axes exchanged.
fn transposed_storage(tensor: &Tensor) -> Result<Tensor> {
    tensor.t()?.contiguous()?.t()
}

/// Runs a test of gradients over several random cases.
///
/// # Panics
/// When a case returns an error, or panics.
pub fn random_cases(count: u64, mut case: impl FnMut(&mut TestRandom) -> Result<()>) {
    for seed in 0..count {
        if let Err(error) = case(&mut TestRandom::new(seed)) {
            panic!("case {seed}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::record;

    fn check_wrong(rule: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + Copy + 'static) {
        let device = Device::cpu();
        let mut random = TestRandom::new(3);
        check_gradients("square", &device, &mut random, &[&[3, 4]], move |v| {
            let x = v[0].tensor().clone();
            Ok(record("square", &[&v[0]], x.square()?, move |dy| Ok(vec![Some(rule(&x, dy)?)])))
        })
        .unwrap();
    }

    #[test]
    fn the_right_rule_passes() {
        check_wrong(|x, dy| x.mul(dy)?.affine(2.0, 0.0));
    }

    #[test]
    #[should_panic(expected = "finite differences give")]
    fn a_wrong_sign_is_found() {
        check_wrong(|x, dy| x.mul(dy)?.affine(-2.0, 0.0));
    }

    #[test]
    #[should_panic(expected = "finite differences give")]
    fn a_scale_off_by_two_percent_is_found() {
        check_wrong(|x, dy| x.mul(dy)?.affine(2.04, 0.0));
    }

    #[test]
    #[should_panic(expected = "finite differences give")]
    fn a_forgotten_upstream_gradient_is_found() {
        check_wrong(|x, _| x.affine(2.0, 0.0));
    }
}
