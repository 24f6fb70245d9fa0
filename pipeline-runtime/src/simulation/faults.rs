//! What goes wrong, as long as anything may.

use super::World;
use super::client::BUSY;
use std::sync::Arc;
use tokio::time::{Instant, sleep};

/// How often each kind of fault strikes, against the others. Every run has its own mixture, many without some.
struct Mixture([usize; 10]);

impl Mixture {
    fn of(world: &World) -> Mixture {
        Mixture(std::array::from_fn(|_| if world.dice.chance(500) { world.dice.below(5) } else { 0 }))
    }

    fn pick(&self, world: &World) -> Option<usize> {
        let all: usize = self.0.iter().sum();
        let mut roll = world.dice.below(all.max(1));
        self.0.iter().position(|share| {
            let here = roll < *share;
            roll = roll.saturating_sub(*share);
            here
        })
    }
}

pub async fn strike(world: Arc<World>) {
    let mixture = Mixture::of(&world);
    let pause = *world.dice.pick(&[200, 1000, 4000]);
    let end = Instant::now() + BUSY;
    while Instant::now() < end {
        sleep(world.dice.ms(0, 2 * pause)).await;
        let Some(fault) = mixture.pick(&world) else { continue };
        let until = Instant::now() + *world.dice.pick(&[world.dice.ms(50, 500), world.dice.ms(500, 2500), world.dice.ms(2500, 6000)]);
        let any = world.dice.pick(&world.processes);
        tracing::info!(fault, name = any.name, until = ?(until - Instant::now()), "something fails");
        match fault {
            0 => world.dice.pick(&world.pods).pulse.kill(),
            1 => world.dice.pick(&world.workers).pulse.kill(),
            2 => any.pulse.stall(until),
            3 => world.dice.pick(&world.brokers).away(until),
            4 => world.dice.pick(&world.brokers).shuffle(),
            5 => world.leader.kill(),
            6 => world.cluster.away(until),
            7 => world.cluster.delete(),
            8 => world.leader.stall(until),
            _ => world.table.away(until),
        }
    }
}

/// The document asks for the one backend, then for the other; now and then it changes its mind at once.
pub async fn change_minds(world: Arc<World>) {
    let longest = *world.dice.pick(&[1500, 4000, 9000]);
    let end = Instant::now() + BUSY;
    while Instant::now() < end {
        sleep(world.dice.ms(200, longest)).await;
        let asked = world.cluster.spec();
        let other = if asked == world.brokers[0].name { &world.brokers[1] } else { &world.brokers[0] };
        tracing::info!(backend = other.name, "somebody asks for another backend");
        world.cluster.ask_for(other.name);
        if world.dice.chance(150) {
            sleep(world.dice.ms(0, 400)).await;
            world.cluster.ask_for(asked);
        }
    }
}
