use half::{bf16, f16};

use crate::testing::{check, on_each_backend, recipe};
use crate::{DType, Device, Tensor};

on_each_backend! {
    fn contiguous_keeps_the_logical_order(device) {
        check(recipe(0..=5, 0..=7, -9.0..9.0), |recipe| {
            let got = recipe.build(device).contiguous()?;
            assert!(got.is_contiguous());
            let want: Vec<f32> = recipe.values().into_iter().map(|x| x as f32).collect();
            assert_eq!(got.to_vec::<f32>()?, want);
            Ok(())
        });
    }

    fn casts_agree_with_the_half_crate(device) {
        check(recipe(0..=3, 0..=9, -70_000.0..70_000.0), |recipe| {
            let x = recipe.build(device);
            let values: Vec<f32> = recipe.values().into_iter().map(|x| x as f32).collect();
            let halves = x.cast(DType::F16)?;
            assert_eq!(halves.to_vec::<f16>()?, values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>());
            let brains = x.cast(DType::Bf16)?;
            assert_eq!(brains.to_vec::<bf16>()?, values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>());
            let back = brains.cast(DType::F32)?.to_vec::<f32>()?;
            assert_eq!(back, values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect::<Vec<_>>());
            let integers = x.cast(DType::I32)?;
            assert_eq!(integers.to_vec::<i32>()?, values.iter().map(|&v| v as i32).collect::<Vec<_>>());
            Ok(())
        });
    }

    fn every_f16_survives(device) {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|x| !x.is_nan()).collect();
        let x = Tensor::from_slice(device, &[all.len()], &all).unwrap();
        let wide = x.cast(DType::F32).unwrap();
        assert_eq!(wide.to_vec::<f32>().unwrap(), all.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
        assert_eq!(wide.cast(DType::F16).unwrap().to_vec::<f16>().unwrap(), all);
    }

    fn f32_to_f16_rounds_to_even(device) {
        let mut values = vec![65_504.0f32, 65_519.9, 65_520.0, 1e30, -1e30, f32::INFINITY, 0.0, -0.0, 1e-45];
        // Halfway points around normals and subnormals.
        for bits in (0..0x7bffu16).step_by(37) {
            let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
            let middle = (low + high) / 2.0;
            values.extend([middle, f32::from_bits(middle.to_bits() + 1), -f32::from_bits(middle.to_bits() - 1)]);
        }
        let x = Tensor::from_slice(device, &[values.len()], &values).unwrap();
        let got = x.cast(DType::F16).unwrap().to_vec::<f16>().unwrap();
        for (value, got) in values.into_iter().zip(got) {
            assert_eq!(got.to_bits(), f16::from_f32(value).to_bits(), "{value:e}");
        }
        let nan = Tensor::from_slice(device, &[1], &[f32::NAN]).unwrap();
        assert!(nan.cast(DType::F16).unwrap().item::<f16>().unwrap().is_nan());
        assert!(nan.cast(DType::Bf16).unwrap().item::<bf16>().unwrap().is_nan());
    }

    fn views_of_halves_copy(device) {
        let values: Vec<bf16> = (0..35).map(|i| bf16::from_f32(i as f32)).collect();
        let x = Tensor::from_slice(device, &[5, 7], &values).unwrap();
        let view = x.slice(1, 1, 4).unwrap().t().unwrap();
        let want: Vec<bf16> = (1..4).flat_map(|c| (0..5).map(move |r| bf16::from_f32((r * 7 + c) as f32))).collect();
        assert_eq!(view.to_vec::<bf16>().unwrap(), want);
        let odd_start = x.slice(0, 1, 2).unwrap();
        assert_eq!(odd_start.to_vec::<bf16>().unwrap(), values[7..14]);
    }

    fn turned_matrices_copy_in_tiles(device) {
        for (rows, columns) in [(1, 33), (33, 1), (32, 64), (67, 45), (130, 31)] {
            let values: Vec<u32> = (0..(rows * columns) as u32).collect();
            let stored = Tensor::from_slice(device, &[rows, columns], &values).unwrap();
            let turned = stored.t().unwrap().contiguous().unwrap();
            let want: Vec<u32> = (0..columns).flat_map(|c| (0..rows).map(move |r| (r * columns + c) as u32)).collect();
            assert_eq!(turned.to_vec::<u32>().unwrap(), want, "{rows} x {columns}");
            // With an offset, and rows that are longer than the part that is copied.
            if columns > 4 {
                let part = stored.slice(1, 3, columns).unwrap().t().unwrap().contiguous().unwrap();
                assert_eq!(part.to_vec::<u32>().unwrap(), want[3 * rows..], "{rows} x {columns}, cut");
            }
        }
    }

    fn float_to_integer_saturates(device) {
        let x = Tensor::from_slice(device, &[6], &[f32::NAN, -1.5, 3e9, 1e20, -1e20, 7.9]).unwrap();
        assert_eq!(x.cast(DType::U32).unwrap().to_vec::<u32>().unwrap(), [0, 0, 3_000_000_000, u32::MAX, 0, 7]);
        assert_eq!(
            x.cast(DType::I32).unwrap().to_vec::<i32>().unwrap(),
            [0, -1, i32::MAX, i32::MAX, i32::MIN, 7]
        );
    }
}

#[test]
fn halves_cast_to_f32_only() {
    let x = Tensor::from_slice(&Device::cpu(), &[1], &[f16::ONE]).unwrap();
    assert!(x.cast(DType::U32).unwrap_err().to_string().contains("found u32"));
}

#[test]
fn every_variant_is_valid_wgsl() {
    crate::gpu::validate("transpose", include_str!("transpose.wgsl"), &[]);
    for source in 0..5 {
        for target in 0..5 {
            let constants = [("SOURCE", f64::from(source)), ("TARGET", f64::from(target))];
            crate::gpu::validate("copy", include_str!("kernel.wgsl"), &constants);
        }
    }
}
