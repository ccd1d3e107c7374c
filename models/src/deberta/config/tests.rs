use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// config.json of microsoft/deberta-v3-base, as published.
fn base() -> Value {
    json!({
        "model_type": "deberta-v2", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
        "max_position_embeddings": 512, "relative_attention": true, "position_buckets": 256,
        "norm_rel_ebd": "layer_norm", "share_att_key": true, "pos_att_type": "p2c|c2p", "layer_norm_eps": 1e-7,
        "max_relative_positions": -1, "position_biased_input": false, "num_attention_heads": 12,
        "num_hidden_layers": 12, "type_vocab_size": 0, "vocab_size": 128_100
    })
}

fn parse(changes: Value) -> Result<DebertaConfig> {
    let mut config = base();
    for (name, value) in changes.as_object().expect("changes are an object") {
        config[name] = value.clone();
    }
    DebertaConfig::parse(Path::new("config.json"), &config.to_string())
}

fn message(changes: Value) -> String {
    parse(changes).expect_err("this configuration must be refused").to_string()
}

#[test]
fn the_published_file_is_the_preset() {
    let config = parse(json!({})).expect("the published configuration");
    assert_eq!(Some(&config), DebertaConfig::preset("base").as_ref());
    assert_eq!((config.head_dim(), config.span()), (64, 256));
    // 184 M, as published: 98 M of embeddings and 86 M of backbone.
    assert_eq!(config.parameters(), 183_831_552);
    assert!(DebertaConfig::PRESETS.iter().all(|name| DebertaConfig::preset(name).is_some()));
    assert!(DebertaConfig::preset("unheard-of").is_none());
}

#[test]
fn every_spelling_is_read() {
    let written = parse(json!({
        "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 768, "pooler_dropout": 0, "pooler_hidden_act": "gelu",
        "pad_token_id": 0, "legacy": true, "tie_word_embeddings": true, "dtype": "float32", "torch_dtype": "float16"
    }));
    assert_eq!(written.expect("as transformers writes it"), parse(json!({})).expect("as published"));
    let config = parse(json!({"cls_dropout": 0.15, "pooler_dropout": 0.2, "pad_token_id": null})).expect("valid");
    assert_eq!((config.classifier_dropout, config.pooler_dropout, config.pad_token_id), (0.15, 0.2, 0));
    let config = parse(json!({"pos_att_type": "C2P", "norm_rel_ebd": "none", "position_buckets": -1})).expect("valid");
    assert_eq!((config.content_to_position, config.position_to_content), (true, false));
    assert_eq!((config.position_buckets, config.span(), config.normalise_relative_embeddings), (None, 512, false));
    let config = parse(json!({"pos_att_type": null, "max_relative_positions": 300})).expect("valid");
    assert_eq!((config.content_to_position, config.position_to_content), (false, false));
    assert_eq!(config.max_relative_positions, 300);
    let labels = |changes| parse(changes).expect("valid").num_labels;
    assert_eq!(labels(json!({"id2label": {"0": "A", "1": "B", "2": "C"}})), Some(3));
    assert_eq!(labels(json!({"num_labels": 1})), Some(1));
    assert_eq!(labels(json!({})), None);
}

#[test]
fn what_would_change_the_result_is_refused_by_name() {
    assert_eq!(
        message(json!({"conv_kernel_size": 3})),
        "config.json: `conv_kernel_size` is 3, which is not supported; the convolution of DeBERTa-v2 xlarge is not; use \
         a DeBERTaV3 checkpoint"
    );
    assert!(message(json!({"hidden_act": "gelu_new"})).contains("`hidden_act` is gelu_new"));
    assert!(message(json!({"pooler_hidden_act": "tanh"})).contains("`pooler_hidden_act` is tanh"));
    assert!(message(json!({"share_att_key": null})).contains("`share_att_key` is false"));
    assert!(message(json!({"relative_attention": false})).contains("`relative_attention` is false"));
    assert!(message(json!({"position_biased_input": null})).contains("`position_biased_input` is true"));
    assert!(message(json!({"type_vocab_size": 2})).contains("`type_vocab_size` is 2"));
    assert!(message(json!({"embedding_size": 128})).contains("`embedding_size` is 128"));
    assert!(message(json!({"pooler_hidden_size": 32})).contains("`pooler_hidden_size` is 32"));
    assert!(message(json!({"pos_att_type": "p2p|c2p"})).contains("`pos_att_type` is p2p"));
    assert!(message(json!({"norm_rel_ebd": "rms"})).contains("`norm_rel_ebd` is rms"));
}

#[test]
fn impossible_values_are_refused_by_name() {
    assert!(message(json!({"hidden_size": null})).contains("`hidden_size` is missing"));
    assert!(message(json!({"num_attention_heads": 7})).contains("`num_attention_heads` (7) does not divide"));
    assert!(message(json!({"position_buckets": 1})).contains("`position_buckets` (1) must be at least 2"));
    assert!(message(json!({"max_relative_positions": 100})).contains("`position_buckets` (256)"));
    assert!(message(json!({"hidden_dropout_prob": 1.0})).contains("`hidden_dropout_prob` must be"));
    assert!(message(json!({"pos_att_type": [1]})).contains("`pos_att_type` must be a text"));
}

proptest! {
    /// No text, however odd, may crash the parser.
    #[test]
    fn arbitrary_values_never_panic(
        field in "(hidden_size|position_buckets|pos_att_type|max_relative_positions|id2label|cls_dropout|norm_rel_ebd)",
        text in r#"(null|true|-?[0-9]{1,25}|"[a-z|0-9]{0,4}"|\[[0-9]{0,3}\]|\{"a":0\})"#) {
        let source = base().to_string();
        // The last of two equal keys counts.
        let changed = format!("{}, \"{field}\": {text}}}", &source[..source.len() - 1]);
        let _ = DebertaConfig::parse(Path::new("config.json"), &changed);
    }
}
