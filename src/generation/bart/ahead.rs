//! How a card goes on with what is likely chosen while the host chooses: when the host has chosen, what comes
//! after it is there. Where it chose otherwise, the step is done again.

use super::super::model::{Scores, StepRow, Wanted};
use super::BartDecoder;
use crate::error::Result;
use crate::model::steps::Key;
use crate::model::{Passed, Steps};
use crate::ops::head::{Arrived, Ask, most_found};
use crate::ops::likely::UNKNOWN;
use crate::ops::recording::Output;

/// A step that a card is at, whose tokens the host has yet to choose.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Slots and positions of its rows.
    rows: Vec<(usize, usize)>,
    /// Below which id how many of the best it finds.
    found: (usize, usize),
    passed: Output<Passed>,
}

impl Ahead {
    /// Which of its rows are `rows`: some may have ended. `None` if there are others, or more is wanted.
    fn rows_of(&self, rows: &[StepRow], (limit, ask): (usize, Ask)) -> Option<Vec<u32>> {
        if limit != self.found.0 || ask.count > self.found.1 {
            return None;
        }
        let mut mine = (0..).zip(&self.rows);
        let mut place = |row: &StepRow| {
            mine.find(|(_, mine)| **mine == (row.slot, row.position)).map(|(place, _)| place)
        };
        rows.iter().map(&mut place).collect()
    }
}

/// What steps find by themselves where this is wanted: of few kinds, so that few are recorded.
pub(super) fn found(steps: &mut Steps, wanted: Wanted) -> Option<(usize, usize)> {
    let Wanted::Best { ask, limit } = wanted else { return None };
    let rounded = ask.count.next_power_of_two().min(most_found(limit));
    steps.candidates = steps.candidates.max(rounded);
    Some((limit, steps.candidates.max(ask.count)))
}

impl BartDecoder {
    /// Feeds rows that the host has chosen.
    pub(super) fn feed_further(&mut self, rows: &[StepRow], wanted: Wanted) -> Result<()> {
        self.rows.set_single_rows(rows.iter().map(|row| (row.token, row.position as u32)));
        self.feed(rows.iter().map(|row| row.slot), Some(wanted))
    }

    /// Leaves what is wanted after `rows`, if the card has gone on with them; whether it has.
    pub(super) fn take_ahead(
        &mut self,
        rows: &[StepRow],
        wanted: Wanted,
        scores: &mut Scores,
    ) -> Result<bool> {
        let (Some(ahead), Wanted::Best { ask, limit }) = (self.ahead.take(), wanted) else {
            return Ok(false);
        };
        let Some(from) = ahead.rows_of(rows, (limit, ask)) else { return Ok(false) };
        if let Some(Steps { cache, places, .. }) = &mut self.steps {
            cache.place(rows.iter().map(|row| row.slot), places);
            cache.advance(places);
        }
        self.passed = Some(ahead.passed);
        self.wanted.clone_from(&from);
        let arrived = self.finish_from(&from, rows, (limit, ask), scores)?;
        if arrived != Arrived::Best {
            self.undo(rows);
        }
        Ok(arrived == Arrived::Best)
    }

    /// Leaves what is wanted after `rows`, which were fed, if a card has found it.
    pub(super) fn finish(
        &mut self,
        rows: &[StepRow],
        wanted: Wanted,
        scores: &mut Scores,
    ) -> Result<bool> {
        let Wanted::Best { ask, limit } = wanted else { return Ok(false) };
        if !self.has_found() {
            return Ok(false);
        }
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        let arrived = self.finish_from(&all, rows, (limit, ask), scores)?;
        if arrived != Arrived::Best {
            self.feed_again(rows, wanted)?;
        }
        Ok(arrived == Arrived::Best)
    }

    /// Has the hidden states of the last step, which were of `rows`, also where the card has gone on.
    pub(super) fn feed_again(&mut self, rows: &[StepRow], wanted: Wanted) -> Result<()> {
        if self.ahead.is_some() {
            self.undo(rows);
            self.feed_further(rows, wanted)?;
        }
        Ok(())
    }

    /// Forgets the last step, and what the card went on with.
    fn undo(&mut self, rows: &[StepRow]) {
        self.ahead = None;
        if let Some(steps) = &mut self.steps {
            rows.iter().for_each(|row| steps.cache.rewind(row.slot, row.position));
        }
    }

    /// Whether the last step has found the best scores by itself.
    fn has_found(&self) -> bool {
        self.passed.as_deref().is_some_and(|passed| passed.found.is_some())
    }

    /// Waits for what a card has found after its rows `from`, which are `rows`, once it knows what to do then.
    fn finish_from(
        &mut self,
        from: &[u32],
        rows: &[StepRow],
        (limit, ask): (usize, Ask),
        scores: &mut Scores,
    ) -> Result<Arrived> {
        let next = self.next(from, rows, limit)?;
        let (Some(Passed { found: Some(found), .. }), Some(steps)) =
            (self.passed.as_deref(), &self.steps)
        else {
            return Ok(Arrived::NotAll);
        };
        let arriving = found.fetch()?;
        if let Some(key) = next {
            found.follow(steps.places.inputs(), rows.len(), &self.likely)?;
            let rows = rows.iter().map(|row| (row.slot, row.position + 1)).collect();
            let passed = steps.recordings.again(&key)?;
            let found = (limit, steps.candidates);
            self.ahead = passed.map(|passed| Ahead { rows, found, passed });
        }
        let tokens: Vec<u32> = rows.iter().map(|row| row.token).collect();
        Ok(arriving.wait(from, &tokens, ask, scores.best_mut())?)
    }

    /// Has the card know of the step after this one, which was recorded under the key that is returned; `None`
    /// if it shall not go on.
    fn next(&mut self, from: &[u32], rows: &[StepRow], limit: usize) -> Result<Option<Key>> {
        let is_expected = self.expects && self.likely.given.len() == rows.len();
        let is_wanted = self.has_found() && is_expected;
        let (true, Some(steps)) = (is_wanted, &mut self.steps) else { return Ok(None) };
        // Of the others the tokens are not known.
        let given = self.likely.given.iter().map(|&token| if token == UNKNOWN { 0 } else { token });
        let positions = rows.iter().map(|row| row.position as u32 + 1);
        self.rows.set_single_rows(given.zip(positions));
        if self.rows.check("decoder_token_ids", self.model.config()).is_err() {
            return Ok(None);
        }
        let Steps { cache, places, .. } = &mut *steps;
        cache.place(rows.iter().map(|row| row.slot), places);
        if !places.bring_likely(&self.rows, cache, from, &self.likely)? {
            return Ok(None);
        }
        let count = places.inputs().rows().unwrap_or(0);
        let key = (count, Some((limit, steps.candidates)));
        Ok(steps.recordings.has(&key).then_some(key))
    }
}
