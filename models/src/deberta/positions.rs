//! Relative positions: the buckets they fall into, and the rows of the relative embeddings that a sequence needs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use autograd::Var;
use lora::{AdapterSet, Forward};
use tensor::{RelativeBuckets, Tensor};

use super::config::DebertaConfig;
use super::norm::Norm;
use crate::error::Result;

/// The row of the relative embeddings for a relative position i − j.
///
/// With `position_buckets` = B and m = B/2, positions up to m away have buckets of their own and those beyond share
/// logarithmically wider ones: bucket(r) = r where |r| ≤ m, else
/// sign(r)·(⌈ln(|r|/m) / ln((M − 1)/m) · (m − 1)⌉ + m) with M = `max_relative_positions`
/// (`make_log_bucket_position` of the reference implementation). The row is bucket + span, kept within the table.
pub(super) fn relative_row(config: &DebertaConfig, relative: i64) -> usize {
    let span = config.span() as i64;
    let bucket = match config.position_buckets {
        Some(buckets) if relative.unsigned_abs() > (buckets / 2) as u64 => {
            let middle = (buckets / 2) as f64;
            let distance = relative.unsigned_abs() as f64;
            let octaves = (distance / middle).ln() / ((config.max_relative_positions - 1) as f64 / middle).ln();
            relative.signum() * ((octaves * (middle - 1.0)).ceil() + middle) as i64
        }
        _ => relative,
    };
    (bucket + span).clamp(0, 2 * span - 1) as usize
}

/// The relative positions of sequences of one length.
#[derive(Clone)]
struct Table {
    /// Buckets counted from the first one in use.
    buckets: RelativeBuckets,
    /// The first of the embeddings' rows in use; there are as many as buckets.
    first: usize,
}

/// The relative embeddings and the tables made so far, by sequence length.
pub(super) struct RelativePositions {
    /// f32 `[2·span, hidden]`.
    embeddings: Tensor,
    norm: Option<Norm>,
    tables: Mutex<HashMap<usize, Table>>,
}

/// The module of the relative embeddings, and their name.
pub(super) const RELATIVE_MODULE: &str = "deberta.encoder.rel_embeddings";
pub(super) const RELATIVE: &str = "deberta.encoder.rel_embeddings.weight";

impl RelativePositions {
    /// Relative embeddings f32 `[2·span, hidden]` and the norm they go through, if any.
    pub fn new(embeddings: Tensor, norm: Option<Norm>) -> Self {
        RelativePositions { embeddings, norm, tables: Mutex::default() }
    }

    /// The modules, with their parameters.
    pub fn modules(&self) -> Vec<(&str, Vec<(String, Tensor)>)> {
        let embeddings = (RELATIVE_MODULE, vec![("weight".to_string(), self.embeddings.clone())]);
        [embeddings].into_iter().chain(self.norm.iter().map(|norm| (norm.name(), norm.parameters()))).collect()
    }

    /// The positions with what was trained of them.
    pub fn merged(&self, adapters: &AdapterSet) -> Result<Self> {
        let norm = self.norm.as_ref().map(|norm| norm.merged(adapters)).transpose()?;
        Ok(Self::new(adapters.merge_parameter(RELATIVE, &self.embeddings)?, norm))
    }

    /// For sequences of `sequence` tokens, at least one: which bucket a pair of positions falls into, counted from the
    /// first in use, and the normed embeddings of the buckets in use, `[buckets, hidden]`. Short sequences need only the
    /// middle of the embeddings, so that little more is projected for them.
    pub fn of(&self, forward: &Forward, config: &DebertaConfig, sequence: usize) -> Result<(RelativeBuckets, Var)> {
        let Table { buckets, first } = self.table(config, sequence)?;
        let rows = forward.parameter(RELATIVE, &self.embeddings).slice(0, first, first + buckets.count())?;
        let embeddings = match &self.norm {
            Some(norm) => norm.forward(forward, &rows)?,
            None => rows,
        };
        Ok((buckets, embeddings))
    }

    fn table(&self, config: &DebertaConfig, sequence: usize) -> Result<Table> {
        // Tables are only ever added as a whole, so a panic elsewhere cannot leave one half-made.
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(&sequence) {
            return Ok(table.clone());
        }
        let farthest = sequence as i64 - 1;
        let rows: Vec<usize> = (-farthest..=farthest).map(|relative| relative_row(config, relative)).collect();
        // Rows grow with the relative position.
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        // Matrix products are fastest with multiples of four, and those on tensor cores need more; a bucket without positions
        // costs next to nothing.
        let used = last - first + 1;
        let count = used.next_multiple_of(if used > 32 { 32 } else { 4 }).min(2 * config.span());
        let first = first.min(2 * config.span() - count);
        let buckets: Vec<u32> = rows.iter().map(|row| (row - first) as u32).collect();
        let table = Table { buckets: RelativeBuckets::new(self.embeddings.device(), &buckets, count)?, first };
        tables.insert(sequence, table.clone());
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use tensor::Device;

    use super::*;

    fn config(position_buckets: Option<usize>, max_relative_positions: usize) -> DebertaConfig {
        let base = DebertaConfig::preset("tiny").expect("a preset");
        DebertaConfig { position_buckets, max_relative_positions, ..base }
    }

    #[test]
    fn buckets_are_those_of_the_reference() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/deberta_log_buckets.safetensors");
        let bytes = std::fs::read(path).expect("the fixture");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
        assert_eq!(file.names().len(), 4);
        for (name, view) in file.tensors() {
            let numbers: Vec<usize> = name.split('.').skip(1).map(|part| part.parse().expect("a number")).collect();
            let (buckets, positions) = (numbers[0], numbers[1]);
            let config = config(Some(buckets), positions);
            let want: Vec<i64> = bytemuck::pod_collect_to_vec(view.data());
            for (index, &want) in want.iter().enumerate() {
                let relative = index as i64 - (positions as i64 - 1);
                let row = relative_row(&config, relative) as i64;
                assert_eq!(row, want + buckets as i64, "{name}: position {relative}");
            }
        }
    }

    #[test]
    fn rows_stay_within_the_table_and_grow() {
        for config in [config(Some(8), 20), config(Some(7), 16), config(Some(4), 9), config(None, 5)] {
            let rows: Vec<usize> = (-60..=60).map(|relative| relative_row(&config, relative)).collect();
            assert!(rows.windows(2).all(|pair| pair[0] <= pair[1]), "{rows:?}");
            assert_eq!((rows[0], rows[60], rows[120]), (0, config.span(), 2 * config.span() - 1));
        }
    }

    #[test]
    fn short_sequences_take_the_middle() {
        let device = Device::cpu();
        let config = config(Some(8), 20);
        let values: Vec<f32> = (0..16).map(|row| row as f32).collect();
        let positions = RelativePositions::new(Tensor::from_vec(&device, &[16, 1], values).expect("a table"), None);
        let of = |sequence| positions.of(&Forward::evaluation(None), &config, sequence).expect("positions");
        let rows = |embeddings: &Var| embeddings.tensor().to_vec::<f32>().expect("values");
        let (buckets, embeddings) = of(3);
        // Five positions from row 6 on, in a multiple of four rows.
        assert_eq!(rows(&embeddings), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0]);
        assert_eq!((buckets.count(), buckets.sequence()), (8, 3));
        assert_eq!(rows(&of(5).1)[0], 4.0);
        assert_eq!(of(50).0.count(), 16);
    }
}
