//! The bridges of a segment, as they are saved: host bridge and root ports.
//!
//! Root ports are restored twice: before the devices behind them are put there, so that these have the bus number that the
//! guest gave, and after it, so that the slots show no more news than they did.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::address::Bdf;
use super::function::SharedFunction;
use super::segment::PciSegment;
use super::state::RestoreError;
use crate::hex::HexBytes;
use crate::sync::{lock, read};

/// By their places on the root bus.
pub type BridgeStates = BTreeMap<String, HexBytes>;

impl PciSegment {
    /// What host bridge and root ports remember.
    pub fn save_bridges(&self) -> BridgeStates {
        let functions = self.all();
        let saved = functions.iter().filter_map(|(bdf, function)| {
            let bytes = lock(function).save_bridge()?;
            Some((bdf.to_string(), HexBytes(bytes)))
        });
        saved.collect()
    }

    /// Puts it back.
    ///
    /// # Errors
    /// Where the saved segment had other bridges.
    pub fn restore_bridges(&self, saved: &BridgeStates) -> Result<(), RestoreError> {
        let here: Vec<_> = self.all().into_iter().filter(|(_, f)| lock(f).save_bridge().is_some()).collect();
        if here.len() != saved.len() {
            return Err(RestoreError::Bridges { saved: saved.len(), here: here.len() });
        }
        for (bdf, shared) in here {
            let state = saved.get(&bdf.to_string());
            let state = state.ok_or(RestoreError::Bridges { saved: saved.len(), here: saved.len() + 1 })?;
            let mut function = lock(&shared);
            function.restore_bridge(&state.0)?;
            let change = function.forwarding().and_then(|now| self.forward(bdf, now));
            // A function behind the port has a lock of its own: never both.
            drop(function);
            if let Some((behind, reset)) = change {
                self.follow(behind, reset);
            }
        }
        Ok(())
    }

    fn all(&self) -> Vec<(Bdf, SharedFunction)> {
        let functions = read(&self.functions);
        functions.iter().map(|(bdf, occupant)| (*bdf, Arc::clone(&occupant.function))).collect()
    }
}
