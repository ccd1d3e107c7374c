//! Checkpoints that do not fit their configuration, quirks that do, and the types weights are kept in.

mod common;
#[path = "common/draft.rs"]
mod draft;

use common::{assert_close, fixture, load, values};
use draft::Draft;
use models::{Llama, WeightType};
use safetensors::tensor::Dtype;
use tempfile::TempDir;
use tensor::testing::on_each_backend;
use tensor::{DType, Device, bf16, f16};

#[test]
fn misfits_are_named() {
    let mut draft = Draft::of("llama_tiny");
    draft.tensors.remove("model.layers.1.mlp.up_proj.weight");
    let message = draft.refusal();
    let expected = "tensor `model.layers.1.mlp.up_proj.weight` of shape [128, 64] is missing; the file does not \
                    hold the model that config.json describes";
    assert!(message.ends_with(expected), "{message}");

    let mut draft = Draft::of("llama_tiny");
    draft.f32("model.norm.weight", &[63], 1.0);
    let message = draft.refusal();
    let expected = "model.safetensors: tensor `model.norm.weight` has shape [63], but config.json implies [64]; \
                    the two files do not belong together";
    assert!(message.ends_with(expected), "{message}");

    let mut draft = Draft::of("llama_tiny");
    draft.tensors.insert("model.norm.weight".into(), (Dtype::I64, vec![64], vec![0; 512]));
    let message = draft.refusal();
    assert!(
        message.contains("`model.norm.weight` has element type I64; weights must be F32, F16 or BF16"),
        "{message}"
    );

    let mut draft = Draft::of("llama_tiny");
    draft.config["num_hidden_layers"] = 1.into();
    let message = draft.refusal();
    let expected =
        "9 tensor(s) that the model of config.json does not use, first `model.layers.1.input_layernorm.weight`";
    assert!(message.contains(expected), "{message}");

    let mut draft = Draft::of("llama_tiny");
    draft.config["model_type"] = "mamba".into();
    assert!(draft.refusal().contains("config.json: `model_type` is mamba, which is not supported"));
}

#[test]
fn likely_mistakes_get_their_own_advice() {
    let mut draft = Draft::of("llama_tiny");
    draft.tensors.remove("lm_head.weight");
    assert!(
        draft.refusal().contains("`lm_head.weight` of shape [300, 64] is missing; if the head shares the embedding")
    );
    let mut draft = Draft::of("llama_tiny");
    let names: Vec<String> = draft.tensors.keys().filter(|name| name.starts_with("model.")).cloned().collect();
    names.iter().for_each(|name| draft.rename(name, &name["model.".len()..]));
    assert!(draft.refusal().contains("the names lack the prefix `model.`"));
    let mut draft = Draft::of("llama3_tiny");
    draft.f32("lm_head.weight", &[300, 64], 1.0);
    assert!(
        draft.refusal().contains("tie_word_embeddings is true, but `model.embed_tokens.weight` and `lm_head.weight`")
    );
}

#[test]
fn known_quirks_load() {
    let weights = |model: &Llama| model.linears().map(|linear| values(linear.weight())).collect::<Vec<_>>();
    let expected = weights(&load("llama3_tiny", &Device::cpu()));
    let check = |draft: &Draft| assert_eq!(weights(&draft.load().expect("a model")), expected);
    // Tied, and only the head is stored.
    let mut draft = Draft::of("llama3_tiny");
    draft.rename("model.embed_tokens.weight", "lm_head.weight");
    check(&draft);
    draft.metadata.insert("model.embed_tokens.weight".into(), "lm_head.weight".into());
    check(&draft);
    // Tied, and both are stored.
    let mut draft = Draft::of("llama3_tiny");
    let embedding = draft.tensors["model.embed_tokens.weight"].clone();
    draft.tensors.insert("lm_head.weight".into(), embedding);
    check(&draft);
    // Old conversions stored the rotary table.
    draft.f32("model.layers.0.self_attn.rotary_emb.inv_freq", &[8], 1.0);
    check(&draft);
    // Not tied, but one of two equal matrices was left out and named in the metadata.
    draft.config["tie_word_embeddings"] = false.into();
    check(&draft);
    draft.tensors.remove("lm_head.weight");
    draft.metadata.insert("lm_head.weight".into(), "model.embed_tokens.weight".into());
    check(&draft);
}

#[test]
fn what_f16_does_not_hold_stays_f32() {
    for (value, dtype) in [(70_000.0, DType::F32), (1e-5, DType::F32), (60_000.0, DType::F16), (1e-4, DType::F16)] {
        let mut draft = Draft::of("llama_tiny");
        draft.f32("lm_head.weight", &[300, 64], value);
        let directory = draft.write();
        let model = Llama::from_directory(directory.path(), &Device::cpu(), WeightType::F16).expect("a model");
        assert_eq!(model.linear("lm_head").expect("the head").weight().dtype(), dtype, "{value}");
        assert_eq!(model.linear("model.layers.0.mlp.up_proj").expect("a module").weight().dtype(), DType::F16);
    }
}

#[test]
fn biases_go_to_their_modules() {
    let device = Device::cpu();
    let plain = load("llama_tiny", &device);
    let mut draft = Draft::of("llama_tiny");
    (draft.config["attention_bias"], draft.config["mlp_bias"]) = (true.into(), true.into());
    let modules: Vec<_> =
        plain.linears().map(|linear| (linear.name().to_string(), linear.weight().shape()[0])).collect();
    for (index, (module, outputs)) in modules[..14].iter().enumerate() {
        assert!(draft.refusal().contains("bias` of shape"), "{module}");
        draft.f32(&format!("{module}.bias"), &[*outputs], index as f32 * 0.01);
    }
    let model = draft.load().expect("a model");
    for (index, linear) in model.linears().take(14).enumerate() {
        let bias = linear.bias().unwrap_or_else(|| panic!("{} has no bias", linear.name()));
        assert_eq!(values(bias), vec![index as f32 * 0.01; bias.elements()], "{}", linear.name());
    }
    assert!(model.linear("lm_head").is_some_and(|head| head.bias().is_none()));
    (draft.config["attention_bias"], draft.config["mlp_bias"]) = (false.into(), true.into());
    assert!(
        draft.refusal().contains("8 tensor(s) that the model of config.json does not use, first `model.layers.0.self")
    );
}

on_each_backend! {
    fn weights_are_kept_in_the_type_asked_for(device) {
        let (f32_file, bf16_file) = (Draft::of("llama_tiny").write(), Draft::of("llama_tiny").into_bf16().write());
        let exact = load("llama_tiny", &Device::cpu());
        let to_bf16 = |value: f32| bf16::from_f32(value).to_f32();
        let to_f16 = |value: f32| f16::from_f32(value).to_f32();
        type Case<'a> = (&'a TempDir, WeightType, DType, &'a dyn Fn(f32) -> f32);
        let cases: [Case<'_>; 8] = [
            (&f32_file, WeightType::F32, DType::F32, &|value| value),
            (&f32_file, WeightType::Stored, DType::F32, &|value| value),
            (&f32_file, WeightType::F16, DType::F16, &to_f16),
            (&f32_file, WeightType::Bf16, DType::Bf16, &to_bf16),
            (&bf16_file, WeightType::F32, DType::F32, &to_bf16),
            (&bf16_file, WeightType::Stored, DType::Bf16, &to_bf16),
            (&bf16_file, WeightType::F16, DType::F16, &|value| to_f16(to_bf16(value))),
            (&bf16_file, WeightType::Bf16, DType::Bf16, &to_bf16),
        ];
        for (file, weight_type, dtype, rounded) in cases {
            let model = Llama::from_directory(file.path(), device, weight_type).expect("a model");
            for (linear, exact) in model.linears().zip(exact.linears()) {
                assert_eq!(linear.weight().dtype(), dtype, "{weight_type:?}: {}", linear.name());
                let want: Vec<f32> = values(exact.weight()).into_iter().map(rounded).collect();
                assert_eq!(values(&linear.weight().cast(DType::F32).expect("f32")), want, "{}", linear.name());
            }
        }
    }

    fn sixteen_bit_weights_compute_what_their_values_say(device) {
        let file = Draft::of("llama_tiny").into_bf16().write();
        let batch = common::Golden::read(&fixture("llama_tiny/golden.safetensors")).batch("");
        let batch = batch.to_device(device).expect("a batch");
        let losses = [WeightType::F32, WeightType::Stored].map(|weight_type| {
            common::loss(&Llama::from_directory(file.path(), device, weight_type).expect("a model"), None, &batch)
        });
        assert_close("loss", &losses[1..], &losses[..1], 2e-5);
    }
}
