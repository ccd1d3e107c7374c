//! Clipping by the global norm, without waiting for the device.

use tensor::{Result, Tensor};

use crate::gradients::Gradients;
use crate::tape::misuse;

/// Scales all gradients by min(1, max_norm / (norm + 10⁻⁶)), where norm = √(Σ g²) over all of them, as PyTorch's
/// `clip_grad_norm_` does. Returns the norm before clipping as a scalar on the device: reading it is the caller's
/// choice, and the only thing here that would wait. Where the norm is NaN or infinite all gradients become zero.
///
/// # Errors
/// [`tensor::TensorError::InvalidArgument`] when there are no gradients or `max_norm` is negative or not finite;
/// otherwise those of the tensor operations.
pub fn clip_by_global_norm(gradients: &mut Gradients, max_norm: f32) -> Result<Tensor> {
    if gradients.is_empty() {
        return Err(misuse("clip_by_global_norm", "there are no gradients"));
    }
    let all: Vec<&Tensor> = gradients.iter().map(|(_, gradient)| gradient).collect();
    let sum_of_squares = tensor::sum_of_squares(&all)?;
    let scale = tensor::clip_scale(&sum_of_squares, max_norm)?;
    let mut all: Vec<&mut Tensor> = gradients.iter_mut().map(|(_, gradient)| gradient).collect();
    tensor::scale_in_place(&mut all, &scale)?;
    sum_of_squares.sqrt()
}

#[cfg(test)]
mod tests {
    use tensor::Device;
    use tensor::testing::on_each_backend;

    use super::*;

    fn gradients(device: &Device) -> Gradients {
        let mut gradients = Gradients::new();
        gradients.insert("a", Tensor::from_slice(device, &[2], &[3.0f32, 0.0]).unwrap());
        gradients.insert("b", Tensor::from_slice(device, &[1, 1], &[-4.0f32]).unwrap());
        gradients
    }

    on_each_backend! {
        fn a_large_norm_is_scaled_down(device) {
            let mut gradients = gradients(device);
            let norm = clip_by_global_norm(&mut gradients, 1.0).unwrap().item::<f32>().unwrap();
            assert!((norm - 5.0).abs() < 1e-5, "{norm}");
            let a = gradients.get("a").unwrap().to_vec::<f32>().unwrap();
            let b = gradients.get("b").unwrap().item::<f32>().unwrap();
            assert!((a[0] - 0.6).abs() < 1e-5 && a[1] == 0.0 && (b + 0.8).abs() < 1e-5, "{a:?} {b}");
        }

        fn gradients_that_are_no_numbers_become_zero(device) {
            let mut gradients = gradients(device);
            gradients.insert("c", Tensor::from_slice(device, &[2], &[f32::NAN, f32::INFINITY]).unwrap());
            let norm = clip_by_global_norm(&mut gradients, 1e30).unwrap().item::<f32>().unwrap();
            assert!(norm.is_nan(), "{norm}");
            for (name, gradient) in gradients.iter() {
                assert!(gradient.to_vec::<f32>().unwrap().iter().all(|&value| value == 0.0), "{name}");
            }
        }

        fn a_small_norm_stays(device) {
            let mut gradients = gradients(device);
            clip_by_global_norm(&mut gradients, 6.0).unwrap();
            assert_eq!(gradients.get("a").unwrap().to_vec::<f32>().unwrap(), [3.0, 0.0]);
            assert_eq!(gradients.get("b").unwrap().item::<f32>().unwrap(), -4.0);
        }
    }

    #[test]
    fn nothing_to_clip_is_an_error() {
        let message = clip_by_global_norm(&mut Gradients::new(), 1.0).unwrap_err().to_string();
        assert_eq!(message, "clip_by_global_norm: there are no gradients");
    }
}
