use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::rotary::inverse_frequencies;
use super::*;

fn base() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300, "unknown_key": {"tolerated": [1, 2]}
    })
}

fn parse(changes: Value) -> Result<LlamaConfig> {
    let mut config = base();
    for (name, value) in changes.as_object().expect("changes are an object") {
        config[name] = value.clone();
    }
    LlamaConfig::parse(Path::new("config.json"), &config.to_string())
}

fn message(changes: Value) -> String {
    parse(changes).expect_err("this configuration must be refused").to_string()
}

#[test]
fn absent_fields_take_the_formats_defaults() {
    let config = parse(json!({})).expect("a minimal configuration");
    assert_eq!((config.num_key_value_heads, config.head_dim, config.max_position_embeddings), (4, 16, 2048));
    assert_eq!((config.rope_theta, config.rope_scaling, config.rms_norm_eps), (1e4, RopeScaling::None, 1e-6));
    assert_eq!((config.bos_token_id, config.eos_token_ids.as_slice(), config.pad_token_id), (Some(1), &[2][..], None));
    assert!(!config.tie_word_embeddings && !config.attention_bias && !config.mlp_bias);
}

#[test]
fn token_ids_may_be_null_one_or_many() {
    let config = parse(json!({"bos_token_id": null, "eos_token_id": [7, 9], "pad_token_id": 3})).expect("valid");
    assert_eq!((config.bos_token_id, config.eos_token_ids, config.pad_token_id), (None, vec![7, 9], Some(3)));
    assert_eq!(parse(json!({"pad_token_id": -1})).expect("-1 is none").pad_token_id, None);
    assert!(message(json!({"eos_token_id": "x"})).contains("`eos_token_id` must be a token id"));
}

#[test]
fn rope_is_read_in_both_spellings() {
    let llama3 = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256});
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 256,
    };
    for key in ["rope_type", "type"] {
        let mut scaling = llama3.clone();
        scaling[key] = "llama3".into();
        let old = parse(json!({"rope_theta": 5e5, "rope_scaling": scaling})).expect("transformers 4");
        scaling["rope_theta"] = 5e5.into();
        let new = parse(json!({"rope_parameters": scaling, "dtype": "bfloat16"})).expect("transformers 5");
        assert_eq!((old.rope_theta, old.rope_scaling), (5e5, expected));
        assert_eq!(old, new);
    }
    let plain = parse(json!({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}})).expect("default");
    assert_eq!(plain, parse(json!({"rope_scaling": null})).expect("null"));
    let linear = parse(json!({"rope_scaling": {"type": "linear", "factor": 2}})).expect("linear");
    assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn what_would_change_the_result_is_refused_by_name() {
    let yarn = message(json!({"rope_scaling": {"rope_type": "yarn", "factor": 2}}));
    assert_eq!(
        yarn,
        "config.json: `rope_scaling.rope_type` is yarn, which is not supported; `default`, `linear` and `llama3` are"
    );
    assert!(message(json!({"hidden_act": "gelu"})).contains("`hidden_act` is gelu"));
    assert!(message(json!({"attention_dropout": 0.1})).contains("`attention_dropout` is 0.1"));
    assert!(message(json!({"quantization_config": {"bits": 4}})).contains("`quantization_config`"));
    assert!(message(json!({"partial_rotary_factor": 0.5})).contains("`partial_rotary_factor`"));
    assert!(parse(json!({"attention_bias": true, "mlp_bias": true})).is_ok_and(|c| c.attention_bias && c.mlp_bias));
}

#[test]
fn impossible_numbers_are_refused_by_name() {
    assert!(message(json!({"hidden_size": null})).contains("`hidden_size` is missing"));
    assert!(message(json!({"hidden_size": -4})).contains("`hidden_size` must be a positive whole number"));
    assert!(message(json!({"num_attention_heads": 5})).contains("`num_attention_heads` (5) does not divide"));
    assert!(message(json!({"num_key_value_heads": 3})).contains("`num_key_value_heads` (3) must divide"));
    assert!(message(json!({"head_dim": 15})).contains("`head_dim` (15) must be even"));
    assert!(message(json!({"rope_scaling": {"rope_type": "llama3", "factor": 8}})).contains("rope_scaling.low_freq"));
    let error = LlamaConfig::parse(Path::new("config.json"), "{\"hidden_size\": ").expect_err("cut short");
    assert!(error.to_string().starts_with("config.json: not valid JSON"));
}

#[test]
fn numbers_beyond_reason_neither_overflow_nor_allocate() {
    let largest = u32::MAX - 1;
    let heads = json!({"head_dim": 256, "num_attention_heads": largest, "num_key_value_heads": largest});
    let mut changes = json!({"hidden_size": largest, "intermediate_size": largest, "vocab_size": largest,
        "num_hidden_layers": largest, "attention_bias": true, "mlp_bias": true});
    changes.as_object_mut().expect("an object").extend(heads.as_object().expect("an object").clone());
    let config = parse(changes).expect("a configuration");
    assert_eq!((config.parameters(), inverse_frequencies(&config).len()), (u64::MAX, 128));
    assert!(message(json!({"head_dim": largest})).contains("more than the 256"));
}

#[test]
fn presets_have_their_known_sizes() {
    let count = |name| LlamaConfig::preset(name).map(|config| config.parameters());
    assert_eq!(count("7b"), Some(6_738_415_616));
    assert_eq!(count("llama3-8b"), Some(8_030_261_248));
    assert!(LlamaConfig::PRESETS.iter().all(|name| count(name).is_some()));
    assert_eq!(count("unheard-of"), None);
}

proptest! {
    /// No text, however odd, may crash the parser.
    #[test]
    fn arbitrary_values_never_panic(field in "(hidden_size|head_dim|rope_scaling|eos_token_id|rms_norm_eps|rope_theta)",
        text in r#"(null|true|-?[0-9]{1,25}|"[a-z]{0,4}"|\[[0-9]{0,3}\]|\{"rope_type":"llama3","factor":0\})"#) {
        let source = base().to_string();
        // The last of two equal keys counts.
        let changed = format!("{}, \"{field}\": {text}}}", &source[..source.len() - 1]);
        let _ = LlamaConfig::parse(Path::new("config.json"), &changed);
    }
}
