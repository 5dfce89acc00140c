//! State of a process's own goes from one process to the next.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::contract::driver::guest_memory;
use crate::contract::rig::spawn;
use crate::serve::{Device, Memory, Progress, Ring, RingFault};
use crate::sync::lock;
use crate::virtio::VirtioBackend;
use crate::virtio::spec::F_VERSION_1;

/// Remembers bytes, and takes no empty ones.
struct Memo(Arc<Mutex<Vec<u8>>>);

impl Device for Memo {
    fn features(&self) -> u64 {
        F_VERSION_1
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256]
    }

    fn serve(&mut self, _: u16, _: &mut Ring, _: &Memory) -> Result<Progress, RingFault> {
        Ok(Progress::Idle)
    }

    fn save(&self) -> Vec<u8> {
        lock(&self.0).clone()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        if state == b"garbled" {
            return Err("not a memo".into());
        }
        *lock(&self.0) = state.to_vec();
        Ok(())
    }
}

fn process(memo: &Arc<Mutex<Vec<u8>>>) -> DeviceProcess {
    let memo = Arc::clone(memo);
    let (stream, _serving) = spawn(move || Memo(memo));
    let expected = Expected { limit: Duration::from_secs(20), ..Expected::rng() };
    DeviceProcess::connect(stream, Deadlines::start(|| ()).unwrap(), guest_memory(), expected).unwrap()
}

#[test]
fn what_one_process_remembers_the_next_one_knows() {
    for length in [0, 1, 200_000] {
        let memo: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let (first, second) = (Arc::new(Mutex::new(memo.clone())), Arc::default());
        let state = process(&first).save().unwrap();
        assert_eq!(state, memo);
        process(&second).restore(&state).unwrap();
        assert_eq!(*lock(&second), memo);
    }
}

#[test]
fn state_that_a_process_does_not_take_is_an_error() {
    let mut process = process(&Arc::default());
    process.restore(b"garbled").unwrap_err();
}
