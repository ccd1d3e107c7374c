//! A checkpoint as the hub ships DeBERTaV3, `pytorch_model.bin` in f16 and `spm.model`: its files read as PyTorch and
//! transformers read them. The files are not part of the repository; the feature `real-weights` says that they are
//! there.

use std::path::{Path, PathBuf};

use half::f16;
use models::{Checkpoint, Tokenizer};

/// Where the real checkpoint is.
fn directory() -> PathBuf {
    let weights = std::env::var_os("ENGINE_WEIGHTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/weights"), PathBuf::from);
    let directory = weights.join("mini-deberta");
    assert!(directory.is_dir(), "{}: not there; set ENGINE_WEIGHTS", directory.display());
    directory
}

/// Sums of values and of magnitudes as `torch.load` gives them.
#[test]
#[cfg_attr(not(feature = "real-weights"), ignore = "needs real weights: --features models/real-weights")]
fn pytorch_files_hold_what_torch_reads() {
    let checkpoint = Checkpoint::open(&directory()).expect("the checkpoint");
    let elements: usize = checkpoint.tensors().map(|(_, tensor)| tensor.shape.iter().product::<usize>()).sum();
    assert_eq!((checkpoint.tensors().count(), elements), (109, 7_108_096));
    for (name, shape, sum, magnitude) in [
        ("deberta.embeddings.word_embeddings.weight", &[4224, 256][..], -5_434.492_826_282_978, 57_142.785_874_426_365),
        ("deberta.encoder.layer.5.output.dense.weight", &[256, 1024], -6.709_901_273_250_58, 9_133.600_837_409_496),
        ("cls.predictions.bias", &[4224], -231.198_410_332_202_9, 269.282_164_990_901_95),
    ] {
        assert_eq!(checkpoint.get(name).expect(name).shape, shape);
        let bytes = checkpoint.bytes(name).expect(name);
        let values = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f64());
        let sums = values.fold((0.0, 0.0), |(sum, magnitude), value| (sum + value, magnitude + value.abs()));
        assert!((sums.0 - sum).abs() < 1e-8 && (sums.1 - magnitude).abs() < 1e-8, "{name}: {sums:?}");
    }
}

/// tokenizer.json was made from spm.model by transformers: both must cut every line of the GLUE files alike.
#[test]
#[cfg_attr(not(feature = "real-weights"), ignore = "needs real weights: --features models/real-weights")]
fn the_converted_sentencepiece_model_is_the_published_tokenizer() {
    let published = Tokenizer::read(&directory()).expect("tokenizer.json");
    let copy = tempfile::tempdir().expect("a temporary directory");
    for name in ["spm.model", "added_tokens.json", "tokenizer_config.json"] {
        std::fs::copy(directory().join(name), copy.path().join(name)).expect("copied");
    }
    let converted = Tokenizer::read(copy.path()).expect("spm.model");
    assert_eq!((converted.vocab_size(), converted.pad(), converted.token_id("[MASK]")), (4097, Some(0), Some(4096)));
    let data = std::env::var_os("ENGINE_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let mut lines = 0;
    for task in ["CoLA", "MRPC", "RTE", "SST-2", "STS-B"] {
        let path = data.join("glue").join(task).join("dev.tsv");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for line in text.lines() {
            let [first, second] = [&published, &converted].map(|tokenizer| tokenizer.encode(line, true).expect("ids"));
            assert_eq!(first, second, "{}: {line}", path.display());
            lines += 1;
        }
    }
    assert!(lines > 3000, "{lines} lines");
}
