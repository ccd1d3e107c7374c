//! Suite `kernels`: matrix products by shape, layout and element type, beside the memory bandwidth of the device.

use serde_json::{Value, json};
use tensor::{DType, Device, RandomKey, Tensor};

use super::timing::seconds_per_call;
use crate::failure::Outcome;
use crate::output::{Output, table};

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

pub fn run(device: &Device, quick: bool, output: &Output) -> Outcome<Value> {
    let budget = if quick { 0.05 } else { 0.4 };
    let products: &[Product] = match (device.is_cpu(), quick) {
        (true, false) => &CPU_PRODUCTS,
        (true, true) => &CPU_PRODUCTS[..3],
        (false, false) if device.adapter().is_some_and(|adapter| adapter.is_software()) => &CPU_PRODUCTS[..3],
        (false, false) => &GPU_PRODUCTS,
        (false, true) => &GPU_PRODUCTS[..1],
    };
    let bandwidth = bandwidth(device, budget)?;
    output.say(format!("\nmemory: {bandwidth:.0} GB/s read and written by an element-wise kernel"));
    let mut rows = Vec::new();
    let mut results = Vec::new();
    for product in products {
        for layout in LAYOUTS {
            for weight in [DType::F32, DType::F16] {
                let seconds = time_product(device, product, layout, weight, budget)?;
                let tflops = 2.0 * (product.m * product.n * product.k) as f64 / seconds / 1e12;
                rows.push(vec![
                    product.what.to_string(),
                    format!("{}x{}x{}", product.m, product.n, product.k),
                    layout.into(),
                    weight.to_string(),
                    format!("{:.1}", seconds * 1e6),
                    format!("{tflops:.3}"),
                ]);
                results.push(json!({
                    "what": product.what, "m": product.m, "n": product.n, "k": product.k, "layout": layout,
                    "weight": weight.to_string(), "seconds": seconds, "tflops": tflops,
                }));
            }
        }
    }
    output.say(format!("\n{}", table(&["product", "m x n x k", "layout", "B type", "us", "TFLOP/s"], &rows)));
    Ok(json!({ "bandwidth_gb_per_s": bandwidth, "products": results }))
}

/// Gigabytes per second that `y = x + 1` reads and writes, on arrays well beyond the caches.
fn bandwidth(device: &Device, budget: f64) -> Outcome<f64> {
    let software = device.adapter().is_none_or(|adapter| adapter.is_software());
    let elements = if software { 1 << 24 } else { 1 << 28 };
    let x = Tensor::ones(device, &[elements], DType::F32)?;
    let seconds = seconds_per_call(device, budget, || x.affine(1.0, 1.0).map(drop))?;
    Ok(2.0 * 4.0 * elements as f64 / seconds / 1e9)
}

fn time_product(device: &Device, product: &Product, layout: &str, weight: DType, budget: f64) -> Outcome<f64> {
    let operand = |name: &str, rows: usize, columns: usize, transposed: bool| -> tensor::Result<Tensor> {
        let shape = if transposed { [columns, rows] } else { [rows, columns] };
        // Random values: some chips run faster on zeros than on any real data.
        let stored = Tensor::random_uniform(device, &shape, -1.0, 1.0, RandomKey::named(0, name, 0))?;
        if transposed { stored.t() } else { Ok(stored) }
    };
    let a = operand("a", product.m, product.k, layout.starts_with('T'))?;
    let b = operand("b", product.k, product.n, layout.ends_with('T'))?;
    // `cast` keeps the logical order, so a transposed operand is cast before it is turned.
    let b = match (weight, layout.ends_with('T')) {
        (DType::F32, _) => b,
        (_, true) => b.t()?.cast(weight)?.t()?,
        (_, false) => b.cast(weight)?,
    };
    seconds_per_call(device, budget, || a.matmul(&b).map(drop))
}
