//! How a card chooses, and goes on with what it has chosen while the host hears of it.

use super::super::model::{Scores, StepRow, Wanted};
use super::BartDecoder;
use crate::error::Result;
use crate::model::steps::Key;
use crate::model::{Leaves, Left, Passed, Steps};
use crate::ops::choices::UNKNOWN;
use crate::ops::head::{Ask, most_found};
use crate::ops::recording::Output;

/// A step that a card is at.
#[derive(Debug)]
pub(super) struct Ahead {
    rows: Vec<StepRow>,
    /// The slots whose histories they continue; none: their own.
    origins: Vec<usize>,
    leaves: Leaves,
    passed: Output<Passed>,
}

impl Ahead {
    /// Which of its rows are `rows`, whose slots continue others' histories by `moves`: some may have ended.
    /// `None` if there are others.
    fn rows_of(&self, rows: &[StepRow], moves: &[(usize, usize)]) -> Option<Vec<u32>> {
        let origin_of = |slot| moves.iter().find(|(to, _)| *to == slot).map_or(slot, |&(_, of)| of);
        let mut mine = self.rows.iter().enumerate();
        let mut place = |row: &StepRow| {
            let is_it = |place: usize, mine: &StepRow| {
                let origin = self.origins.get(place).copied().unwrap_or(row.slot);
                mine == row && origin == origin_of(row.slot)
            };
            mine.find(|(place, mine)| is_it(*place, mine)).map(|(place, _)| place as u32)
        };
        rows.iter().map(&mut place).collect()
    }
}

/// What steps leave of which this is wanted: of few kinds, so that few are recorded.
fn leaves(steps: &mut Steps, wanted: Wanted) -> Leaves {
    match wanted {
        Wanted::All => Leaves::Nothing,
        Wanted::Chosen => Leaves::Scores,
        Wanted::Best { ask, limit } => {
            let rounded = ask.count.next_power_of_two().min(most_found(limit));
            steps.candidates = steps.candidates.max(rounded);
            Leaves::Best { limit, count: steps.candidates.max(ask.count) }
        }
    }
}

impl BartDecoder {
    /// Feeds rows that the card has not gone on with.
    pub(super) fn feed_further(&mut self, rows: &[StepRow], wanted: Wanted) -> Result<()> {
        self.ahead = None;
        self.rows.set_single_rows(rows.iter().map(|row| (row.token, row.position as u32)));
        let leaves = self.steps.as_mut().map(|steps| leaves(steps, wanted));
        self.feed(rows.iter().map(|row| row.slot), leaves.or(Some(Leaves::Nothing)))
    }

    /// Has the hidden states of the last step, which was of `rows`, also where the card has gone on.
    pub(super) fn feed_again(&mut self, rows: &[StepRow]) -> Result<()> {
        if self.ahead.is_none() {
            return Ok(());
        }
        if let Some(steps) = &mut self.steps {
            rows.iter().for_each(|row| steps.cache.rewind(row.slot, row.position));
        }
        self.feed_further(rows, Wanted::All)
    }

    /// Takes the step after `rows`, if the card has gone on with them; whether it has.
    pub(super) fn take_ahead(&mut self, rows: &[StepRow], wanted: Wanted) -> bool {
        let (Some(ahead), Some(steps)) = (self.ahead.take(), &mut self.steps) else {
            return false;
        };
        let Some(from) = ahead.rows_of(rows, &self.moves) else { return false };
        if ahead.leaves != leaves(steps, wanted) {
            return false;
        }
        let Steps { cache, places, .. } = steps;
        cache.place(rows.iter().map(|row| row.slot), places);
        cache.advance(places);
        places.have_continued(cache);
        self.passed = Some(ahead.passed);
        self.wanted = from;
        true
    }

    /// Has a card choose after `rows`, which were fed, and go on; whether it does.
    pub(super) fn choose(&mut self, rows: &[StepRow], scores: &mut Scores) -> Result<bool> {
        if !self.passed.as_deref().is_some_and(|p| matches!(p.left, Left::Scores(_))) {
            return Ok(false);
        }
        let from = self.counting(rows.len());
        let next = self.next(rows, Leaves::Scores)?;
        let (Some(Passed { left: Left::Scores(all), .. }), Some(steps)) =
            (self.passed.as_deref(), &mut self.steps)
        else {
            return Ok(false);
        };
        let Steps { chooser, places, recordings, .. } = steps;
        let inputs = next.map(|_| places.inputs());
        let Some(choosing) = chooser.choose(all, &from, &self.choices, inputs)? else {
            return Ok(false);
        };
        let passed = next.map(|key| recordings.again(&key)).transpose()?.flatten();
        let chosen = scores.chosen_mut();
        choosing.wait(chosen)?;
        let tokens = chosen.iter().map(|chosen| chosen.token);
        self.ahead = passed.map(|passed| Ahead {
            rows: after(rows, tokens),
            origins: Vec::new(),
            leaves: Leaves::Scores,
            passed,
        });
        Ok(true)
    }

    /// Leaves the best that a card has found after `rows`, which were fed; it goes on meanwhile with what beams
    /// likely become. Whether they are there.
    pub(super) fn find(
        &mut self,
        rows: &[StepRow],
        (wanted, ask): (Wanted, Ask),
        scores: &mut Scores,
    ) -> Result<bool> {
        let has_found = self.passed.as_deref().is_some_and(|p| matches!(p.left, Left::Best(_)));
        let (true, Wanted::Best { limit, .. }, Some(steps)) = (has_found, wanted, &mut self.steps)
        else {
            return Ok(false);
        };
        let leaves = leaves(steps, wanted);
        let from = self.counting(rows.len());
        let goes_on = self.expects && self.beams.are_continued(limit);
        let next = if goes_on { self.next(rows, leaves)? } else { None };
        let (Some(Passed { left: Left::Best(found), .. }), Some(steps)) =
            (self.passed.as_deref(), &mut self.steps)
        else {
            return Ok(false);
        };
        let Steps { chooser, places, recordings, .. } = steps;
        if next.is_some() {
            chooser.continue_beams(found, &from, &self.beams, places.inputs_mut())?;
        }
        let arriving = found.fetch(next.is_some())?;
        let passed = next.map(|key| recordings.again(&key)).transpose()?.flatten();
        let arrived = arriving.wait(&from, ask, scores.best_mut())?;
        let continued = arrived.as_deref().unwrap_or_default();
        let beams = self.beams.count.max(1);
        let origins = continued.iter().take(rows.len()).enumerate();
        let origins = origins.map(|(i, [_, beam])| rows[i / beams * beams + *beam as usize].slot);
        self.ahead = passed.map(|passed| Ahead {
            origins: origins.collect(),
            rows: after(rows, continued.iter().map(|[token, _]| *token)),
            leaves,
            passed,
        });
        Ok(arrived.is_some())
    }

    /// Has the card know of the step after that of `rows`, all but the tokens that are not given; the key under which it was recorded,
    /// or `None` if the card cannot go on with it.
    fn next(&mut self, rows: &[StepRow], leaves: Leaves) -> Result<Option<Key>> {
        let Some(Steps { cache, places, recordings, .. }) = &mut self.steps else {
            return Ok(None);
        };
        let given = match leaves {
            Leaves::Scores => &self.choices.given[..],
            _ => &[],
        };
        let given = |i| given.get(i).copied().filter(|&token| token != UNKNOWN).unwrap_or(0);
        let after = |(i, row): (usize, &StepRow)| (given(i), row.position as u32 + 1);
        self.rows.set_single_rows(rows.iter().enumerate().map(after));
        cache.place(rows.iter().map(|row| row.slot), places);
        let is_there = self.rows.check("decoder_token_ids", self.model.config()).is_ok();
        if !is_there || !cache.takes(places) {
            return Ok(None);
        }
        if places.bring_to(self.model.place(), &self.rows, cache, true)? {
            recordings.forget();
        }
        let key = (places.inputs().rows().unwrap_or(0), leaves);
        Ok(recordings.has(&key).then_some(key))
    }
}

/// The rows after `rows` with these tokens.
fn after(rows: &[StepRow], tokens: impl Iterator<Item = u32>) -> Vec<StepRow> {
    let next =
        |(row, token): (&StepRow, u32)| StepRow { token, position: row.position + 1, ..*row };
    rows.iter().zip(tokens).map(next).collect()
}
