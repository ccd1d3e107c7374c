use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<(LoraConfig, AdapterOrigin)> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("adapter_config.json");
    std::fs::write(&path, text).unwrap();
    read_adapter_config(&path)
}

fn minimal(extra: &str) -> String {
    format!(r#"{{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["b", "a", "b"]{extra}}}"#)
}

#[test]
fn what_is_written_is_read_back() {
    let config = LoraConfig {
        rank: 3,
        alpha: 0.5,
        dropout: 0.1,
        targets: Targets::names(["k_proj", "q_proj"]),
        rank_pattern: [("z".to_string(), 7), ("a".to_string(), 2)].into_iter().collect(),
        alpha_pattern: [("z".to_string(), 1.5)].into_iter().collect(),
        use_rslora: true,
        modules_to_save: vec!["score".into(), "classifier".into()],
        use_dora: true,
        bias: Bias::All,
        layers_to_transform: vec![4, 2],
        layers_pattern: vec!["layers".into()],
        exclude_modules: Some(Targets::names(["k_proj"])),
        init_lora_weights: Initialisation::Gaussian,
    };
    let origin =
        AdapterOrigin { base_model: Some("base".into()), task_type: Some("CAUSAL_LM".into()), provenance: None };
    let text = write_adapter_config(&config, &origin).unwrap();
    assert_eq!(read(&text).unwrap(), (config, origin));
}

#[test]
fn the_fields_python_needs_are_written() {
    let text = write_adapter_config(&LoraConfig::default(), &AdapterOrigin::default()).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["lora_alpha"].to_string(), "16");
    assert_eq!(value["target_modules"], "all-linear");
    assert_eq!(value["peft_type"], "LORA");
    let reference: Value =
        serde_json::from_str(include_str!("../../tests/fixtures/llama_tiny/adapter/adapter_config.json")).unwrap();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&value), names(&reference));
}

#[test]
fn unknown_settings_are_tolerated_and_defaults_apply() {
    let text =
        minimal(r#", "peft_version": "0.21.2", "eva_config": null, "lora_bias": false, "qalora_group_size": 16"#);
    let (config, origin) = read(&text).unwrap();
    assert!(config.modules_to_save.is_empty());
    let repeated = minimal(r#", "modules_to_save": ["classifier", "pooler", "classifier", "score"]"#);
    assert_eq!(read(&repeated).unwrap().0.modules_to_save, ["classifier", "pooler", "score"]);
    assert_eq!(config.targets, Targets::names(["a", "b"]));
    assert_eq!((config.dropout, config.use_rslora), (0.0, false));
    let single = minimal(r#", "layers_to_transform": 3, "layers_pattern": "h", "exclude_modules": "x|y""#);
    let (config, _) = read(&single).unwrap();
    assert_eq!((config.layers_to_transform, config.layers_pattern), (vec![3], vec!["h".to_string()]));
    assert_eq!(config.exclude_modules, Some(Targets::Pattern("x|y".into())));
    assert_eq!(origin, AdapterOrigin::default());
}

/// What becomes of a field that is not at its default.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Read,
    Refused,
    /// It says nothing of what an adapter that has weights computes.
    NoEffect,
}

#[test]
fn every_field_of_peft_0_13_has_its_fate() {
    use Fate::{NoEffect, Read, Refused};
    let fields = [
        ("alpha_pattern", r#"{"a": 3}"#, Read),
        ("auto_mapping", r#"{"base_model_class": "X"}"#, NoEffect),
        ("base_model_name_or_path", "\"x\"", Read),
        ("bias", "\"all\"", Read),
        ("fan_in_fan_out", "true", Refused),
        ("inference_mode", "true", NoEffect),
        ("init_lora_weights", "\"gaussian\"", Read),
        ("layer_replication", "[[0, 1]]", Refused),
        ("layers_pattern", "[\"h\"]", Read),
        ("layers_to_transform", "[1]", Read),
        ("loftq_config", r#"{"loftq_bits": 4}"#, NoEffect),
        ("lora_alpha", "3", Read),
        ("lora_dropout", "0.5", Read),
        ("megatron_config", r#"{"x": 1}"#, Refused),
        ("megatron_core", "\"other\"", NoEffect),
        ("modules_to_save", "[\"classifier\"]", Read),
        ("peft_type", "\"IA3\"", Refused),
        ("r", "2", Read),
        ("rank_pattern", r#"{"a": 3}"#, Read),
        ("revision", "\"x\"", NoEffect),
        ("target_modules", "[\"c\"]", Read),
        ("task_type", "\"SEQ_CLS\"", Read),
        ("use_dora", "true", Read),
        ("use_rslora", "true", Read),
    ];
    let reference: Map<String, Value> =
        serde_json::from_str(include_str!("../../tests/fixtures/llama_tiny/adapter/adapter_config.json")).unwrap();
    assert_eq!(fields.map(|(name, ..)| name).to_vec(), reference.keys().collect::<Vec<_>>(), "PEFT's fields");
    let plain: Map<String, Value> = serde_json::from_str(&minimal("")).unwrap();
    for (name, value, fate) in fields {
        let mut changed = plain.clone();
        changed.insert(name.into(), serde_json::from_str(value).unwrap());
        let found = match read(&Value::Object(changed).to_string()) {
            Ok(found) if found == read(&minimal("")).unwrap() => NoEffect,
            Ok(_) => Read,
            Err(LoraError::Unsupported { setting, .. }) if setting == name => Refused,
            Err(error) => panic!("{name}: {error}"),
        };
        assert!(found == fate, "{name}");
    }
}

#[test]
fn settings_that_change_the_result_are_refused_by_name() {
    for (setting, value) in [
        ("fan_in_fan_out", "true"),
        ("layer_replication", "[[0, 1]]"),
        ("init_lora_weights", "\"pissa_niter_4\""),
        ("lora_bias", "true"),
        ("target_parameters", "[\"x\"]"),
    ] {
        let error = read(&minimal(&format!(r#", "{setting}": {value}"#))).unwrap_err();
        assert!(matches!(error, LoraError::Unsupported { .. }), "{setting}: {error}");
        let message = error.to_string();
        assert!(message.contains(setting) && message.contains("adapter_config.json"), "{message}");
    }
    let text = minimal("").replace("LORA", "IA3");
    assert!(read(&text).unwrap_err().to_string().contains("`peft_type` is \"IA3\""));
}

#[test]
fn broken_files_are_named() {
    for text in [
        "",
        "[]",
        "{}",
        r#"{"peft_type": "LORA", "r": -1, "lora_alpha": 8, "target_modules": []}"#,
        r#"{"peft_type": "LORA", "r": 4, "lora_alpha": "x", "target_modules": ["a"]}"#,
        r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8}"#,
        r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["a"], "bias": "some"}"#,
        r#"{"peft_type": "LORA", "r": 0, "lora_alpha": 8, "target_modules": ["a"]}"#,
    ] {
        let error = read(text).unwrap_err();
        assert!(matches!(error, LoraError::Format { .. }), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_an_error(
        field in "(r|lora_alpha|target_modules|rank_pattern|layers_to_transform|modules_to_save|bias|peft_type|exclude_modules)",
        value in r#"(-1|0|3|1e400|18446744073709551616|null|true|"\\PC{0,3}"|\[[0-9",x]{0,6}\]|\{"\\PC{0,2}":[0-9]{1,3}\})"#,
        keep in prop::option::weighted(0.2, 0usize..120),
    ) {
        let mut text = minimal(&format!(r#", "{field}": {value}"#));
        if let Some(keep) = keep.filter(|&keep| text.is_char_boundary(keep)) {
            text.truncate(keep);
        }
        if let Ok((config, origin)) = read(&text) {
            let written = write_adapter_config(&config, &origin).unwrap();
            prop_assert_eq!(read(&written).unwrap().0.rank, config.rank, "what is read can be written and read again");
        }
    }
}
