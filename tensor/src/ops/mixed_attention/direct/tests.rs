use super::super::self_test::{WHOLE_TILES, problem};
use super::*;
use crate::device::Backend;
use crate::f16;
use crate::gpu::{assert_as_reviewed, validate};
use crate::tensor::Storage;
use crate::testing::gpu;

fn configurations() -> impl Iterator<Item = Config> {
    let head_dims = MixedAttention::HEAD_DIMS.into_iter().filter(|head_dim| head_dim.is_multiple_of(Tiles::WIDE[1]));
    head_dims.flat_map(|head_dim| {
        let kernels = [Kernel::Forward, Kernel::QueryGradient, Kernel::KeyGradient, Kernel::ValueGradient];
        let flags = move |kernel| {
            let in_tiles = if kernel == Kernel::Forward { &[false, true][..] } else { &[false] };
            in_tiles
                .iter()
                .flat_map(move |&in_tiles| [false, true].map(|masked| Config { kernel, head_dim, masked, in_tiles }))
        };
        kernels.into_iter().flat_map(flags)
    })
}

#[test]
fn every_configuration_is_valid_wgsl() {
    assert_eq!(configurations().count(), 30);
    for config in configurations() {
        validate(&config.name(), &config.wgsl(), &[]);
    }
}

#[test]
fn generated_text_is_as_reviewed() {
    let reviewed = configurations().filter(|config| config.head_dim == 128 && !config.masked);
    for config in reviewed.filter(|config| config.in_tiles == (config.kernel == Kernel::Forward)) {
        assert_as_reviewed("mixed_attention", &config.name(), &config.wgsl());
    }
}

/// Rows in tiles are the same numbers elsewhere.
#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn operands_are_rounded_into_tiles_wgsl() {
    for head_dim in [64, 96] {
        let (surroundings, [q, k, v, upstream]) = problem(WHOLE_TILES, head_dim, gpu()).unwrap();
        let Backend::Gpu(gpu) = gpu().backend() else { panic!("a GPU") };
        let [rows, tiles] = [false, true].map(|direct| {
            let launch = Launch { gpu, surroundings: &surroundings, direct, output_in_tiles: false };
            let [q, k, v] = launch.rounded([&q, &k, &v]).unwrap();
            let (upstream, deltas) = launch.rounded_upstream(&upstream, &q).unwrap();
            let all = [q, k, v, upstream];
            for operand in &all[1..] {
                let Storage::Gpu(storage) = &operand.values().storage else { panic!("on the GPU") };
                assert_eq!(storage.is_in_tiles(), direct);
            }
            let values = all.each_ref().map(|operand| operand.values().to_vec::<f16>().unwrap());
            let scales = all.each_ref().map(|operand| operand.scales().to_vec::<f32>().unwrap());
            (values, scales, deltas.to_vec::<f32>().unwrap())
        });
        assert!(rows == tiles, "heads of {head_dim}");
    }
}

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn an_output_in_tiles_is_that_in_rows_wgsl() {
    let (surroundings, [q, k, v, upstream]) = problem(2 * ROWS, 64, gpu()).unwrap();
    let Backend::Gpu(backend) = gpu().backend() else { panic!("a GPU") };
    let launch = Launch { gpu: backend, surroundings: &surroundings, direct: false, output_in_tiles: false };
    let [output, ..] = launch.rounded([&q, &k, &v]).unwrap();
    let tiles = Tiles::Left(output.shape()[1]);
    let (values, deltas) = launch.rounded_upstream(&upstream, &output).unwrap();
    // A kernel that does nothing wants it in tiles.
    const NOTHING: &str = "
        @group(0) @binding(0) var<storage, read> x: array<u32>;
        @compute @workgroup_size(1) fn main() { if (x[0] == 1u) { return; } }";
    let dispatch = Dispatch::new("nothing", "main", Source::Wgsl(NOTHING)).read_tiles(output.values(), tiles);
    dispatch.run(backend, [1, 1, 1]).unwrap();
    assert!(tiles.hold(output.values()));
    let (found_values, found_deltas) = launch.rounded_upstream(&upstream, &output).unwrap();
    assert!(tiles.hold(output.values()), "it was read as it lay");
    assert!(found_deltas.to_vec::<f32>().unwrap() == deltas.to_vec::<f32>().unwrap());
    assert!(found_values.values().to_vec::<f16>().unwrap() == values.values().to_vec::<f16>().unwrap());
}
