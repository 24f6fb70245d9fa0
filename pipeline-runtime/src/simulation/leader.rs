//! Who runs the coordinator: one, then another, and sometimes for a while both. One that stands still is one that is about to leave.

use super::cluster::Failed;
use super::{Without, World};
use crds::switch::{Listing, Observed, Rules, Settings, Sight, Step, step};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// The longest that a leader goes without looking.
const LOOK: Duration = Duration::from_millis(250);

pub const HOLD_DEADLINE: Duration = Duration::from_secs(1);

/// For ever: a leader, until it is time for the next.
pub async fn leaders(world: Arc<World>) {
    loop {
        let leader: JoinHandle<()> = tokio::spawn(lead(world.clone()));
        world.leader.killed().await;
        if world.dice.chance(300) {
            // It has lost its lease and does not know: it goes on for a while beside the next.
            let (dice, leader) = (world.dice.clone(), leader);
            tokio::spawn(async move {
                sleep(dice.ms(100, 3000)).await;
                leader.abort();
            });
        } else {
            leader.abort();
            sleep(world.dice.ms(0, 4000)).await;
        }
    }
}

async fn lead(world: Arc<World>) {
    let began = Instant::now();
    let mut sight = Sight::default();
    let mut changes = world.cluster.changes();
    loop {
        changes.mark_unchanged();
        match turn(&world, &mut sight, began).await {
            Ok(true) => continue,
            Ok(false) => {
                let _ = timeout(LOOK, changes.changed()).await;
                sleep(world.dice.ms(0, 10)).await;
            }
            Err(Failed) => sleep(world.dice.ms(20, 200)).await,
        }
    }
}

/// True: there is something new.
async fn turn(world: &World, sight: &mut Sight, began: Instant) -> Result<bool, Failed> {
    let cluster = &world.cluster;
    let Some((_, state)) = cluster.read().await? else {
        cluster.make().await?;
        return Ok(true);
    };
    let mirrored = cluster.mirrored().await?;
    let mut members = cluster.list().await?;
    if world.without == Without::WaitForAll {
        members.retain(|member| &*member.name != "api-1");
    }
    let listing = Listing { after: state.revision(), members };
    let observed = Observed {
        spec: cluster.spec(),
        requests: &[],
        obstacle: None,
        listing: Some(&listing),
        mirrored,
        abandon: None,
        leaving: world.leader.still(),
    };
    let now = began.elapsed();
    match step(&settings(), &state, &observed, sight.of(&state, now), now) {
        Step::Write(next) => cluster.replace(&state, next).await.map(|_| true),
        Step::Wait { .. } | Step::Done => {
            let behind = mirrored < state.revision();
            if behind {
                cluster.mirror(&state).await?;
            }
            Ok(behind)
        }
    }
}

fn settings() -> Settings {
    Settings { rules: Rules::in_force(), prepare_deadline: Duration::from_secs(5), hold_deadline: HOLD_DEADLINE, drain_deadline: None }
}
