use super::super::self_test::{WHOLE_TILES, problem};
use super::*;
use crate::device::Backend;
use crate::f16;
use crate::gpu::{assert_as_reviewed, validate};
use crate::tensor::Storage;
use crate::testing::gpu;

fn configurations() -> impl Iterator<Item = Config> {
    let head_dims = MixedAttention::HEAD_DIMS.into_iter().filter(|head_dim| head_dim.is_multiple_of(STORED_TILE[1]));
    head_dims.flat_map(|head_dim| {
        let kernels = [Kernel::Forward, Kernel::QueryGradient, Kernel::KeyGradient, Kernel::ValueGradient];
        kernels.into_iter().flat_map(move |kernel| [false, true].map(|masked| Config { kernel, head_dim, masked }))
    })
}

#[test]
fn every_configuration_is_valid_wgsl() {
    assert_eq!(configurations().count(), 24);
    for config in configurations() {
        validate(&config.name(), &config.wgsl(), &[]);
    }
}

#[test]
fn generated_text_is_as_reviewed() {
    for config in configurations().filter(|config| config.head_dim == 128 && !config.masked) {
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
            let launch = Launch { gpu, surroundings: &surroundings, direct };
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
