//! How a card chooses, and goes on with what it has chosen while the host hears of it.

use super::super::model::{Scores, StepRow, Wanted};
use super::BartDecoder;
use crate::error::Result;
use crate::model::steps::Key;
use crate::model::{Leaves, Left, Passed, Steps};
use crate::ops::head::most_found;
use crate::ops::recording::Output;

/// A step that a card is at.
#[derive(Debug)]
pub(super) struct Ahead {
    rows: Vec<StepRow>,
    passed: Output<Passed>,
}

impl Ahead {
    /// Which of its rows are `rows`: some may have ended. `None` if there are others.
    fn rows_of(&self, rows: &[StepRow]) -> Option<Vec<u32>> {
        let mut mine = (0..).zip(&self.rows);
        let mut place = |row: &StepRow| mine.find(|(_, mine)| *mine == row).map(|(place, _)| place);
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

    /// Takes the step after `rows`, if the card has gone on with them; whether it has.
    pub(super) fn take_ahead(&mut self, rows: &[StepRow]) -> bool {
        let Some(ahead) = self.ahead.take() else { return false };
        let (Some(from), Some(steps)) = (ahead.rows_of(rows), &mut self.steps) else {
            return false;
        };
        let Steps { cache, places, .. } = steps;
        cache.place(rows.iter().map(|row| row.slot), places);
        cache.advance(places);
        self.passed = Some(ahead.passed);
        self.wanted = from;
        true
    }

    /// Has a card choose after `rows`, which were fed, and go on; whether it does.
    pub(super) fn choose(&mut self, rows: &[StepRow], scores: &mut Scores) -> Result<bool> {
        let from = self.wanted(rows.len());
        let next = self.next(rows)?;
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
        self.ahead = passed.map(|passed| {
            let next = |(row, token): (&StepRow, u32)| StepRow {
                token,
                position: row.position + 1,
                ..*row
            };
            let tokens = chosen.iter().map(|chosen| chosen.token);
            Ahead { rows: rows.iter().zip(tokens).map(next).collect(), passed }
        });
        Ok(true)
    }

    /// Has the card know of the step after that of `rows`, all but its tokens; the key under which it was recorded,
    /// or `None` if the card cannot go on with it.
    fn next(&mut self, rows: &[StepRow]) -> Result<Option<Key>> {
        let Some(Steps { cache, places, recordings, .. }) = &mut self.steps else {
            return Ok(None);
        };
        self.rows.set_single_rows(rows.iter().map(|row| (0, row.position as u32 + 1)));
        cache.place(rows.iter().map(|row| row.slot), places);
        let is_there = self.rows.check("decoder_token_ids", self.model.config()).is_ok();
        if !is_there || !cache.takes(places) {
            return Ok(None);
        }
        if places.bring_to(self.model.place(), &self.rows, cache, true)? {
            recordings.forget();
        }
        let key = (places.inputs().rows().unwrap_or(0), Leaves::Scores);
        Ok(recordings.has(&key).then_some(key))
    }
}
