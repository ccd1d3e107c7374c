//! Suite `kernels`: throughput beside what the device can do.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::part;
use crate::failure::Outcome;
use crate::report::{Bar, Bars, Better, Figure, Finding, Section};

#[derive(Deserialize)]
struct Memory {
    time: Bandwidth,
}

#[derive(Deserialize)]
struct Bandwidth {
    gb_per_s: f64,
}

#[derive(Deserialize)]
struct Product {
    what: String,
    m: usize,
    n: usize,
    k: usize,
    layout: String,
    left_type: String,
    right_type: String,
    time: Throughput,
}

#[derive(Deserialize)]
struct Throughput {
    tflops: f64,
    tflops_low: f64,
    tflops_high: f64,
}

impl Product {
    /// Floating-point operations for each byte of the operands and the result.
    fn intensity(&self) -> f64 {
        let size = |element: &str| if element == "f32" { 4 } else { 2 };
        let operands = size(&self.left_type) * self.m * self.k + size(&self.right_type) * self.k * self.n;
        let bytes = operands + 4 * self.m * self.n;
        2.0 * (self.m * self.n * self.k) as f64 / bytes as f64
    }

    /// The operands' types.
    fn types(&self) -> [&str; 2] {
        [&self.left_type, &self.right_type]
    }
}

pub fn section(raw: &Value) -> Outcome<Section> {
    let bandwidth = part::<Memory>(&raw["memory"])?.time.gb_per_s;
    let products: Vec<Product> = raw.get("products").map_or(Ok(Vec::new()), part)?;
    let best = products.iter().map(|product| product.time.tflops).fold(0.0, f64::max);
    let types: BTreeSet<_> = products.iter().map(Product::types).collect();
    // Those of f32 first.
    let figures = types.into_iter().rev().map(|types| Figure::Bars(bars(&products, types, best, bandwidth))).collect();
    Ok(Section {
        title: "Kernels".into(),
        text: vec![
            "Matrix products A·B in the layouts of a training step: NT forward, NN for the input's gradient, TN for the \
             factors' gradients."
                .into(),
        ],
        findings: vec![Finding::new(
            "Kernels",
            format!("Matrix products reach {best:.2} TFLOP/s; memory moves {bandwidth:.0} GB/s."),
            true,
        )],
        figures,
        ..Section::default()
    })
}

fn bars(products: &[Product], types: [&str; 2], best: f64, bandwidth: f64) -> Bars {
    let bar = |product: &Product| {
        let Throughput { tflops, tflops_low, tflops_high } = product.time;
        let roof = best.min(product.intensity() * bandwidth / 1e3);
        Bar {
            group: format!("{}, {} x {} x {}", product.what, product.m, product.n, product.k),
            name: product.layout.clone(),
            value: tflops,
            low: Some(tflops_low),
            high: Some(tflops_high),
            // What fits into caches may be faster than memory.
            ceiling: (roof >= tflops).then_some(roof),
            published: false,
        }
    };
    Bars {
        title: format!("Matrix products, A in {} and B in {}", types[0], types[1]),
        note: "The dashed mark is what this device was measured to do at most: the lower of the fastest product here and what \
               memory allows for this shape. Intervals reach from the slowest to the fastest sample."
            .into(),
        timed: true,
        unit: "TFLOP/s".into(),
        better: Better::Higher,
        bars: products.iter().filter(|product| product.types() == types).map(bar).collect(),
    }
}
