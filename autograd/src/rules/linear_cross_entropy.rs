//! The language model's last layer and its loss as one operation that never holds all logits.

use tensor::{DType, Result, Tensor, TensorError};

use super::loss::mean_scale;
use crate::tape::{misuse, record};
use crate::var::Var;

/// The mean cross-entropy of the logits h·Wᵀ against `labels`, computed for `chunk_rows` rows at a time:
///
/// loss = Σ over rows (ln Σⱼ e^{xⱼ} − x\[label\]) / valid with x = h·Wᵀ; dx = (softmax(x) − onehot(label)) / valid,
/// dh = dx·W · dy, dW = dxᵀ·h · dy.
///
/// `hidden` is `[rows, hidden]`, `weight` `[vocab, hidden]` (f32; f16 or bf16 where it is constant; with f16 both products
/// are [`Tensor::mixed_matmul`]s), `labels` i32 `[rows]`, where `ignore` marks rows without loss and gradient. `valid` is the divisor: the number of labels that
/// are not ignored, counted by the caller, who had them on the host (counting here would wait for the device). The
/// micro-batches of one step may share the count of them all.
///
/// Each input that requires a gradient gets it in the forward pass, while the chunk's logits are at hand; the backward
/// pass only multiplies by the upstream scalar. Kept are dh and dW themselves, never logits: at most
/// `chunk_rows · vocab` of them exist at once.
///
/// # Errors
/// [`TensorError::InvalidArgument`] when `valid` or `chunk_rows` is 0, [`TensorError::Shape`] when `hidden` is no
/// matrix; otherwise those of the tensor operations.
pub fn linear_cross_entropy(
    hidden: &Var,
    weight: &Var,
    labels: &Tensor,
    ignore: i32,
    valid: usize,
    chunk_rows: usize,
) -> Result<Var> {
    chunked(hidden, weight, None, labels, ignore, valid, chunk_rows)
}

/// As [`linear_cross_entropy`], of the logits h·Wᵀ + bias with a bias `[vocab]`; dbias is the sum of dx's rows, times dy.
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn biased_linear_cross_entropy(
    hidden: &Var,
    weight: &Var,
    bias: &Var,
    labels: &Tensor,
    ignore: i32,
    valid: usize,
    chunk_rows: usize,
) -> Result<Var> {
    chunked(hidden, weight, Some(bias), labels, ignore, valid, chunk_rows)
}

fn chunked(
    hidden: &Var,
    weight: &Var,
    bias: Option<&Var>,
    labels: &Tensor,
    ignore: i32,
    valid: usize,
    chunk_rows: usize,
) -> Result<Var> {
    const NAME: &str = "linear_cross_entropy";
    let scale = mean_scale(NAME, valid)?;
    let [rows, _] = hidden.shape()[..] else {
        let expected = "hidden states of shape [rows, hidden]".into();
        return Err(TensorError::Shape { operation: NAME, expected, found: *hidden.shape() });
    };
    if chunk_rows == 0 {
        return Err(misuse(NAME, "chunk_rows must be at least 1"));
    }
    if labels.shape()[..] != [rows] {
        let expected = format!("one label for each of {rows} rows");
        return Err(TensorError::Shape { operation: NAME, expected, found: *labels.shape() });
    }
    let mut pass = Pass::new(hidden, weight, bias)?;
    for start in (0..rows).step_by(chunk_rows) {
        let end = rows.min(start + chunk_rows);
        pass.chunk(&hidden.tensor().slice(0, start, end)?, &labels.slice(0, start, end)?, ignore, scale)?;
    }
    let (loss, gradients) = pass.finish(scale)?;
    let inputs: Vec<&Var> = [hidden, weight].into_iter().chain(bias).collect();
    let count = inputs.len();
    Ok(record(NAME, &inputs, loss, move |dy| {
        let scaled = |gradient: Option<Tensor>| gradient.map(|gradient| gradient.mul(dy)).transpose();
        gradients.into_iter().take(count).map(scaled).collect()
    }))
}

/// What the chunks have yielded so far.
struct Pass {
    weight: Tensor,
    bias: Option<Tensor>,
    losses: Vec<Tensor>,
    /// Gradients of the chunks' hidden states, if wanted.
    dhidden: Option<Vec<Tensor>>,
    /// Gradient of the weight, if wanted.
    dweight: Option<Tensor>,
    /// Gradient of the bias, if wanted.
    dbias: Option<Tensor>,
}

impl Pass {
    fn new(hidden: &Var, weight: &Var, bias: Option<&Var>) -> Result<Self> {
        let zeros = |of: &Var| Tensor::zeros(of.device(), of.shape(), DType::F32);
        Ok(Pass {
            weight: weight.tensor().clone(),
            bias: bias.map(|bias| bias.tensor().clone()),
            losses: Vec::new(),
            dhidden: hidden.requires_gradient().then(Vec::new),
            dweight: weight.requires_gradient().then(|| zeros(weight)).transpose()?,
            dbias: bias.filter(|bias| bias.requires_gradient()).map(zeros).transpose()?,
        })
    }

    fn chunk(&mut self, hidden: &Tensor, labels: &Tensor, ignore: i32, scale: f32) -> Result<()> {
        let mut logits = hidden.mixed_matmul(&self.weight.t()?)?;
        if let Some(bias) = &self.bias {
            logits = logits.add(bias)?;
        }
        let only_hidden = self.dweight.is_none() && self.dbias.is_none();
        if let (Some(chunks), true, DType::F16) = (&mut self.dhidden, only_hidden, self.weight.dtype()) {
            let (losses, dlogits) = tensor::cross_entropy_with_gradient(&logits, labels, ignore, scale)?;
            drop(logits);
            self.losses.push(losses);
            chunks.push(dlogits.matmul(&self.weight)?);
            return Ok(());
        }
        let forward = tensor::cross_entropy(&logits, labels, ignore)?;
        self.losses.push(forward.losses);
        if only_hidden && self.dhidden.is_none() {
            return Ok(());
        }
        // In place: the logits are held here only.
        let dlogits = tensor::cross_entropy_backward(logits, labels, ignore, &forward.log_sum_exp, scale)?;
        if let Some(chunks) = &mut self.dhidden {
            chunks.push(dlogits.mixed_matmul(&self.weight)?);
        }
        if let Some(dweight) = self.dweight.take() {
            self.dweight = Some(dweight.matmul_accumulate(&dlogits.t()?, hidden, 1.0)?);
        }
        if let Some(dbias) = &mut self.dbias {
            *dbias = dbias.add(&dlogits.sum(&[0], false)?)?;
        }
        Ok(())
    }

    /// Loss, and the gradients of hidden states, weight and bias.
    fn finish(self, scale: f32) -> Result<(Tensor, [Option<Tensor>; 3])> {
        let join = |chunks: &[Tensor]| Tensor::concat(&chunks.iter().collect::<Vec<_>>(), 0);
        let loss = join(&self.losses)?.sum(&[0], false)?.affine(scale, 0.0)?;
        let dhidden = self.dhidden.map(|chunks| join(&chunks)).transpose()?;
        Ok((loss, [dhidden, self.dweight, self.dbias]))
    }
}

#[cfg(test)]
mod tests {
    use tensor::testing::on_each_backend;

    use super::*;
    use crate::check::{TestRandom, check_gradients, random_cases};
    use crate::rules::loss::cross_entropy;
    use crate::tape::Tape;

    fn labels(device: &tensor::Device, random: &mut TestRandom, rows: usize, vocab: usize) -> Tensor {
        let mut labels: Vec<i32> = random.indices(rows, vocab).into_iter().map(|label| label as i32).collect();
        labels[rows / 2] = -100;
        Tensor::from_vec(device, &[rows], labels).unwrap()
    }

    on_each_backend! {
        fn derivatives(device) {
            random_cases(3, |random| {
                let [rows, hidden, vocab] = [random.extent() + 1, random.extent(), random.extent() + 1];
                let labels = labels(device, random, rows, vocab);
                for chunk_rows in [1, 2, rows, 64] {
                    check_gradients("linear_cross_entropy", device, random, &[&[rows, hidden], &[vocab, hidden]], |v| {
                        linear_cross_entropy(&v[0].affine(2.0, 0.0)?, &v[1], &labels, -100, rows - 1, chunk_rows)
                    })?;
                }
                Ok(())
            });
        }

        fn equals_product_and_loss(device) {
            let mut random = TestRandom::new(8);
            let [rows, hidden, vocab] = [7, 4, 5];
            let labels = labels(device, &mut random, rows, vocab);
            let h = random.tensor(device, &[rows, hidden], -2.0, 2.0).unwrap();
            let w = random.tensor(device, &[vocab, hidden], -2.0, 2.0).unwrap();
            let tape = Tape::new();
            let (hv, wv) = (tape.leaf("h", &h), tape.leaf("w", &w));
            let fused = linear_cross_entropy(&hv, &wv, &labels, -100, 6, 3).unwrap();
            let fused_loss = fused.tensor().item::<f32>().unwrap();
            let fused = tape.backward(&fused).unwrap();
            let (hv, wv) = (tape.leaf("h", &h), tape.leaf("w", &w));
            let plain = cross_entropy(&hv.matmul(&wv.t().unwrap()).unwrap(), &labels, -100, 6).unwrap();
            assert!((plain.tensor().item::<f32>().unwrap() - fused_loss).abs() < 1e-5);
            let plain = tape.backward(&plain).unwrap();
            for name in ["h", "w"] {
                let [a, b] = [&fused, &plain].map(|g| g.get(name).unwrap().to_vec::<f32>().unwrap());
                assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{name}: {a:?} {b:?}");
            }
        }

        fn a_bias_is_added_to_the_logits(device) {
            let mut random = TestRandom::new(10);
            let labels = labels(device, &mut random, 5, 4);
            let shapes: [&[usize]; 3] = [&[5, 3], &[4, 3], &[4]];
            check_gradients("biased_linear_cross_entropy", device, &mut random, &shapes, |v| {
                biased_linear_cross_entropy(&v[0].affine(2.0, 0.0)?, &v[1], &v[2].affine(2.0, 0.0)?, &labels, -100, 4, 2)
            })
            .unwrap();
            let [h, w, bias] = shapes.map(|shape| Var::constant(random.tensor(device, shape, -1.0, 1.0).unwrap()));
            let chunked = biased_linear_cross_entropy(&h, &w, &bias, &labels, -100, 4, 2).unwrap();
            let logits = h.matmul(&w.t().unwrap()).unwrap().add(&bias).unwrap();
            let plain = cross_entropy(&logits, &labels, -100, 4).unwrap();
            let [chunked, plain] = [chunked, plain].map(|loss| loss.tensor().item::<f32>().unwrap());
            assert!((chunked - plain).abs() < 1e-5, "{chunked} {plain}");
        }

        fn half_precision_weights_are_constants(device) {
            let mut random = TestRandom::new(9);
            let labels = labels(device, &mut random, 4, 3);
            let w = random.tensor(device, &[3, 5], -1.0, 1.0).unwrap().cast(DType::Bf16).unwrap();
            let as_f32 = Var::constant(w.cast(DType::F32).unwrap());
            let w = Var::constant(w);
            let h = random.tensor(device, &[4, 5], -1.0, 1.0).unwrap();
            let gradient = |weight: &Var| {
                let tape = Tape::new();
                let loss = linear_cross_entropy(&tape.leaf("h", &h), weight, &labels, -100, 3, 2).unwrap();
                tape.backward(&loss).unwrap().get("h").unwrap().to_vec::<f32>().unwrap()
            };
            let (a, b) = (gradient(&w), gradient(&as_f32));
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} {b:?}");
        }

        fn mixed_precision_is_near_f32(device) {
            let mut random = TestRandom::new(12);
            // Rows of whole vectors, and others.
            for vocabulary in [8, 7] {
                let labels = labels(device, &mut random, 4, vocabulary);
                let w = random.tensor(device, &[vocabulary, 5], -1.0, 1.0).unwrap().cast(DType::F16).unwrap();
                let h = random.tensor(device, &[4, 5], -1.0, 1.0).unwrap();
                let [(loss, gradient), (exact_loss, exact)] = [w.clone(), w.cast(DType::F32).unwrap()].map(|w| {
                    let tape = Tape::new();
                    let h = tape.leaf("h", &h);
                    let loss = linear_cross_entropy(&h, &Var::constant(w), &labels, -100, 3, 2).unwrap();
                    let value = loss.tensor().item::<f32>().unwrap();
                    (value, tape.backward(&loss).unwrap().get("h").unwrap().to_vec::<f32>().unwrap())
                });
                assert!((loss - exact_loss).abs() < 1e-3 * exact_loss, "{loss} {exact_loss}");
                let near = gradient.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 2e-3);
                assert!(near, "{gradient:?} {exact:?}");
            }
        }
    }
}
