//! Two versions of a checkpoint: what counts as an update, what is refused by name, and fingerprints.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use models::{Checkpoint, ModelUpdate, Side};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama_tiny/model")
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

/// A copy of the fixture with its tensors (f32) changed.
fn changed(change: impl FnOnce(&mut Tensors), config: impl FnOnce(String) -> String) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixture().join("config.json")).unwrap();
    fs::write(directory.path().join("config.json"), config(text)).unwrap();
    let bytes = fs::read(fixture().join("model.safetensors")).unwrap();
    let mut tensors: Tensors = SafeTensors::deserialize(&bytes)
        .unwrap()
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), Dtype::F32);
            (name.to_string(), (view.shape().to_vec(), view.data().to_vec()))
        })
        .collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    fs::write(directory.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    directory
}

fn same(config: String) -> String {
    config
}

fn refusal(new: &tempfile::TempDir) -> String {
    match ModelUpdate::open(&fixture(), new.path()) {
        Ok(_) => panic!("must be refused"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_update_gives_both_weights() {
    const NAME: &str = "model.layers.1.mlp.down_proj.weight";
    let new = changed(|tensors| tensors.get_mut(NAME).unwrap().1[..4].copy_from_slice(&7f32.to_le_bytes()), same);
    let update = ModelUpdate::open(&fixture(), new.path()).unwrap();
    let module = NAME.strip_suffix(".weight").unwrap();
    let [old, new] = [Side::Old, Side::New].map(|side| update.weight(side, module).unwrap().to_vec::<f32>().unwrap());
    assert_eq!((new[0], &old[1..]), (7.0, &new[1..]));
    assert!(update.modules(Side::Old).contains(&module.to_string()));
    assert!(update.weight(Side::Old, "nothing").unwrap_err().to_string().contains("nothing.weight"));
}

#[test]
fn fingerprints_follow_the_contents() {
    let fingerprint = |directory: &Path| Checkpoint::open(directory).unwrap().fingerprint();
    let copy = changed(|_| (), same);
    assert_eq!(fingerprint(&fixture()), fingerprint(copy.path()), "headers and places do not matter");
    let touched = changed(|tensors| tensors.get_mut("model.norm.weight").unwrap().1[0] ^= 1, same);
    assert_ne!(fingerprint(&fixture()), fingerprint(touched.path()));
    let renamed = changed(
        |tensors| {
            let norm = tensors.remove("model.norm.weight").unwrap();
            tensors.insert("model.norm.scale".into(), norm);
        },
        same,
    );
    assert_ne!(fingerprint(&fixture()), fingerprint(renamed.path()));
}

#[test]
#[ignore = "a measurement; docs/checks/README.md has its result"]
fn a_base_of_seven_billion_parameters_is_identified_in_two_seconds() {
    const LAYER: [(&str, [usize; 2]); 9] = [
        ("input_layernorm", [1, 4096]),
        ("post_attention_layernorm", [1, 4096]),
        ("self_attn.q_proj", [4096, 4096]),
        ("self_attn.k_proj", [4096, 4096]),
        ("self_attn.v_proj", [4096, 4096]),
        ("self_attn.o_proj", [4096, 4096]),
        ("mlp.gate_proj", [11008, 4096]),
        ("mlp.up_proj", [11008, 4096]),
        ("mlp.down_proj", [4096, 11008]),
    ];
    let layers =
        (0..32).flat_map(|layer| LAYER.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
    let ends =
        [("model.embed_tokens.weight".to_string(), [32000, 4096]), ("lm_head.weight".to_string(), [32000, 4096])];
    let (mut header, mut at) = (serde_json::Map::new(), 0);
    for (name, shape) in layers.chain(ends) {
        let end = at + 2 * shape[0] * shape[1];
        header.insert(name, serde_json::json!({ "dtype": "F16", "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let header = serde_json::Value::Object(header).to_string();
    let directory = tempfile::tempdir().unwrap();
    fs::copy(fixture().join("config.json"), directory.path().join("config.json")).unwrap();
    let path = directory.path().join("model.safetensors");
    fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    // The rest of the file is a hole, which costs as much to read as what the system has at hand.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((8 + header.len() + at) as u64).unwrap();
    let started = std::time::Instant::now();
    let identity = Checkpoint::open(directory.path()).unwrap().identity().unwrap();
    let seconds = started.elapsed().as_secs_f64();
    println!("{:.1} GB in {seconds:.2} s: {}", at as f64 / 1e9, identity.contents);
    assert!(seconds < 2.0);
}

#[test]
fn a_vocabulary_may_grow_but_not_shrink() {
    let resize = |rows: &dyn Fn(usize) -> usize| {
        let mut vocabulary = 0;
        let directory = changed(
            |tensors| {
                for name in ["model.embed_tokens.weight", "lm_head.weight"] {
                    let Some((shape, bytes)) = tensors.get_mut(name) else { continue };
                    let width = bytes.len() / shape[0];
                    shape[0] = rows(shape[0]);
                    bytes.resize(shape[0] * width, 0);
                    vocabulary = shape[0];
                }
            },
            same,
        );
        let path = directory.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config["vocab_size"] = vocabulary.into();
        fs::write(path, config.to_string()).unwrap();
        directory
    };
    let grown = resize(&|rows| rows + 3);
    let update = ModelUpdate::open(&fixture(), grown.path()).unwrap();
    assert_eq!(update.vocabulary(Side::New), update.vocabulary(Side::Old) + 3);
    let message = refusal(&resize(&|rows| rows - 1));
    assert!(message.contains("vocab_size") && message.contains("may only grow"), "{message}");
}

#[test]
fn other_models_are_refused_by_name() {
    let down = "model.layers.0.mlp.down_proj.weight";
    let reshaped = changed(|tensors| tensors.get_mut(down).unwrap().0.swap(0, 1), same);
    let message = refusal(&reshaped);
    assert!(message.contains(down) && message.contains("[64, 128]") && message.contains("[128, 64]"), "{message}");
    let renamed = changed(
        |tensors| {
            let weight = tensors.remove(down).unwrap();
            tensors.insert("model.layers.0.mlp.out_proj.weight".into(), weight);
        },
        same,
    );
    assert!(refusal(&renamed).contains("`model.layers.0.mlp.down_proj.weight` of the old base is not in the new one"));
    let added = changed(
        |tensors| {
            tensors.insert("model.layers.0.extra.weight".into(), (vec![1], vec![0; 4]));
        },
        same,
    );
    assert!(refusal(&added).contains("`model.layers.0.extra.weight` of the new base"));
    let other_heads =
        changed(|_| (), |config| config.replace("\"num_attention_heads\": 4", "\"num_attention_heads\": 8"));
    let message = refusal(&other_heads);
    assert!(message.contains("num_attention_heads") || message.contains("head_dim"), "{message}");
    let deberta = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/deberta_v3_tiny_cls/model");
    let message = ModelUpdate::open(&fixture(), &deberta).err().unwrap().to_string();
    assert!(message.contains("`model_type` differs"), "{message}");
}
