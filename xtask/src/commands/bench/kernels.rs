//! Suite `kernels`: matrix products by shape, layout and element type, beside the memory bandwidth of the device.

use serde_json::json;
use tensor::{DType, Device, RandomKey, Tensor};

use super::progress::Meter;
use super::timing::{Spread, seconds_per_call};
use super::{Bench, Results};
use crate::failure::Outcome;
use crate::output::table;

/// `A[m, k]·B[k, n]`; the layout says which operand is stored transposed.
#[derive(Clone, Copy)]
struct Product {
    what: &'static str,
    m: usize,
    n: usize,
    k: usize,
}

const fn product(what: &'static str, m: usize, n: usize, k: usize) -> Product {
    Product { what, m, n, k }
}

const GPU_PRODUCTS: [Product; 8] = [
    product("square", 1024, 1024, 1024),
    product("square", 4096, 4096, 4096),
    product("square", 8192, 8192, 8192),
    product("LLaMA-160M projection", 4096, 768, 768),
    product("LLaMA-160M feed-forward", 4096, 3072, 768),
    product("LLaMA-7B feed-forward", 4096, 11_008, 4096),
    product("adapter down, rank 32", 4096, 32, 4096),
    product("adapter up, rank 32", 4096, 4096, 32),
];

const CPU_PRODUCTS: [Product; 6] = [
    product("square", 512, 512, 512),
    product("square", 1536, 1536, 1536),
    product("LLaMA-15M projection", 512, 288, 288),
    product("LLaMA-15M feed-forward", 512, 768, 288),
    product("LLaMA-15M head, a chunk", 256, 32_000, 288),
    product("adapter down, rank 8", 512, 8, 288),
];

/// The layouts of the training step: forward NT (x·Wᵀ), input gradient NN (dy·W), factor gradient TN (dyᵀ·x).
const LAYOUTS: [&str; 3] = ["NT", "NN", "TN"];

/// Types of the operands: everything in f32; 16-bit weights only; mixed precision, on tensor cores where there are any.
const TYPES: [[DType; 2]; 3] = [[DType::F32, DType::F32], [DType::F32, DType::F16], [DType::F16, DType::F16]];

pub fn run(bench: &Bench<'_>, results: &mut Results) -> Outcome<()> {
    let Bench { device, plan, output, .. } = *bench;
    let software = device.adapter().is_none_or(|adapter| adapter.is_software());
    let products = if software { &CPU_PRODUCTS[..] } else { &GPU_PRODUCTS };
    let products = &products[..plan.kernels.products.min(products.len())];
    let cases = || products.iter().flat_map(|product| LAYOUTS.map(|layout| (product, layout)));
    let bandwidth = bandwidth(device, plan.kernels.budget)?;
    output.say(format!("\nmemory: {bandwidth:.0} GB/s read and written by an element-wise kernel"));
    results.set("memory", json!({ "time": { "gb_per_s": bandwidth } }));
    let mut rows = Vec::new();
    let meter = Meter::new(output, (TYPES.len() * cases().count()) as u64);
    for (product, layout) in cases() {
        for types in TYPES {
            let seconds = time_product(device, product, layout, types, plan.kernels.budget)?;
            let tflops = |seconds: f64| 2.0 * (product.m * product.n * product.k) as f64 / seconds / 1e12;
            rows.push(vec![
                product.what.to_string(),
                format!("{}x{}x{}", product.m, product.n, product.k),
                layout.into(),
                format!("{} x {}", types[0], types[1]),
                format!("{:.1}", seconds.median * 1e6),
                format!("{:.3}", tflops(seconds.median)),
            ]);
            results.push(
                "products",
                json!({
                    "what": product.what, "m": product.m, "n": product.n, "k": product.k, "layout": layout,
                    "left_type": types[0].to_string(), "right_type": types[1].to_string(), "time": {
                        "seconds": seconds.median, "tflops": tflops(seconds.median), "tflops_low": tflops(seconds.high),
                        "tflops_high": tflops(seconds.low),
                    },
                }),
            );
            meter.advance(1)?;
        }
    }
    drop(meter);
    output.say(format!("\n{}", table(&["product", "m x n x k", "layout", "types", "us", "TFLOP/s"], &rows)));
    Ok(())
}

/// Gigabytes per second that `y = x + 1` reads and writes, on arrays well beyond the caches.
fn bandwidth(device: &Device, budget: f64) -> Outcome<f64> {
    let software = device.adapter().is_none_or(|adapter| adapter.is_software());
    let elements = if software { 1 << 24 } else { 1 << 28 };
    let x = Tensor::ones(device, &[elements], DType::F32)?;
    let seconds = seconds_per_call(device, budget, || x.affine(1.0, 1.0).map(drop))?;
    Ok(2.0 * 4.0 * elements as f64 / seconds.median / 1e9)
}

fn time_product(device: &Device, product: &Product, layout: &str, types: [DType; 2], budget: f64) -> Outcome<Spread> {
    let operand = |name: &str, rows: usize, columns: usize, transposed: bool, dtype| -> tensor::Result<Tensor> {
        let shape = if transposed { [columns, rows] } else { [rows, columns] };
        // Random values: some chips run faster on zeros than on any real data.
        let stored = Tensor::random_uniform(device, &shape, -1.0, 1.0, RandomKey::named(0, name, 0))?.cast(dtype)?;
        if transposed { stored.t() } else { Ok(stored) }
    };
    let a = operand("a", product.m, product.k, layout.starts_with('T'), types[0])?;
    let b = operand("b", product.k, product.n, layout.ends_with('T'), types[1])?;
    seconds_per_call(device, budget, || a.matmul(&b).map(drop))
}
