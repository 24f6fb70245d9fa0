//! The only randomness there is: all of a run follows from its seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;

#[derive(Clone)]
pub struct Dice(Arc<Mutex<Rolls>>);

struct Rolls {
    random: StdRng,
    /// No more faults: everything arrives, and soon.
    calm: bool,
}

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Arc::new(Mutex::new(Rolls { random: StdRng::seed_from_u64(seed), calm: false })))
    }

    pub fn calm(&self) {
        self.0.lock().unwrap().calm = true;
    }

    pub fn below(&self, bound: usize) -> usize {
        self.0.lock().unwrap().random.random_range(0..bound)
    }

    pub fn pick<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// In so many of a thousand cases; never once it is calm.
    pub fn fault(&self, per_mille: u32) -> bool {
        let mut rolls = self.0.lock().unwrap();
        rolls.random.random_range(0..1000) < per_mille && !rolls.calm
    }

    /// As `fault`, also when it is calm.
    pub fn chance(&self, per_mille: u32) -> bool {
        self.0.lock().unwrap().random.random_range(0..1000) < per_mille
    }

    pub fn ms(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.0.lock().unwrap().random.random_range(from..=to))
    }

    /// What one way takes: mostly nothing worth mentioning, now and then long.
    pub fn way(&self) -> Duration {
        match self.below(100) {
            0..70 => self.ms(0, 3),
            70..97 => self.ms(3, 30),
            _ if self.fault(1000) => self.ms(30, 900),
            _ => self.ms(3, 30),
        }
    }

    pub async fn travel(&self) {
        sleep(self.way()).await;
    }
}
