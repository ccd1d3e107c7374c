//! ReLoRA, "Knowledge-Reusing Adaptation" (Xu et al., arXiv 2606.02606); not the 2023 method of that name (Lialin et
//! al., arXiv 2307.05695), which merges and restarts adapters during pretraining. When a base model is updated, it
//! restores old adapters instead of training each from scratch. It knows no model.
//!
//! Nothing is implemented yet. The scheduled regulariser will enter training as a [`lora::Regulariser`].

#![forbid(unsafe_code)]
