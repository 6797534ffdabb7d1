//! What the steps of a generation need, and what a card has recorded of them. A card records steps once for many
//! generations: each next one decodes in the memory of the one before, if that is large enough.

use super::backbone::BartModel;
use super::batch::Batch;
use super::cache::{CachedRows, DecoderCache, Room};
use super::parameter::changes_of_additions;
use crate::error::Result;
use crate::ops::choices::Chooser;
use crate::ops::head::Found;
use crate::ops::hidden::{self, Hidden};
use crate::ops::recording::Recordings;
use crate::ops::{Way, way};

/// Caches larger than this are not kept for the next generation.
const MOST_KEPT_BYTES: usize = 1 << 30;

/// The steps of a generation.
#[derive(Debug)]
pub struct Steps {
    /// What is remembered of the tokens so far.
    pub cache: DecoderCache,
    /// Where the rows of a step stand.
    pub places: CachedRows,
    /// What a card repeats.
    pub recordings: Recordings<Key, Passed>,
    /// How many of the best scores recorded steps find.
    pub candidates: usize,
    /// What a card chooses by.
    pub chooser: Chooser,
    /// Which additions to weights the recordings have.
    additions: u64,
}

/// Steps with one key are alike: the number of rows, and what they leave.
pub type Key = (usize, Leaves);

/// What a step is to leave beside hidden states, where a card computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaves {
    /// Nothing.
    Nothing,
    /// All scores, for the card to choose by.
    Scores,
    /// So many of the best of the first so many scores.
    Best {
        /// Tokens from here on do not count.
        limit: usize,
        /// How many.
        count: usize,
    },
}

/// What a step gives.
#[derive(Debug)]
pub struct Passed {
    /// Of the tokens that were fed, `[rows, width]`.
    pub hidden: Hidden,
    /// What else.
    pub left: Left,
}

/// What a step has left: see [`Leaves`].
#[derive(Debug)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// All scores.
    Scores(Hidden),
    /// The best.
    Best(Found),
}

impl BartModel {
    /// Steps of a generation: one slot for each of `slot_capacities`, slot `i` reading source
    /// `slot_sources[i]`, with the sources' keys and values computed.
    ///
    /// # Errors
    /// What a card reports, memory that runs out among it.
    pub fn start_decoding(
        &self,
        memory: &Hidden,
        source: &Batch,
        slot_capacities: &[usize],
        slot_sources: Vec<usize>,
    ) -> Result<Steps> {
        let lengths: Vec<usize> =
            source.offsets().windows(2).map(|ends| ends[1] - ends[0]).collect();
        let steps = self.place().alone(|| -> Result<_> {
            let kept = self.kept().take().filter(|_| way() == Way::Kernel);
            let format = self.precision().cached();
            let mut room = Room::of(slot_capacities, &lengths, self.place(), true);
            if room.bytes(self.config(), format) > MOST_KEPT_BYTES {
                room = Room::of(slot_capacities, &lengths, self.place(), false);
            }
            let mut steps = match kept.filter(|kept| kept.cache.has(&room)) {
                Some(kept) => kept,
                None => Steps {
                    cache: DecoderCache::new(self.place(), self.config(), format, room)?,
                    places: CachedRows::default(),
                    recordings: Recordings::default(),
                    candidates: 1,
                    chooser: Chooser::default(),
                    additions: changes_of_additions(),
                },
            };
            steps.cache.begin(slot_sources, lengths);
            steps.candidates = 1;
            steps.recordings.try_again();
            steps.follow_additions();
            self.remember_sources(memory, source, &mut steps.cache)?;
            Ok(steps)
        });
        hidden::trim();
        steps
    }

    /// Takes the steps of a generation that has ended well, for one to come.
    pub fn keep(&self, steps: Steps) {
        let bytes = steps.cache.room().bytes(self.config(), self.precision().cached());
        if steps.cache.is_on_card() && bytes <= MOST_KEPT_BYTES {
            *self.kept() = Some(steps);
        }
    }
}

impl Steps {
    /// Forgets what was recorded if something else is added to weights since; whether that was so.
    pub fn follow_additions(&mut self) -> bool {
        let changed = std::mem::replace(&mut self.additions, changes_of_additions());
        let is_other = changed != self.additions;
        if is_other {
            self.recordings.forget();
        }
        is_other
    }
}
