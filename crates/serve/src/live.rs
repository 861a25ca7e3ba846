//! The model that answers now.

use crate::Model;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A model and how many came before it.
#[derive(Clone)]
pub struct Generation {
    /// From the bundle, or of the adapter.
    pub number: u64,
    /// What answers.
    pub model: Arc<dyn Model>,
}

/// Swapped whole: a picture is classified by the one model or by the other.
pub struct Live {
    now: RwLock<Generation>,
    /// Of swaps; spares workers the lock.
    swaps: AtomicU64,
}

impl Live {
    pub fn new(first: Generation) -> Self {
        Self { now: RwLock::new(first), swaps: AtomicU64::new(0) }
    }

    pub fn now(&self) -> Generation {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes with every swap.
    pub fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Acquire)
    }

    /// The earlier model is freed by the last worker that sits at it.
    pub fn swap(&self, next: Generation) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.swaps.fetch_add(1, Ordering::Release);
    }
}
