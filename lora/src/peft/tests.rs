use std::fs;
use std::path::PathBuf;

use tensor::testing::on_each_backend;

use super::*;
use crate::targets::ModuleShape;
use crate::targets::Targets;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama_tiny").join(name)
}

/// The linear modules of the model that the fixtures were made for.
fn modules() -> Vec<ModuleShape> {
    let shapes = [
        ("self_attn.q_proj", 64, 64),
        ("self_attn.k_proj", 64, 32),
        ("self_attn.v_proj", 64, 32),
        ("self_attn.o_proj", 64, 64),
        ("mlp.gate_proj", 64, 128),
        ("mlp.up_proj", 64, 128),
        ("mlp.down_proj", 128, 64),
    ];
    let layers = (0..2).flat_map(|layer| {
        shapes.map(|(name, inputs, outputs)| ModuleShape::new(format!("model.layers.{layer}.{name}"), inputs, outputs))
    });
    layers.chain([ModuleShape::new("lm_head", 64, 300).head()]).collect()
}

/// Saves the fixture with its tensors changed, and loads that.
fn load_changed(change: impl Fn(&mut Vec<(String, Tensor)>)) -> LoraError {
    let directory = tempfile::tempdir().unwrap();
    let (set, origin) = AdapterSet::load(&fixture("adapter"), &modules(), &Device::cpu()).unwrap();
    set.save(directory.path(), &origin).unwrap();
    let mut named: Vec<_> =
        set.parameters().iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor.clone())).collect();
    change(&mut named);
    let path = directory.path().join(WEIGHTS_FILE);
    write_tensors(&path, named.iter().map(|(name, tensor)| (name, tensor))).unwrap();
    AdapterSet::load(directory.path(), &modules(), &Device::cpu()).unwrap_err()
}

const Q_A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(&Device::cpu(), shape, DType::F32).unwrap()
}

on_each_backend! {
    fn an_adapter_written_by_python_is_read(device) {
        let (set, origin) = AdapterSet::load(&fixture("adapter"), &modules(), device).unwrap();
        assert_eq!(origin, AdapterOrigin { task_type: Some("CAUSAL_LM".into()), ..AdapterOrigin::default() });
        assert_eq!(set.adapters().len(), 14);
        assert!(set.adapters().all(|adapter| adapter.rank == 4 && adapter.scaling == 2.0));
        let bytes = fs::read(fixture("adapter").join(WEIGHTS_FILE)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (name, tensor) in set.parameters().iter() {
            let stored = file.tensor(&format!("{PREFIX}{name}")).unwrap();
            assert_eq!(stored.shape(), &tensor.shape()[..]);
            assert_eq!(stored.data(), bytemuck::cast_slice::<f32, u8>(&tensor.to_vec().unwrap()), "{name}");
        }
    }

    fn saving_and_loading_keeps_every_bit(device) {
        let directory = tempfile::tempdir().unwrap();
        let (set, origin) = AdapterSet::load(&fixture("adapter_rslora"), &modules(), device).unwrap();
        set.save(directory.path(), &origin).unwrap();
        let (again, origin_again) = AdapterSet::load(directory.path(), &modules(), device).unwrap();
        assert_eq!((again.config(), origin_again), (set.config(), origin));
        for ((name, before), (name_again, after)) in set.parameters().iter().zip(again.parameters().iter()) {
            assert_eq!(name, name_again);
            assert_eq!(before.to_vec::<f32>().unwrap(), after.to_vec::<f32>().unwrap());
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}

#[test]
fn patterns_and_rslora_decide_ranks_and_scaling() {
    let (set, _) = AdapterSet::load(&fixture("adapter_rslora"), &modules(), &Device::cpu()).unwrap();
    let adapter = |name: &str| set.adapter(&format!("model.layers.1.self_attn.{name}")).unwrap();
    assert_eq!((adapter("q_proj").rank, adapter("q_proj").scaling), (4, 4.0));
    assert_eq!((adapter("v_proj").rank, adapter("v_proj").scaling), (2, (6.0 / 2f64.sqrt()) as f32));
    assert_eq!(set.config().targets, Targets::names(["q_proj", "v_proj"]));
}

#[test]
fn the_file_is_laid_out_as_python_writes_it() {
    let directory = tempfile::tempdir().unwrap();
    let (set, origin) = AdapterSet::load(&fixture("adapter"), &modules(), &Device::cpu()).unwrap();
    set.save(directory.path(), &origin).unwrap();
    let read = |directory: &Path| fs::read(directory.join(WEIGHTS_FILE)).unwrap();
    let (ours, reference) = (read(directory.path()), read(&fixture("adapter")));
    let (_, ours) = SafeTensors::read_metadata(&ours).unwrap();
    let (_, reference) = SafeTensors::read_metadata(&reference).unwrap();
    assert_eq!(ours.metadata(), reference.metadata());
    assert_eq!(ours.tensors().len(), reference.tensors().len());
    for (name, info) in reference.tensors() {
        let found = ours.info(&name).unwrap();
        assert_eq!((found.dtype, &found.shape), (info.dtype, &info.shape), "{name}");
    }
}

#[test]
fn missing_unexpected_and_misshapen_tensors_are_named() {
    let error = load_changed(|named| named.retain(|(name, _)| name != Q_A));
    assert!(
        matches!(&error, LoraError::MissingTensor { tensor, expected, .. } if tensor == Q_A && expected == &[4, 64])
    );
    assert!(error.to_string().contains(WEIGHTS_FILE), "{error}");

    let error =
        load_changed(|named| named.iter_mut().filter(|(name, _)| name == Q_A).for_each(|e| e.1 = zeros(&[8, 64])));
    assert!(matches!(&error, LoraError::TensorShape { tensor, expected, found, .. }
            if tensor == Q_A && expected == &[4, 64] && found == &[8, 64]));

    for (name, advice) in [
        ("model.layers.7.self_attn.q_proj.lora_A.weight", "no such linear module"),
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", "DoRA"),
        ("model.embed_tokens.lora_embedding_A", "no such embedding"),
        ("classifier.weight", "`modules_to_save` of the configuration does not name it"),
    ] {
        let error = load_changed(|named| named.push((format!("{PREFIX}{name}"), zeros(&[2, 3]))));
        assert!(matches!(&error, LoraError::UnexpectedTensor { found, .. } if found == &[2, 3]), "{error}");
        let message = error.to_string();
        assert!(message.contains(name) && message.contains(advice), "{message}");
    }
}

#[test]
fn other_modules_than_the_models_are_refused() {
    let modules = [ModuleShape::new("transformer.h.0.attn.c_attn", 64, 64)];
    let error = AdapterSet::load(&fixture("adapter"), &modules, &Device::cpu()).unwrap_err().to_string();
    assert!(error.contains("q_proj") && error.contains("the modules end in: c_attn"), "{error}");
}

#[test]
fn half_precision_factors_become_f32() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(fixture("adapter").join(CONFIG_FILE), directory.path().join(CONFIG_FILE)).unwrap();
    let bytes = fs::read(fixture("adapter").join(WEIGHTS_FILE)).unwrap();
    let halves = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter().map(|(name, view)| {
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
        let halves: Vec<u16> = values.into_iter().map(|x| half::f16::from_f32(x).to_bits()).collect();
        (name, view.shape().to_vec(), halves)
    });
    let halves: Vec<_> = halves.collect();
    let views = halves.iter().map(|(name, shape, halves)| {
        (name.as_str(), TensorView::new(Dtype::F16, shape.clone(), bytemuck::cast_slice(halves)).unwrap())
    });
    fs::write(directory.path().join(WEIGHTS_FILE), safetensors::serialize(views, None).unwrap()).unwrap();
    let (set, _) = AdapterSet::load(directory.path(), &modules(), &Device::cpu()).unwrap();
    let (exact, _) = AdapterSet::load(&fixture("adapter"), &modules(), &Device::cpu()).unwrap();
    for ((_, rounded), (_, exact)) in set.parameters().iter().zip(exact.parameters().iter()) {
        for (rounded, exact) in rounded.to_vec::<f32>().unwrap().into_iter().zip(exact.to_vec::<f32>().unwrap()) {
            assert_eq!(rounded, half::f16::from_f32(exact).to_f32());
        }
    }
}

#[test]
fn truncated_pickled_and_absent_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let load = || AdapterSet::load(directory.path(), &modules(), &Device::cpu()).unwrap_err().to_string();
    assert!(load().contains(CONFIG_FILE));
    fs::copy(fixture("adapter").join(CONFIG_FILE), directory.path().join(CONFIG_FILE)).unwrap();
    assert!(load().contains(WEIGHTS_FILE));
    fs::write(directory.path().join("adapter_model.bin"), b"x").unwrap();
    assert!(load().contains("pickled"));
    let bytes = fs::read(fixture("adapter").join(WEIGHTS_FILE)).unwrap();
    fs::write(directory.path().join(WEIGHTS_FILE), &bytes[..bytes.len() / 2]).unwrap();
    assert!(load().contains(WEIGHTS_FILE));
}

#[test]
fn provenance_stands_beside_the_weights_and_goes_with_them() {
    let device = Device::cpu();
    let config = LoraConfig { rank: 2, ..LoraConfig::default() };
    let modules = [crate::ModuleShape::new("q", 3, 5)];
    let set = AdapterSet::new(config, &modules, &device, 0).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let origin = AdapterOrigin { provenance: Some(Provenance::default()), ..AdapterOrigin::default() };
    set.save(directory.path(), &origin).unwrap();
    let bytes = fs::read(directory.path().join(WEIGHTS_FILE)).unwrap();
    let weights = Some(Fingerprint::of(&bytes));
    let origin = AdapterOrigin { provenance: Some(Provenance { weights, ..Provenance::default() }), ..origin };
    assert_eq!(read_adapter_origin(directory.path()).unwrap(), origin);
    assert_eq!(AdapterSet::load(directory.path(), &modules, &device).unwrap().1, origin);
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(header.is_multiple_of(8), "tensors are aligned");
    assert!(bytes[8..].starts_with(br#"{"__metadata__":{"format":"pt"},"#), "as PEFT writes it");
    set.save(directory.path(), &AdapterOrigin::default()).unwrap();
    assert_eq!(read_adapter_origin(directory.path()).unwrap(), AdapterOrigin::default(), "not the earlier adapter's");
}

#[test]
fn what_is_not_finite_never_reaches_a_file() {
    let device = Device::cpu();
    let config = LoraConfig { rank: 1, ..LoraConfig::default() };
    let mut set = AdapterSet::new(config, &[crate::ModuleShape::new("q", 2, 2)], &device, 0).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let a = set.factors("q").unwrap().a.clone();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        set.set_factors("q", a.clone(), Tensor::from_slice(&device, &[2, 1], &[0.5, value]).unwrap()).unwrap();
        let message = set.save(directory.path(), &AdapterOrigin::default()).unwrap_err().to_string();
        assert!(message.contains("q.lora_B.weight: holds NaN or infinity"), "{message}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
    for dtype in [DType::F16, DType::Bf16] {
        let of = |value: f32| Tensor::full(&device, &[3], dtype, value).unwrap();
        let path = directory.path().join("file");
        assert!(write_tensors(&path, [("x", &of(f32::INFINITY))]).is_err());
        write_tensors(&path, [("x", &of(-2.5))]).unwrap();
    }
}
