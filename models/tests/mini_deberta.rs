//! A checkpoint as the hub ships DeBERTaV3, `pytorch_model.bin` in f16 and `spm.model`: its files read as PyTorch and
//! transformers read them. The files are not part of the repository; the feature `real-weights` says that they are
//! there.

use std::path::{Path, PathBuf};

use half::f16;
use lora::{Forward, HostBatch, IGNORED, Model};
use models::{Checkpoint, Deberta, DebertaHead, DebertaOptions, Tokenizer};
use tensor::Device;

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

/// Log-sum-exp, sum and three logits at places near and far, and the loss of every seventh token, as transformers has
/// them. One sequence is longer than the buckets that have a position each, one is padded.
#[test]
#[cfg_attr(not(feature = "real-weights"), ignore = "needs real weights: --features models/real-weights")]
fn masked_tokens_are_predicted_as_by_transformers() {
    let (rows, sequence) = (2, 300);
    let id = |row: u32, i: u32| if i == 0 { 1 } else { (7 * i * i + 3 * i + 5 * (row + 1)) % 4200 + 4 };
    let ids: Vec<u32> = (0..rows).flat_map(|row| (0..sequence).map(move |i| id(row, i))).collect();
    let mask: Vec<u32> = (0..rows * sequence).map(|place| u32::from(place < 300 + 170)).collect();
    let counts = |(place, &kept): (usize, &u32)| kept == 1 && place % 300 % 7 == 0;
    let labels: Vec<i32> =
        ids.iter().zip(mask.iter().enumerate()).map(|(&id, at)| if counts(at) { id as i32 } else { IGNORED }).collect();
    let host = HostBatch::new(2, 300, ids, labels, Some(mask)).expect("a batch");
    let options = DebertaOptions::new(DebertaHead::MaskedLanguageModel);
    let mut devices = vec![Device::cpu()];
    if cfg!(feature = "gpu-tests") {
        devices.push(tensor::testing::gpu().clone());
    }
    for device in devices {
        let model = Deberta::from_directory(&directory(), &options, &device).expect("the model");
        assert_eq!(model.unused_tensors(), ["cls.predictions.decoder.bias", "cls.predictions.decoder.weight"]);
        let (forward, batch) = (Forward::evaluation(None), host.to_device(&device).expect("a batch"));
        let logits = model.logits(&forward, &batch.ids, batch.key_mask.as_ref()).expect("logits");
        let logits: Vec<f32> = logits.tensor().to_vec().expect("values");
        for (row, place, log_sum_exp, sum, chosen) in [
            (0, 0, 9.375_913, -8_719.440, [-13.304_8, 3.873_46, -4.770_4]),
            (0, 150, 9.878_177, -9_830.549, [-13.015_04, 7.789_62, -0.458_21]),
            (0, 299, 10.674_473, -9_670.611, [-12.096_61, 6.228_4, -3.478_45]),
            (1, 0, 8.141_875, -10_326.872, [-13.593_96, 3.388_68, -2.255_04]),
            (1, 169, 9.499_329, -9_990.786, [-13.611_85, 3.785_4, -1.264_95]),
        ] {
            let logits: Vec<f64> =
                logits[(row * 300 + place) * 4224..][..4224].iter().map(|&logit| f64::from(logit)).collect();
            let got = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
            assert!((got - log_sum_exp).abs() < 2e-4, "{row}, {place}: {got} instead of {log_sum_exp}");
            let got = logits.iter().sum::<f64>();
            assert!((got - sum).abs() < 0.2, "{row}, {place}: {got} instead of {sum}");
            for (token, want) in [0, 17, 4000].into_iter().zip(chosen) {
                assert!((logits[token] - want).abs() < 5e-4, "{row}, {place}: {} instead of {want}", logits[token]);
            }
        }
        let loss: f32 = model.loss(&forward, &batch).expect("a loss").tensor().item().expect("a scalar");
        assert!((loss - 7.005_208).abs() < 1e-4, "{loss}");
    }
}
