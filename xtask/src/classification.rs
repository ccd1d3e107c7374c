//! Predictions for whole sequences, and how good they are.

use lora::{AdapterSet, BatchSource, Forward, LabelledSequences, Model, SequenceLabels};
use models::SequenceClassifier;

use crate::data::glue::Measure;
use crate::failure::Outcome;
use crate::loading::lora_failure;
use crate::metrics;

/// A model that can be trained and that classifies sequences.
pub trait Classifier: Model + SequenceClassifier {}

impl<T: Model + SequenceClassifier> Classifier for T {}

/// The outcome of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Mean cross-entropy, or mean squared error of scores.
    pub loss: f64,
    pub measures: Vec<(Measure, f64)>,
}

/// What a model says of every sequence of a source, in order: a logit for each class, or one number.
pub fn predict(
    model: &dyn Classifier,
    adapters: Option<&AdapterSet>,
    source: &LabelledSequences,
) -> Outcome<Vec<Vec<f32>>> {
    let mut outputs = Vec::with_capacity(source.labels().len());
    for index in 0..source.batches_per_epoch() {
        let batch = source.batch(index).and_then(|batch| batch.to_device(model.device())).map_err(lora_failure)?;
        let logits = model.class_logits(&Forward::evaluation(adapters), &batch).map_err(lora_failure)?;
        let width = logits.shape().last().copied().unwrap_or(1).max(1);
        outputs.extend(logits.to_vec::<f32>()?.chunks_exact(width).map(<[f32]>::to_vec));
    }
    Ok(outputs)
}

/// Loss and measures of predictions.
pub fn score(outputs: &[Vec<f32>], labels: &SequenceLabels, measures: &[Measure]) -> Scores {
    let count = outputs.len().max(1) as f64;
    match labels {
        SequenceLabels::Classes(truth) => {
            let losses = outputs.iter().zip(truth).map(|(output, &class)| cross_entropy(output, class));
            let predicted: Vec<i32> = outputs.iter().map(|output| class_of(output)).collect();
            let value = |measure: Measure| match measure {
                Measure::Accuracy => metrics::accuracy(&predicted, truth),
                Measure::F1 => metrics::f1(&predicted, truth),
                Measure::Matthews => metrics::matthews(&predicted, truth),
                Measure::Pearson | Measure::Spearman => f64::NAN,
            };
            Scores {
                loss: losses.sum::<f64>() / count,
                measures: measures.iter().map(|&measure| (measure, value(measure))).collect(),
            }
        }
        SequenceLabels::Scores(truth) => {
            let predicted: Vec<f64> =
                outputs.iter().map(|output| output.first().map_or(0.0, |&y| f64::from(y))).collect();
            let truth: Vec<f64> = truth.iter().map(|&score| f64::from(score)).collect();
            let value = |measure: Measure| match measure {
                Measure::Pearson => metrics::pearson(&predicted, &truth),
                Measure::Spearman => metrics::spearman(&predicted, &truth),
                Measure::Accuracy | Measure::F1 | Measure::Matthews => f64::NAN,
            };
            let losses = predicted.iter().zip(&truth).map(|(y, score)| (y - score).powi(2));
            Scores {
                loss: losses.sum::<f64>() / count,
                measures: measures.iter().map(|&measure| (measure, value(measure))).collect(),
            }
        }
    }
}

/// The likeliest class; the first of equals.
pub fn class_of(output: &[f32]) -> i32 {
    let mut best = 0;
    for (class, value) in output.iter().enumerate() {
        if *value > output[best] {
            best = class;
        }
    }
    best as i32
}

/// The negative logarithm of the probability that logits give a class.
pub fn cross_entropy(output: &[f32], class: i32) -> f64 {
    let highest = output.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = output.iter().map(|&value| f64::from(value - highest).exp()).sum();
    let chosen = usize::try_from(class).ok().and_then(|class| output.get(class)).copied().unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(chosen - highest)
}

impl Scores {
    /// One line for people.
    pub fn line(&self) -> String {
        let measures: Vec<String> =
            self.measures.iter().map(|(measure, value)| format!("{} {value:.4}", measure.name())).collect();
        format!("{}, loss {:.4}", measures.join(", "), self.loss)
    }

    /// The values by name; undefined ones are null.
    pub fn json(&self) -> serde_json::Value {
        let measures = self.measures.iter().map(|(measure, value)| (measure.name().to_string(), (*value).into()));
        measures.chain([("loss".to_string(), self.loss.into())]).collect::<serde_json::Map<_, _>>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_scored() {
        let outputs = [vec![2.0, 0.0], vec![0.0, 1.0], vec![1.0, 1.0]];
        let scores = score(&outputs, &SequenceLabels::Classes(vec![0, 1, 1]), &[Measure::Accuracy, Measure::F1]);
        // ln(1 + e⁻²), ln(1 + e⁻¹), ln 2
        let loss = (0.126_928_011_042_972_6 + 0.313_261_687_518_222_8 + std::f64::consts::LN_2) / 3.0;
        assert!((scores.loss - loss).abs() < 1e-12, "{scores:?}");
        assert_eq!(scores.measures, [(Measure::Accuracy, 2.0 / 3.0), (Measure::F1, 2.0 / 3.0)]);
        let labels = SequenceLabels::Scores(vec![1.0, 2.0, 4.0]);
        let scores = score(&[vec![1.0], vec![3.0], vec![4.0]], &labels, &[Measure::Spearman]);
        assert!((scores.measures[0].1 - 1.0).abs() < 1e-12 && (scores.loss - 1.0 / 3.0).abs() < 1e-12, "{scores:?}");
        assert_eq!(scores.line(), "spearman 1.0000, loss 0.3333");
    }
}
