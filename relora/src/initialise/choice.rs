//! The last comparison: the best points and the anchors, on more examples.

use lora::{LoraError, Result};

use super::{StartOptions, StartOrigin};
use crate::candidates::{PairedDifference, Race, Standing, mean};

/// The anchors that were not dropped and the best of the others that were not.
pub(super) fn finalists(race: &Race<'_>, origins: &[StartOrigin], examples: usize, count: usize) -> Vec<usize> {
    let racing = race.racing(&race.everyone());
    let (mut anchors, mut others): (Vec<usize>, Vec<usize>) =
        racing.into_iter().partition(|&place| origins[place].is_anchor());
    others.sort_by(|&a, &b| race.estimate(a, examples).total_cmp(&race.estimate(b, examples)));
    anchors.extend(others.into_iter().take(count));
    anchors
}

/// Compares the finalists on up to `examples` examples and returns the place of the start and the number of examples it
/// was chosen on.
///
/// Anchors are compared by their means, reuse first among equals. A searched point has been chosen among many on the same
/// examples, so it has to beat every anchor by some standard errors of the paired differences; else the best anchor is
/// it. An anchor that was dropped early and is not beaten on what it was measured on is measured in full; so is reuse
/// unless it is beaten clearly.
pub(super) fn choose(
    race: &mut Race<'_>,
    origins: &[StartOrigin],
    finalists: &[usize],
    examples: usize,
    options: &StartOptions,
) -> Result<(usize, usize)> {
    race.run(finalists, examples)?;
    for place in race.racing(finalists) {
        race.complete(place, (BELIEVED_AFTER * options.first_look).min(examples))?;
    }
    let seen = |places: Vec<usize>| places.into_iter().map(|place| race.candidates[place].losses.len());
    // Whoever is lowest at a look is not dropped there, so that one is left unless losses stopped being finite.
    let finite = (0..origins.len()).filter(|&place| race.candidates[place].standing != Standing::Failed).collect();
    let examples = seen(race.racing(finalists)).min().or_else(|| seen(finite).max()).unwrap_or(0).min(examples);
    let anchors: Vec<usize> = (0..origins.len()).filter(|&place| origins[place].is_anchor()).collect();
    let mut only_anchors = false;
    loop {
        let winner = lowest(race, |place| !only_anchors || origins[place].is_anchor(), examples)?;
        let required = (!origins[winner].is_anchor()).then_some(options.required_deviations);
        let unbeaten: Vec<usize> = anchors
            .iter()
            .copied()
            .filter(|&anchor| anchor != winner && race.candidates[anchor].standing != Standing::Failed)
            .filter(|&anchor| !beats(race, winner, anchor, examples, required))
            .collect();
        if let Some(&short) = unbeaten.iter().find(|&&anchor| race.candidates[anchor].losses.len() < examples) {
            race.complete(short, examples)?;
        } else if !unbeaten.is_empty() && !only_anchors {
            only_anchors = true;
        } else {
            return Ok((winner, examples));
        }
    }
}

/// The first of the lowest among the allowed that have seen all examples.
fn lowest(race: &Race<'_>, allowed: impl Fn(usize) -> bool, examples: usize) -> Result<usize> {
    let best = race.lowest_of((0..race.candidates.len()).filter(|&place| allowed(place)), examples);
    best.map(|(place, _)| place).ok_or_else(|| LoraError::NotFinite {
        tensor: "validation loss".into(),
        message: "no candidate kept a finite one; look at the validation data".into(),
    })
}

/// Times the examples of a first look that a winner is measured on at least: the best of many on the same few looks better
/// than it is.
const BELIEVED_AFTER: usize = 4;

/// The place of (1, 0), which is tried first.
const REUSE: usize = 0;

/// Standard errors by which a searched point has to beat reuse where that was dropped before it had seen all examples:
/// among many points some look good on few of them, and reuse is the one that is known to work.
const CLEAR: f64 = 4.0;

/// Whether a candidate stands up to an anchor on what both have seen: by so many standard errors, or, without them, by
/// not being worse.
fn beats(race: &Race<'_>, winner: usize, anchor: usize, examples: usize, required: Option<f64>) -> bool {
    let seen = race.candidates[anchor].losses.len().min(examples);
    let [own, other] = [winner, anchor].map(|place| &race.candidates[place].losses[..seen]);
    match required {
        Some(deviations) => {
            let gain = PairedDifference::of(other, own);
            let deviations = if anchor == REUSE && seen < examples { deviations.max(CLEAR) } else { deviations };
            gain.mean > 0.0 && gain.mean > deviations * gain.standard_error
        }
        None => mean(own) <= mean(other),
    }
}
