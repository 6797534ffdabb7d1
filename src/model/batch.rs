//! Ragged batches: the rows of several sequences laid end to end, only those that are needed.

use std::sync::Arc;

use crate::config::BartConfig;
use crate::error::{Error, Result};
use crate::ops::attention::{NoKey, OnCard, Spans};

/// Token rows of several sequences, end to end. A row keeps the position it had in its sequence.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    offsets: Arc<Vec<usize>>,
    visible: Option<Arc<Vec<bool>>>,
}

/// Which positions of a padded rectangle become rows.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Every position: its output was asked for. Masked ones attend, but are not attended to.
    All,
    /// Positions marked here, all whose mask is true among them.
    Only(&'a [bool]),
}

impl Batch {
    /// Rows of a padded rectangle `ids [sequences, width]` with its mask.
    pub fn from_padded(ids: &[u32], mask: &[bool], width: usize, rows: Rows<'_>) -> Self {
        let mut batch = Batch::empty(ids.len());
        let (mut offsets, mut visible) = (vec![0], Vec::with_capacity(ids.len()));
        for (i, (&token, &seen)) in ids.iter().zip(mask).enumerate() {
            let needed = match rows {
                Rows::All => true,
                Rows::Only(rows) => rows[i],
            };
            if needed {
                batch.tokens.push(token);
                batch.positions.push((i % width) as u32);
                visible.push(seen);
            }
            if (i + 1) % width == 0 {
                offsets.push(batch.tokens.len());
            }
        }
        batch.offsets = Arc::new(offsets);
        if visible.iter().any(|seen| !seen) {
            batch.visible = Some(Arc::new(visible));
        }
        batch
    }

    /// Rows of ragged sequences; row `i` of a sequence stands at position `i`, or at the given one.
    pub fn from_sequences<'a>(
        sequences: impl IntoIterator<Item = (&'a [u32], Option<&'a [u32]>)>,
    ) -> Self {
        let mut batch = Batch::empty(0);
        let mut offsets = vec![0];
        for (tokens, positions) in sequences {
            batch.tokens.extend_from_slice(tokens);
            match positions {
                Some(positions) => batch.positions.extend_from_slice(positions),
                None => batch.positions.extend(0..tokens.len() as u32),
            }
            offsets.push(batch.tokens.len());
        }
        batch.offsets = Arc::new(offsets);
        batch
    }

    /// One row a sequence: the next token of each, at the given positions.
    pub fn single_rows(rows: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut batch = Batch::default();
        batch.set_single_rows(rows);
        batch
    }

    /// Becomes [`Self::single_rows`] in the memory it has.
    pub fn set_single_rows(&mut self, rows: impl IntoIterator<Item = (u32, u32)>) {
        self.tokens.clear();
        self.positions.clear();
        for (token, position) in rows {
            self.tokens.push(token);
            self.positions.push(position);
        }
        let offsets = Arc::make_mut(&mut self.offsets);
        offsets.clear();
        offsets.extend(0..=self.tokens.len());
        self.visible = None;
    }

    fn empty(capacity: usize) -> Self {
        Batch {
            tokens: Vec::with_capacity(capacity),
            positions: Vec::with_capacity(capacity),
            offsets: Arc::default(),
            visible: None,
        }
    }

    /// Checks every id and position against the model's tables.
    ///
    /// # Errors
    /// [`Error::Argument`] for `name`.
    pub fn check(&self, name: &str, config: &BartConfig) -> Result<()> {
        let vocabulary = config.vocab_size;
        if let Some(&token) = self.tokens.iter().find(|&&token| token as usize >= vocabulary) {
            let message = format!("token ids must be 0 to {}, received {token}", vocabulary - 1);
            return Err(Error::argument(name, message));
        }
        let places = config.max_position_embeddings;
        if let Some(place) = self.positions.iter().find(|&&place| place as usize >= places) {
            let message = format!(
                "the model has {places} positions, received a token at position {place}\n\
                 hint: truncate the sequence to {places} tokens"
            );
            return Err(Error::argument(name, message));
        }
        Ok(())
    }

    /// The token of each row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The position of each row in its sequence.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Borders of the sequences: one more than there are sequences.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Which rows of this batch see which rows of `keys` (the same batch, or the source's).
    pub fn attending_to(&self, keys: &Batch, causal: bool, no_key: NoKey) -> Spans {
        Spans {
            queries: self.offsets.clone(),
            keys: keys.offsets.clone(),
            visible: keys.visible.clone(),
            causal,
            no_key,
            on_card: OnCard::default(),
        }
    }
}
