//! Tokens that the rules of a call only rule out, gathered before a pass: then the best of the others
//! are known from the best of all, and nobody needs every score.

use super::constraints::Context;
use super::model::Wanted;
use super::options::Options;
use crate::ops::head::Ask;

/// More of the best than these are not asked for: finding them would cost what all scores cost.
const MOST_CANDIDATES: usize = 128;

/// What is ruled out after each row of a pass.
#[derive(Debug, Default)]
pub(super) struct RuledOut {
    ids: Vec<u32>,
    ends: Vec<usize>,
}

impl RuledOut {
    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.ends.clear();
    }

    /// Adds a row; `false` where the rules do more than rule out.
    pub fn push(&mut self, options: &Options, context: &Context<'_>) -> bool {
        let ids = &mut self.ids;
        let only = options.rules_out(context, &mut |id| ids.push(id));
        self.ends.push(ids.len());
        only
    }

    /// Adds a row after which nothing is chosen, or nothing ruled out.
    pub fn push_none(&mut self) {
        self.ends.push(self.ids.len());
    }

    /// What is ruled out after a row.
    pub fn row(&self, row: usize) -> &[u32] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.ids[start..self.ends[row]]
    }

    /// Leaves what is ruled out after all rows, row after row, and where each row's ends.
    pub fn copy_to(&self, ids: &mut Vec<u32>, ends: &mut Vec<u32>) {
        ids.clone_from(&self.ids);
        ends.clear();
        ends.extend(self.ends.iter().map(|&end| end as u32));
    }

    /// Whether nothing is ruled out after any row.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// What to ask for where `candidates` tokens, all of them allowed and below `limit`, are chosen
    /// among.
    pub fn wanted(&self, candidates: usize, limit: usize, log_sum: bool) -> Wanted {
        let most = (0..self.ends.len()).map(|row| self.row(row).len()).max().unwrap_or(0);
        let count = candidates.saturating_add(most);
        if count > MOST_CANDIDATES.min(limit) {
            return Wanted::All;
        }
        Wanted::Best { ask: Ask { count, log_sum }, limit }
    }
}
