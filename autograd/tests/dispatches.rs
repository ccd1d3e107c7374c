//! Small models are bound by the number of launches, so the operations made for them are held to theirs. In a process of
//! its own, since the counters are the device's.

use autograd::{DisentangledConfig, Tape, Var};
use tensor::{RandomKey, RelativeBuckets, Tensor};

#[test]
#[cfg_attr(not(feature = "gpu-tests"), ignore = "needs a GPU adapter: --features gpu-tests")]
fn disentangled_attention_takes_few() {
    let device = tensor::testing::gpu();
    let (content, position) = ([2, 32, 4, 16], [63, 4, 16]);
    let key = RandomKey::named(0, "dispatches", 0);
    let random = |shape: &[usize]| Tensor::random_uniform(device, shape, -1.0, 1.0, key).expect("an operand");
    let operands = [random(&content), random(&content), random(&content), random(&position), random(&position)];
    let config = DisentangledConfig {
        buckets: RelativeBuckets::new(device, &(0..63).collect::<Vec<u32>>(), 63).expect("buckets"),
        key_mask: None,
        scale: 0.2,
        dropout: Some((0.1, key)),
    };
    let upstream = random(&content);
    let tape = Tape::new();
    let leaves: Vec<Var> =
        operands.iter().zip(["q", "k", "v", "pk", "pq"]).map(|(x, name)| tape.leaf(name, x)).collect();
    let start = device.counters().dispatches;
    let output = leaves[0]
        .disentangled_attention(&leaves[1], &leaves[2], Some(&leaves[3]), Some(&leaves[4]), &config)
        .expect("forward");
    let forward = device.counters().dispatches;
    let gradients = tape.backward_from(&output, upstream).expect("backward");
    let backward = device.counters().dispatches;
    // Four products, the softmax and a copy; then nine products, two kernels and a copy of each gradient.
    assert_eq!(gradients.len(), 5);
    assert_eq!((forward - start, backward - forward), (6, 15));
}
