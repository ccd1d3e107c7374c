//! Suite `kernels`: throughput beside what the device can do.

use serde::Deserialize;
use serde_json::Value;

use super::part;
use crate::failure::Outcome;
use crate::report::{Bar, Bars, Better, Figure, Section};

#[derive(Deserialize)]
struct Kernels {
    bandwidth_gb_per_s: f64,
    products: Vec<Product>,
}

#[derive(Deserialize)]
struct Product {
    what: String,
    m: usize,
    n: usize,
    k: usize,
    layout: String,
    weight: String,
    tflops: f64,
}

impl Product {
    /// Floating-point operations for each byte of the operands and the result.
    fn intensity(&self) -> f64 {
        let weight = if self.weight == "f32" { 4 } else { 2 };
        let bytes = 4 * (self.m * self.k + self.m * self.n) + weight * self.k * self.n;
        2.0 * (self.m * self.n * self.k) as f64 / bytes as f64
    }
}

pub fn section(raw: &Value) -> Outcome<Section> {
    let kernels: Kernels = part(raw)?;
    let best = kernels.products.iter().map(|product| product.tflops).fold(0.0, f64::max);
    let mut weights: Vec<&str> = kernels.products.iter().map(|product| product.weight.as_str()).collect();
    weights.dedup();
    weights.sort_unstable();
    weights.dedup();
    let figures = weights.iter().map(|weight| Figure::Bars(bars(&kernels, weight, best))).collect();
    let bandwidth = kernels.bandwidth_gb_per_s;
    Ok(Section {
        title: "Kernels".into(),
        text: vec![
            "Matrix products A·B in the layouts of a training step: NT forward, NN for the input's gradient, TN for the \
             factors' gradients."
                .into(),
        ],
        findings: vec![format!("Matrix products reach {best:.2} TFLOP/s; memory moves {bandwidth:.0} GB/s.")],
        figures,
        ..Section::default()
    })
}

fn bars(kernels: &Kernels, weight: &str, best: f64) -> Bars {
    let bar = |product: &Product| {
        let roof = best.min(product.intensity() * kernels.bandwidth_gb_per_s / 1e3);
        Bar {
            group: format!("{}, {} x {} x {}", product.what, product.m, product.n, product.k),
            name: product.layout.clone(),
            value: product.tflops,
            low: None,
            high: None,
            // What fits into caches may be faster than memory.
            ceiling: (roof >= product.tflops).then_some(roof),
            published: false,
        }
    };
    Bars {
        title: format!("Matrix products, B in {weight}"),
        note: "The dashed mark is the lower of the fastest product here and what memory allows for this shape.".into(),
        unit: "TFLOP/s".into(),
        better: Better::Higher,
        bars: kernels.products.iter().filter(|product| product.weight == weight).map(bar).collect(),
    }
}
