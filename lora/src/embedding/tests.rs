use autograd::Tape;
use autograd::check::TestRandom;
use tensor::testing::on_each_backend;
use tensor::{DType, Device};

use super::*;
use crate::base::Base;
use crate::config::LoraConfig;
use crate::targets::Targets;

fn case(device: &Device) -> (Embedding, AdapterSet, Tensor) {
    let mut random = TestRandom::new(3);
    let mut tensor = |shape: &[usize]| random.tensor(device, shape, -1.0, 1.0).unwrap();
    let embedding = Embedding::new("tokens", tensor(&[7, 4])).unwrap();
    let config = LoraConfig { rank: 2, alpha: 3.0, targets: Targets::names(["tokens"]), ..LoraConfig::default() };
    let factors = (tensor(&[2, 7]), tensor(&[4, 2]));
    let set = AdapterSet::from_factors(config, &[embedding.shape()], device, |_| Ok(factors.clone())).unwrap();
    (embedding, set, Tensor::from_slice(device, &[2, 3], &[6u32, 0, 3, 3, 1, 6]).unwrap())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().unwrap()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-6)
}

on_each_backend! {
    fn rows_are_those_of_the_merged_table(device) {
        let (embedding, mut set, ids) = case(device);
        let adapted = |set: &AdapterSet| embedding.forward(&Forward::evaluation(Some(set)), &ids).unwrap();
        let merged = embedding.merged(&set).unwrap();
        let base = values(&embedding.weight().embedding(&ids).unwrap());
        assert_eq!(adapted(&set).shape()[..], [2, 3, 4]);
        assert!(close(&values(adapted(&set).tensor()), &values(&merged.weight().embedding(&ids).unwrap())));
        assert!(!close(&values(adapted(&set).tensor()), &base));
        set.subtract_initial_product().unwrap();
        assert!(close(&values(adapted(&set).tensor()), &base), "the product is taken out again");
        assert!(close(&values(embedding.merged(&set).unwrap().weight()), &values(embedding.weight())));
    }

    fn factors_get_the_gradients_of_a_product_with_the_whole_table(device) {
        let (embedding, set, ids) = case(device);
        let gradients = |lookup: bool| {
            let tape = Tape::new();
            let forward = Forward { tape: tape.clone(), ..Forward::evaluation(Some(&set)) };
            let y = if lookup {
                embedding.forward(&forward, &ids).unwrap()
            } else {
                let [a, b] = ["tokens.lora_embedding_A", "tokens.lora_embedding_B"]
                    .map(|name| tape.leaf(name, set.parameters().get(name).unwrap()));
                let update = b.matmul(&a).unwrap().affine(1.5, 0.0).unwrap().t().unwrap();
                update.add(&Var::constant(embedding.weight().clone())).unwrap().embedding(&ids).unwrap()
            };
            let loss = y.sin().unwrap().sum(&[0, 1, 2], false).unwrap();
            tape.backward(&loss).unwrap().into_iter().map(|(name, g)| (name, values(&g))).collect::<Vec<_>>()
        };
        let (lookup, product) = (gradients(true), gradients(false));
        assert_eq!(lookup.len(), 2);
        for ((name, a), (_, b)) in lookup.iter().zip(&product) {
            assert!(close(a, b), "{name}: {a:?} {b:?}");
        }
    }
}

/// A set with DoRA whose magnitudes are not those it begins with.
fn decomposed(device: &Device) -> (Embedding, AdapterSet, Tensor) {
    let (embedding, plain, ids) = case(device);
    let config = LoraConfig { use_dora: true, ..plain.config().clone() };
    let parameters = [("tokens".to_string(), embedding.parameters())].into_iter().collect();
    let base = Base::from_parts(vec![embedding.shape()], parameters);
    let factors = plain.factors("tokens").unwrap();
    let (a, b) = (factors.a.clone(), factors.b.clone());
    let mut set = AdapterSet::from_factors(config, base, device, |_| Ok((a.clone(), b.clone()))).unwrap();
    let first = values(&embedding.forward(&Forward::evaluation(Some(&set)), &ids).unwrap().into_tensor());
    let adapted = values(&embedding.forward(&Forward::evaluation(Some(&plain)), &ids).unwrap().into_tensor());
    assert!(close(&first, &adapted), "magnitudes begin as the lengths that there are");
    let magnitude = TestRandom::new(5).tensor(device, &[4], 0.5, 2.0).unwrap();
    set.parameters_mut().insert("tokens.lora_magnitude_vector", magnitude).unwrap();
    (embedding, set, ids)
}

on_each_backend! {
    fn columns_have_the_trained_lengths(device) {
        let (embedding, set, ids) = decomposed(device);
        let merged = embedding.merged(&set).unwrap();
        let table = values(merged.weight());
        let magnitudes = values(set.parameters().get("tokens.lora_magnitude_vector").unwrap());
        let lengths: Vec<f32> =
            (0..4).map(|column| table.iter().skip(column).step_by(4).map(|x| x * x).sum::<f32>().sqrt()).collect();
        assert!(close(&lengths, &magnitudes), "{lengths:?} {magnitudes:?}");
        let adapted = embedding.forward(&Forward::evaluation(Some(&set)), &ids).unwrap();
        assert!(close(&values(adapted.tensor()), &values(&merged.weight().embedding(&ids).unwrap())));
    }

    fn a_decomposed_table_gives_the_gradients_of_its_formula(device) {
        let (embedding, set, ids) = decomposed(device);
        let names = ["tokens.lora_embedding_A", "tokens.lora_embedding_B", "tokens.lora_magnitude_vector"];
        let gradients = |lookup: bool| {
            let tape = Tape::new();
            let forward = Forward { tape: tape.clone(), ..Forward::evaluation(Some(&set)) };
            let y = if lookup {
                embedding.forward(&forward, &ids).unwrap()
            } else {
                let [a, b, m] = names.map(|name| tape.leaf(name, set.parameters().get(name).unwrap()));
                let update = b.matmul(&a).unwrap().affine(1.5, 0.0).unwrap().t().unwrap();
                let table = update.add(&Var::constant(embedding.weight().clone())).unwrap();
                let norms = table.tensor().square().unwrap().sum(&[0], false).unwrap().sqrt().unwrap();
                table.mul(&m.div(&Var::constant(norms)).unwrap()).unwrap().embedding(&ids).unwrap()
            };
            let loss = y.sin().unwrap().sum(&[0, 1, 2], false).unwrap();
            tape.backward(&loss).unwrap().into_iter().map(|(name, g)| (name, values(&g))).collect::<Vec<_>>()
        };
        let (lookup, formula) = (gradients(true), gradients(false));
        assert_eq!(lookup.len(), 3);
        for ((name, a), (_, b)) in lookup.iter().zip(&formula) {
            assert!(close(a, b), "{name}: {a:?} {b:?}");
        }
    }
}

#[test]
fn other_tables_are_refused() {
    let device = Device::cpu();
    assert!(Embedding::new("e", Tensor::zeros(&device, &[3], DType::F32).unwrap()).is_err());
    assert!(Embedding::new("e", Tensor::zeros(&device, &[3, 2], DType::U32).unwrap()).is_err());
}
