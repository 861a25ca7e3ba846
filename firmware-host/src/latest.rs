//! What goes between threads: slots in which the newest wins, and a switch that stops and pauses.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Room for one: what is not taken in time gives way to what comes.
#[derive(Debug)]
pub struct Latest<T> {
    slot: Mutex<(Option<T>, bool)>,
    changed: Condvar,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self { slot: Mutex::new((None, false)), changed: Condvar::new() }
    }
}

impl<T> Latest<T> {
    /// Puts one in; whether another had to give way.
    pub fn put(&self, value: T) -> bool {
        let mut slot = lock(&self.slot);
        let gave_way = slot.0.replace(value).is_some();
        self.changed.notify_one();
        gave_way
    }

    /// Takes one, waiting for it; nothing once it is closed.
    pub fn take(&self) -> Option<T> {
        let slot = lock(&self.slot);
        let mut slot =
            self.changed.wait_while(slot, |slot| slot.0.is_none() && !slot.1).unwrap_or_else(PoisonError::into_inner);
        if slot.1 { None } else { slot.0.take() }
    }

    /// Wakes whoever waits, with nothing.
    pub fn close(&self) {
        lock(&self.slot).1 = true;
        self.changed.notify_all();
    }
}

/// Whether threads go on, and whether the source rests.
#[derive(Debug, Default)]
pub struct Switch {
    state: Mutex<Turned>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Turned {
    stopped: bool,
    paused: bool,
}

impl Switch {
    /// Nothing goes on after this.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }

    /// The source rests, or goes on.
    pub fn pause(&self, paused: bool) {
        lock(&self.state).paused = paused;
        self.changed.notify_all();
    }

    /// Whether it was stopped.
    pub fn stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    /// Waits until it is not paused; whether to go on.
    pub fn awake(&self) -> bool {
        let state = lock(&self.state);
        let state = self.changed.wait_while(state, |turned| turned.paused && !turned.stopped);
        !state.unwrap_or_else(PoisonError::into_inner).stopped
    }

    /// Waits for a time, less if it is stopped; whether to go on.
    pub fn rest(&self, time: Duration) -> bool {
        let state = lock(&self.state);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, time, |turned| !turned.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        !state.stopped
    }
}

/// Bounded queues of commands and events, so that nothing grows when the reader is slow.
#[derive(Debug)]
pub struct Inbox<C, E> {
    state: Mutex<(VecDeque<C>, VecDeque<E>)>,
    changed: Condvar,
    replaces: fn(&E, &E) -> bool,
}

/// Most commands and most events that wait.
const MOST: usize = 64;

impl<C, E> Inbox<C, E> {
    /// An empty one. An event takes the place of the last one of its variant where it `replaces` (older, newer) it.
    pub fn new(replaces: fn(&E, &E) -> bool) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), replaces }
    }

    /// Adds a command; `false` when too many wait, and this one is lost.
    pub fn command(&self, command: C) -> bool {
        let mut state = lock(&self.state);
        let room = state.0.len() < MOST;
        if room {
            state.0.push_back(command);
            self.changed.notify_all();
        }
        room
    }

    /// Adds a command as soon as there is room for it.
    pub fn command_in_turn(&self, command: C) {
        let state = lock(&self.state);
        let full = |state: &mut (VecDeque<C>, VecDeque<E>)| state.0.len() >= MOST;
        let mut state = self.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        state.0.push_back(command);
        self.changed.notify_all();
    }

    /// Adds a command before all others, however many wait.
    pub fn command_at_once(&self, command: C) {
        lock(&self.state).0.push_front(command);
        self.changed.notify_all();
    }

    /// Adds an event; when too many wait, the oldest is lost.
    pub fn event(&self, event: E) {
        let events = &mut lock(&self.state).1;
        let kind = std::mem::discriminant(&event);
        match events.iter_mut().rfind(|other| std::mem::discriminant(*other) == kind) {
            Some(last) if (self.replaces)(last, &event) => *last = event,
            _ => {
                if events.len() == MOST {
                    events.pop_front();
                }
                events.push_back(event);
            }
        }
        self.changed.notify_all();
    }

    /// All that came, waiting for it until a time.
    pub fn wait(&self, until: Instant) -> (VecDeque<C>, VecDeque<E>) {
        let mut state = lock(&self.state);
        while state.0.is_empty() && state.1.is_empty() {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let taken = (std::mem::take(&mut state.0), std::mem::take(&mut state.1));
        self.changed.notify_all();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_newest_wins_and_closing_wakes() {
        let slot = Arc::new(Latest::default());
        assert!(!slot.put(1));
        assert!(slot.put(2));
        assert_eq!(slot.take(), Some(2));
        let other = Arc::clone(&slot);
        let waiting = std::thread::spawn(move || other.take());
        slot.close();
        assert_eq!(waiting.join().unwrap(), None);
    }

    #[test]
    fn a_switch_wakes_those_who_rest() {
        let switch = Arc::new(Switch::default());
        switch.pause(true);
        let other = Arc::clone(&switch);
        let waiting = std::thread::spawn(move || (other.awake(), other.rest(Duration::from_secs(60))));
        switch.pause(false);
        switch.stop();
        assert!(!waiting.join().unwrap().1);
        assert!(switch.stopped());
    }

    #[test]
    fn an_inbox_is_bounded() {
        let inbox: Inbox<u32, Option<u32>> = Inbox::new(|a, b| a.map(|a| a / 10) == b.map(|b| b / 10));
        for at in 0..1000 {
            assert_eq!(inbox.command(at), at < 64);
            inbox.event(Some(at));
        }
        let (commands, events) = inbox.wait(Instant::now());
        assert_eq!(commands.len(), 64);
        assert!(events.into_iter().eq((36..100).map(|tens| Some(10 * tens + 9))));
        assert!(inbox.wait(Instant::now()).1.is_empty());
    }

    #[test]
    fn a_long_script_waits_and_an_end_does_not() {
        let inbox: Arc<Inbox<u32, ()>> = Arc::new(Inbox::new(|(), ()| true));
        let other = Arc::clone(&inbox);
        let script = std::thread::spawn(move || (0..200).for_each(|line| other.command_in_turn(line)));
        let mut read = Vec::new();
        while read.len() < 100 {
            read.extend(inbox.wait(Instant::now() + Duration::from_secs(5)).0);
        }
        inbox.command_at_once(1000);
        assert!(inbox.wait(Instant::now()).0.contains(&1000));
        while !script.is_finished() {
            inbox.wait(Instant::now() + Duration::from_millis(1));
        }
        script.join().unwrap();
    }
}
