//! Whatever is done to one tensor of a model or an adapter is noticed.

use std::fs;
use std::path::Path;

use lora::{AdapterOrigin, AdapterSet, Base, LoraConfig, PROVENANCE_FILE, Provenance, WEIGHTS_FILE};
use models::{Checkpoint, Llama, LlamaConfig, WeightType, write_checkpoint};
use proptest::prelude::*;
use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::json;
use tensor::{DType, Device};

/// What is done to one tensor of a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(usize),
    Drop,
    Rename,
    Reshape,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![any::<usize>().prop_map(Damage::Flip), Just(Damage::Drop), Just(Damage::Rename), Just(Damage::Reshape)]
}

/// Damages one tensor of a safetensors file.
fn spoil(file: &Path, which: usize, damage: Damage) {
    let bytes = fs::read(file).unwrap();
    let views = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = views
        .iter()
        .map(|(name, view)| (name.to_string(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    tensors.sort();
    let which = which % tensors.len();
    let (name, _, shape, data) = &mut tensors[which];
    match damage {
        Damage::Flip(bit) => {
            let bit = bit % (8 * data.len());
            data[bit / 8] ^= 1 << (bit % 8);
        }
        Damage::Drop => drop(tensors.remove(which)),
        Damage::Rename => name.push_str("_2"),
        Damage::Reshape => shape.push(1),
    }
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Writes a random model of a few sizes into a directory.
fn write_model(directory: &Path, layers: usize, heads: usize, inner: usize, tied: bool, seed: u64) -> Llama {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8 * heads, "head_dim": 8,
        "num_attention_heads": heads, "num_key_value_heads": 1, "num_hidden_layers": layers, "intermediate_size": inner,
        "vocab_size": 11, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": tied,
    });
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let config = LlamaConfig::read(&directory.join("config.json")).unwrap();
    let model = Llama::random(config, seed, &Device::cpu(), WeightType::F32).unwrap();
    let parameters = AdapterSet::full(Base::of(&model), &Device::cpu()).unwrap();
    write_checkpoint(&parameters, directory, DType::F32, 1 << 30).unwrap();
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_changed_tensor_is_noticed(
        (layers, heads, inner, tied) in (1usize..3, 1usize..4, 1usize..20, any::<bool>()),
        (rank, seed, which, damage) in (1usize..5, any::<u64>(), any::<usize>(), damage()),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let model = write_model(directory.path(), layers, heads, inner, tied, seed);
        let whole = Checkpoint::open(directory.path()).unwrap().identity().unwrap();
        Llama::from_directory(directory.path(), &Device::cpu(), WeightType::F32).unwrap();
        spoil(&directory.path().join("model.safetensors"), which, damage);
        let spoilt = Checkpoint::open(directory.path()).unwrap().identity().unwrap();
        prop_assert_ne!(&whole.contents, &spoilt.contents);
        let flipped = matches!(damage, Damage::Flip(_));
        prop_assert_eq!(whole.structure == spoilt.structure, flipped);
        let loaded = Llama::from_directory(directory.path(), &Device::cpu(), WeightType::F32);
        prop_assert!(flipped || loaded.is_err(), "names and shapes are compared");

        let (base, adapter) = (Base::of(&model), tempfile::tempdir().unwrap());
        let config = LoraConfig { rank, ..LoraConfig::default() };
        let set = AdapterSet::new(config, &base, &Device::cpu(), seed).unwrap();
        let origin = AdapterOrigin { provenance: Some(Provenance::default()), ..AdapterOrigin::default() };
        set.save(adapter.path(), &origin).unwrap();
        let load = || AdapterSet::load(adapter.path(), &base, &Device::cpu());
        load().unwrap();
        spoil(&adapter.path().join(WEIGHTS_FILE), which, damage);
        let message = load().unwrap_err().to_string();
        prop_assert!(message.contains("not those that were written"), "{}", message);
        fs::remove_file(adapter.path().join(PROVENANCE_FILE)).unwrap();
        prop_assert!(flipped || load().is_err(), "without provenance names and shapes are compared");
    }
}
