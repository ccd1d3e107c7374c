//! RefLoRA (Zhang, Li, Giannakis, NeurIPS 2025, arXiv 2505.18877): at every step pick the low-rank factorisation that
//! minimises an upper bound of the loss. It sees pairs of factors and their gradients and knows no model.
//!
//! Nothing is implemented yet. The method will enter training as a [`lora::GradientTransform`].

#![forbid(unsafe_code)]
