//! What the kernels of a card read of a decoding step: tokens and positions of its rows, and their places in
//! the caches, in the same memory for every step, so that a step can be recorded. Without cards it is empty.

use candle_core::Result;

use super::kv_store::CachedRow;
use super::place::Place;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::Card;

/// The inputs of a step; see above.
#[derive(Debug, Default)]
pub struct StepInputs {
    #[cfg(feature = "cuda")]
    on_card: Option<OnCard>,
}

/// The rows of a step: their tokens and positions, and what they see of targets and sources.
#[derive(Debug, Clone, Copy)]
pub struct StepRows<'a> {
    /// A token each.
    pub tokens: &'a [u32],
    /// Its position in its sequence.
    pub positions: &'a [u32],
    /// What they see of their own sequences.
    pub target: &'a [CachedRow],
    /// What they see of their sources.
    pub source: &'a [CachedRow],
    /// Where the entries of their own sequences are.
    pub origins: &'a Origins,
}

/// Which slot has each entry of a slot's history: on a card, where slots continue each other's histories, the
/// entries stay where they were stored.
#[derive(Debug, Default)]
pub struct Origins {
    slots: usize,
    /// `[capacity, slots]`
    of: Vec<u32>,
    /// Entries of the longest history there ever was.
    length: usize,
    /// How often it changed other than by new entries, of which the card knows.
    changes: usize,
    /// Those before a change, for the memory they have.
    before: Vec<u32>,
}

impl Origins {
    /// Of slots whose histories are empty.
    pub fn new(slots: usize, capacity: usize) -> Self {
        Origins { slots, of: vec![0; slots * capacity], ..Self::default() }
    }

    /// Of all entries up to the last that is stored.
    pub fn used(&self) -> &[u32] {
        &self.of[..self.slots * self.length]
    }

    /// Counts rows that were stored: each is where its slot is.
    pub fn store(&mut self, rows: &[CachedRow]) {
        for row in rows {
            self.of[(row.length - 1) * self.slots + row.slot] = row.slot as u32;
            self.length = self.length.max(row.length);
        }
    }

    /// For each (destination, origin): the destination continues the origin's history; all at once.
    pub fn reorder(&mut self, moves: &[(usize, usize)]) {
        for entry in self.of.chunks_exact_mut(self.slots.max(1)).take(self.length) {
            self.before.clear();
            self.before.extend_from_slice(entry);
            for &(destination, origin) in moves {
                entry[destination] = self.before[origin];
            }
        }
        self.changes += 1;
    }
}

impl StepInputs {
    /// Takes the rows of the next step at a place; whether something lies elsewhere since. With `fill_up` the
    /// last row is repeated, so that there are few numbers of rows.
    ///
    /// # Errors
    /// What the device reports.
    pub fn set(&mut self, place: &Place, rows: StepRows<'_>, fill_up: bool) -> Result<bool> {
        #[cfg(feature = "cuda")]
        if place.device().is_cuda() {
            return self.set_on_card(Card::of(place.device())?, rows, fill_up);
        }
        let (_, _, _) = (place, rows, fill_up);
        Ok(false)
    }

    /// Says that a card knows where the entries of histories are, though it was not told.
    pub fn know(&mut self, origins: &Origins) {
        #[cfg(feature = "cuda")]
        if let Some(mine) = &mut self.on_card {
            mine.know(origins);
        }
        let _ = origins;
    }

    /// How many rows a step has, with those that fill it up, where a card has it.
    pub fn rows(&self) -> Option<usize> {
        #[cfg(feature = "cuda")]
        return self.on_card().map(|mine| mine.tokens().count);
        #[cfg(not(feature = "cuda"))]
        None
    }
}

/// A number of rows that steps of `rows` rows are filled up to: few of these numbers are recorded, and at most a
/// third of the work is in vain.
#[cfg(any(feature = "cuda", test))]
fn filled_up(rows: usize) -> usize {
    let whole = rows.next_power_of_two();
    match rows {
        0..=4 => rows,
        _ if rows <= whole / 4 * 3 => whole / 4 * 3,
        _ => whole,
    }
}

#[cfg(feature = "cuda")]
mod on_card {
    use std::sync::Arc;

    use super::{Origins, Result, StepInputs, StepRows, filled_up};
    use crate::kernels::cuda::{Card, CardNumbers, NextRows, Numbers, pairs};

    /// The inputs on a card.
    #[derive(Debug)]
    pub struct OnCard {
        card: Arc<Card>,
        rows: usize,
        /// Tokens, positions, places of the target and of the source: six numbers a row.
        numbers: CardNumbers,
        origins: CardNumbers,
        /// Which of their changes the card knows; `None` if it has made some of its own.
        changes: Option<usize>,
        slots: usize,
    }

    impl StepInputs {
        pub(super) fn set_on_card(
            &mut self,
            card: Arc<Card>,
            rows: StepRows<'_>,
            fill_up: bool,
        ) -> Result<bool> {
            let count = rows.tokens.len();
            let count = if fill_up { filled_up(count) } else { count };
            let (numbers, origins) = (numbers_of(rows, count), rows.origins);
            let of = &origins.of;
            let Some(mine) =
                self.on_card.as_mut().filter(|mine| mine.origins.all().count == of.len())
            else {
                self.on_card = Some(OnCard {
                    rows: count,
                    numbers: CardNumbers::new(&card, &numbers, ROOM)?,
                    origins: CardNumbers::new(&card, of, 0)?,
                    changes: Some(origins.changes),
                    slots: origins.slots,
                    card,
                });
                return Ok(true);
            };
            mine.rows = count;
            if mine.changes != Some(origins.changes) {
                mine.origins.replace(origins.used())?;
                mine.changes = Some(origins.changes);
            }
            mine.numbers.set(&numbers)
        }

        /// The inputs on a card, for it to change them.
        pub fn on_card_mut(&mut self) -> Option<&mut OnCard> {
            self.on_card.as_mut()
        }

        /// The inputs on a card, if they are there.
        pub fn on_card(&self) -> Option<&OnCard> {
            self.on_card.as_ref()
        }
    }

    /// Numbers that there is room for at least.
    const ROOM: usize = 1024;

    /// In one copy: tokens, positions, places of the target and of the source, filled up to `count` rows.
    fn numbers_of(rows: StepRows<'_>, count: usize) -> Vec<u32> {
        fn fill<const N: usize>(numbers: &mut Vec<u32>, of_rows: &[[u32; N]], count: usize) {
            numbers.extend(of_rows.as_flattened());
            let last = of_rows.last().copied().into_iter();
            numbers.extend(last.cycle().take(count - of_rows.len()).flatten());
        }
        let mut numbers = Vec::with_capacity(6 * count);
        for of_rows in [rows.tokens, rows.positions] {
            fill(&mut numbers, of_rows.as_chunks::<1>().0, count);
        }
        for places in [rows.target, rows.source] {
            fill(&mut numbers, pairs(places).as_chunks::<2>().0, count);
        }
        numbers
    }

    impl OnCard {
        /// The card.
        pub fn card(&self) -> &Arc<Card> {
            &self.card
        }

        /// What the card changes where it continues beams; of their origins then it knows more than the host.
        pub fn continued(&mut self) -> NextRows {
            self.changes = None;
            NextRows {
                tokens: self.tokens(),
                target: self.target(),
                origins: self.origins(),
                slots: self.slots,
            }
        }

        pub(super) fn know(&mut self, origins: &Origins) {
            self.changes = Some(origins.changes);
        }

        /// A token each.
        pub fn tokens(&self) -> Numbers {
            self.numbers.part(0, self.rows)
        }

        /// Their positions.
        pub fn positions(&self) -> Numbers {
            self.numbers.part(self.rows, self.rows)
        }

        /// What they see of their own sequences.
        pub fn target(&self) -> Numbers {
            self.numbers.part(2 * self.rows, 2 * self.rows)
        }

        /// What they see of their sources.
        pub fn source(&self) -> Numbers {
            self.numbers.part(4 * self.rows, 2 * self.rows)
        }

        /// Where the entries of their own sequences are.
        pub fn origins(&self) -> Numbers {
            self.origins.all()
        }
    }
}
#[cfg(feature = "cuda")]
pub use on_card::OnCard;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_filled_up_to_few_numbers_of_rows() {
        for (rows, expected) in
            [(0, 0), (1, 1), (3, 3), (4, 4), (5, 6), (6, 6), (7, 8), (12, 12), (13, 16), (33, 48)]
        {
            assert_eq!(filled_up(rows), expected, "{rows}");
        }
        for rows in 1..300 {
            assert!(filled_up(rows) >= rows && 2 * filled_up(rows) <= 3 * rows, "{rows}");
        }
    }

    /// Beside histories that are copied: what a slot's entries are found to be.
    #[test]
    fn origins_find_what_copies_would_have() {
        let mut entries = vec![[0; 4]; 6];
        let mut copied: Vec<Vec<u32>> = vec![Vec::new(); 4];
        let mut origins = Origins::new(4, 6);
        for (step, moves) in [
            vec![(0, 1), (1, 0), (3, 2)],
            vec![],
            vec![(0, 3), (1, 3), (2, 3), (3, 3)],
            vec![(2, 0), (0, 2)],
            vec![(1, 0)],
        ]
        .into_iter()
        .enumerate()
        {
            let rows = [0, 1, 2, 3].map(|slot| CachedRow { slot, length: step + 1 });
            origins.store(&rows);
            for (slot, history) in copied.iter_mut().enumerate() {
                entries[step][slot] = (10 * step + slot) as u32;
                history.push(entries[step][slot]);
            }
            origins.reorder(&moves);
            let before = copied.clone();
            moves.iter().for_each(|&(to, from)| copied[to].clone_from(&before[from]));
            assert_eq!(origins.used().len(), 4 * (step + 1));
            for (slot, history) in copied.iter().enumerate() {
                let found = origins.used().iter().skip(slot).step_by(4).zip(&entries);
                let found: Vec<u32> = found.map(|(&of, entry)| entry[of as usize]).collect();
                assert_eq!(&found, history, "slot {slot} after step {step}");
            }
        }
    }
}
