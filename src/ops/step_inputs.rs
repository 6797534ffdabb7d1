//! What the kernels of a card read of a decoding step: tokens and positions of its rows, and their places in
//! the caches, in the same memory for every step, so that a step can be recorded. Without cards it is empty.

use candle_core::Result;

use super::kv_store::CachedRow;
use super::place::Place;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{Card, CardNumbers, pairs};

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
}

impl StepInputs {
    /// Takes the rows of the next step at a place; whether something lies elsewhere since.
    ///
    /// # Errors
    /// What the device reports.
    pub fn set(&mut self, place: &Place, rows: StepRows<'_>) -> Result<bool> {
        #[cfg(feature = "cuda")]
        if place.device().is_cuda() {
            return self.set_on_card(Card::of(place.device())?, rows);
        }
        let (_, _) = (place, rows);
        Ok(false)
    }
}

#[cfg(feature = "cuda")]
mod on_card {
    use std::sync::Arc;

    use super::{Card, CardNumbers, Result, StepInputs, StepRows, pairs};

    /// The inputs on a card.
    #[derive(Debug)]
    pub struct OnCard {
        card: Arc<Card>,
        /// Tokens, positions, places of the target and of the source.
        numbers: [CardNumbers; 4],
    }

    impl StepInputs {
        pub(super) fn set_on_card(&mut self, card: Arc<Card>, rows: StepRows<'_>) -> Result<bool> {
            let (target, source) = (pairs(rows.target), pairs(rows.source));
            let all = [rows.tokens, rows.positions, &target, &source];
            let Some(mine) = &mut self.on_card else {
                let [a, b, c, d] = all.map(|values| CardNumbers::new(&card, values));
                self.on_card = Some(OnCard { card, numbers: [a?, b?, c?, d?] });
                return Ok(true);
            };
            let mut moved = false;
            for (numbers, values) in mine.numbers.iter_mut().zip(all) {
                moved |= numbers.set(&card, values)?;
            }
            Ok(moved)
        }

        /// The inputs on a card, if they are there.
        pub fn on_card(&self) -> Option<&OnCard> {
            self.on_card.as_ref()
        }
    }

    impl OnCard {
        /// The card.
        pub fn card(&self) -> &Arc<Card> {
            &self.card
        }

        /// A token each.
        pub fn tokens(&self) -> &CardNumbers {
            &self.numbers[0]
        }

        /// Their positions.
        pub fn positions(&self) -> &CardNumbers {
            &self.numbers[1]
        }

        /// What they see of their own sequences.
        pub fn target(&self) -> &CardNumbers {
            &self.numbers[2]
        }

        /// What they see of their sources.
        pub fn source(&self) -> &CardNumbers {
            &self.numbers[3]
        }
    }
}
#[cfg(feature = "cuda")]
pub use on_card::OnCard;
