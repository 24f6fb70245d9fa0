//! How each fault is brought about.

use super::{Fault, SWITCHED_WITHIN, other};
use crate::bed::eventually;
use crate::fleet::porter::Errand;
use crate::fleet::{Container, Fleet};
use crate::proxy::{Proxy, Way};
use anyhow::{Context, Result, ensure};
use crds::member::AnswerKind;
use crds::switch::{Phase, SwitchState};
use nix::sys::signal::Signal;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How much later a pod hears than the others: well within a Hold.
const LATER: Duration = Duration::from_millis(350);
/// Longer than a Hold may last.
const TOO_LONG: Duration = Duration::from_millis(2500);
/// How often the state is looked at, to do something at a certain moment.
const LOOK: Duration = Duration::from_millis(5);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Asks for the target while this goes wrong. Returns where the way goes in the end.
pub async fn switch(fleet: &Fleet, fault: Fault, target: &'static str, random: &mut StdRng) -> Result<&'static str> {
    let (left, right) = (&fleet.left.1, &fleet.right.1);
    let (from, to) = if target == "right" { (left, right) } else { (right, left) };
    let any = fleet.kubelet.containers().choose(random).context("there are no pods")?.pod.clone();
    let api = fleet.kubelet.of("api").choose(random).context("there is no API pod")?.clone();
    let soon = ms(random.random_range(0..600));
    match fault {
        Fault::Kill => {
            asked(fleet, target, soon).await?;
            fleet.kubelet.kill(&any);
        }
        Fault::Stop => {
            asked(fleet, target, soon).await?;
            let _ = fleet.kubelet.signal(&any, Signal::SIGSTOP);
            sleep(TOO_LONG).await;
            let _ = fleet.kubelet.signal(&any, Signal::SIGCONT);
        }
        Fault::Operator => {
            asked(fleet, target, soon).await?;
            fleet.replace_operator().await?;
        }
        Fault::OperatorCut => disturbed(fleet, target, soon, &fleet.operator_wire, Way::Cut, 2000).await?,
        Fault::OperatorLate => {
            fleet.operator_wire.set(Way::Slow(LATER));
            fleet.switch_to(target)?;
            reached(fleet, |state| is_open(state, target)).await;
            fleet.operator_wire.set(Way::Open);
        }
        Fault::Scale => {
            asked(fleet, target, soon).await?;
            let replicas = random.random_range(1..=3);
            fleet.patch(&json!({"spec": {"api": {"replicas": replicas}}}))?;
        }
        Fault::StallSource => disturbed(fleet, target, soon, from, Way::Stalled, 2000).await?,
        Fault::CutSource => disturbed(fleet, target, soon, from, Way::Cut, 2000).await?,
        Fault::SlowSource => disturbed(fleet, target, soon, from, Way::Slow(ms(60)), 3000).await?,
        Fault::Unsettled => {
            from.set_only(fleet.kubelet.ports(&api.pod).unwrap_or_default(), Way::Stalled);
            fleet.switch_to(target)?;
            reached(fleet, |state| is_held(state, target) || is_open(state, target)).await;
            // Before the pod gives up what is in flight. It is applied together with what comes after it.
            sleep(ms(300)).await;
            fleet.postgres.1.set(Way::Stalled);
            from.set(Way::Open);
            sleep(ms(300)).await;
            fleet.postgres.1.set(Way::Open);
        }
        Fault::StallTarget => disturbed(fleet, target, soon, to, Way::Stalled, 2000).await?,
        Fault::CutTarget => disturbed(fleet, target, soon, to, Way::Cut, 2000).await?,
        Fault::SlowTarget => disturbed(fleet, target, soon, to, Way::Slow(ms(60)), 3000).await?,
        Fault::Back => {
            fleet.switch_to(target)?;
            fleet.until("the first one is open", SWITCHED_WITHIN, |state| is_open(state, target)).await?;
            fleet.switch_to(other(target))?;
            return Ok(other(target));
        }
        Fault::Late => {
            fleet.kubelet.wire(&api.pod, Way::Slow(LATER));
            fleet.switch_to(target)?;
            reached(fleet, |state| is_open(state, target)).await;
            sleep(2 * LATER).await;
            fleet.kubelet.wire(&api.pod, Way::Open);
        }
        Fault::Database => {
            let database = &fleet.postgres.1;
            database.set(Way::Stalled);
            fleet.switch_to(target)?;
            reached(fleet, |state| is_open(state, target)).await;
            sleep(soon).await;
            database.set(Way::Open);
        }
        Fault::LateAndDatabase => {
            let database = &fleet.postgres.1;
            fleet.kubelet.wire(&api.pod, Way::Slow(LATER));
            fleet.switch_to(target)?;
            if reached(fleet, |state| is_held(state, target) || is_open(state, target)).await {
                sleep(ms(100)).await; // whoever seals too early has done it, and what lay before the seal is applied
                database.set(Way::Stalled);
                reached(fleet, |state| is_open(state, target)).await;
                sleep(ms(400)).await;
                database.set(Way::Open);
            }
            fleet.kubelet.wire(&api.pod, Way::Open);
        }
        Fault::OldFile => {
            fleet.kubelet.mounts(false);
            let old = fleet.kubelet.mounted_state()?;
            fleet.switch_to(target)?;
            if reached(fleet, |state| is_open(state, target)).await {
                sleep(ms(200)).await;
                // Pods look again only when it has changed.
                fleet.kubelet.mount_state(&format!("{old}\n"))?;
                sleep(ms(1500)).await;
            }
            fleet.kubelet.mounts(true);
        }
        Fault::Newcomer => {
            let before = fleet.kubelet.of("api");
            fleet.kubelet.mounts(false);
            fleet.switch_to(target)?;
            fleet.until("the first one is open", SWITCHED_WITHIN, |state| is_open(state, target)).await?;
            fleet.kubelet.wires(Way::Slow(LATER));
            fleet.patch(&json!({"spec": {"api": {"replicas": before.len() + 1}}}))?;
            let newcomer = serves(fleet, |pod| before.iter().all(|known| known.pod != pod.pod)).await;
            fleet.kubelet.wires(Way::Open);
            let newcomer = newcomer.context("no newcomer serves")?;
            fleet.kubelet.wire(&newcomer, Way::Stalled);
            fleet.switch_to(other(target))?;
            sleep(TOO_LONG).await;
            fleet.kubelet.wire(&newcomer, Way::Open);
            fleet.kubelet.mounts(true);
            fleet.patch(&json!({"spec": {"api": {"replicas": before.len()}}}))?;
            return Ok(other(target));
        }
        Fault::Joining => {
            let before = fleet.kubelet.of("api");
            let worker = fleet.kubelet.of("worker").choose(random).context("there is no worker")?.pod.clone();
            // As long as it stands still the target is not prepared.
            let _ = fleet.kubelet.signal(&worker, Signal::SIGSTOP);
            fleet.switch_to(target)?;
            let new = |pod: &Container| before.iter().all(|known| known.pod != pod.pod);
            if reached(fleet, |state| is_prepared(state, target)).await {
                fleet.patch(&json!({"spec": {"api": {"replicas": before.len() + 1}}}))?;
                let newcomer = serves(fleet, new).await.context("no newcomer serves")?;
                fleet.kubelet.wire(&newcomer, Way::Slow(LATER));
                sleep(ms(1500)).await; // it gets its share of the load
            }
            let _ = fleet.kubelet.signal(&worker, Signal::SIGCONT);
            reached(fleet, |state| is_open(state, target)).await;
            sleep(2 * LATER).await;
            fleet.kubelet.of("api").iter().filter(|pod| new(pod)).for_each(|pod| fleet.kubelet.wire(&pod.pod, Way::Open));
            fleet.patch(&json!({"spec": {"api": {"replicas": before.len()}}}))?;
        }
        Fault::Untold => {
            fleet.kubelet.tells_of_starts(false);
            fleet.kubelet.kill(&api.pod);
            let _ = serves(fleet, |pod| pod.pod == api.pod && pod.restarts > api.restarts).await; // it may have been one too many
            fleet.kubelet.wire(&api.pod, Way::Slow(LATER));
            fleet.switch_to(target)?;
            reached(fleet, |state| is_open(state, target)).await;
            sleep(2 * LATER).await;
            fleet.kubelet.wire(&api.pod, Way::Open);
            fleet.kubelet.tells_of_starts(true);
        }
        Fault::Unheard => unheard(fleet, target, None).await?,
        Fault::HeardAnew => unheard(fleet, target, fleet.kubelet.of("api").first()).await?,
        Fault::Unsealed => {
            fleet.switch_to(target)?;
            if reached(fleet, |state| is_held(state, target)).await {
                fleet.kubelet.starts(false);
                fleet.kubelet.of("worker").iter().for_each(|worker| fleet.kubelet.kill(&worker.pod));
                reached(fleet, |state| is_open(state, target)).await;
                fleet.switch_to(other(target))?;
                sleep(TOO_LONG).await;
                fleet.kubelet.starts(true);
                return Ok(other(target));
            }
        }
        Fault::Forgotten => {
            fleet.switch_to(target)?;
            if reached(fleet, |state| is_open(state, target)).await {
                fleet.kubelet.wire(&api.pod, Way::Stalled);
                // The operator is killed first: it would write what it knows.
                tokio::try_join!(fleet.replace_operator(), fleet.forget())?;
                reached(fleet, |_| true).await;
                sleep(TOO_LONG).await;
                fleet.kubelet.wire(&api.pod, Way::Open);
            }
        }
        Fault::CutOff => {
            let pod = serves(fleet, |_| true).await.context("no pod serves")?;
            fleet.kubelet.wire(&pod, Way::Stalled);
            fleet.kubelet.mounts(false);
            fleet.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0"])?;
            fleet.switch_to(target)?;
            // What it writes before the seals is read to them like everything else: only what comes then are stragglers.
            fleet.until("the old broker is drained", SWITCHED_WITHIN, |state| is_open(state, target) && !state.drains()).await?;
            sleep(ms(1500)).await;
            fleet.kubelet.end(&pod);
            fleet.kubelet.mounts(true);
        }
    }
    Ok(target)
}

/// Asks for the target, and waits for so long.
async fn asked(fleet: &Fleet, target: &str, then: Duration) -> Result<()> {
    fleet.switch_to(target)?;
    sleep(then).await;
    Ok(())
}

/// Asks for the target, and after a while the way to a broker is like this, for so long.
async fn disturbed(fleet: &Fleet, target: &str, after: Duration, proxy: &Proxy, way: Way, for_ms: u64) -> Result<()> {
    asked(fleet, target, after).await?;
    proxy.set(way);
    sleep(ms(for_ms)).await;
    proxy.set(Way::Open);
    Ok(())
}

/// Asks for the target when all pods have ended. An API pod runs again and joins between the list of Prepare and the write of the Hold:
/// the operator hears nothing of that, nor the pod of the Hold.
///
/// `lives`: it has not ended, and is the first by its name. So the operator, which begins its watch anew, hears its answer in a page
/// before all others.
async fn unheard(fleet: &Fleet, target: &str, lives: Option<&Container>) -> Result<()> {
    let (kubelet, porter) = (&fleet.kubelet, &fleet.porter);
    let ended: Vec<Container> = kubelet.containers().into_iter().filter(|pod| lives.is_none_or(|lives| lives.pod != pod.pod)).collect();
    let Some(again) = ended.iter().find(|pod| pod.role == "api") else { return fleet.switch_to(target) };
    let others = || ended.iter().filter(|pod| pod.pod != again.pod);
    kubelet.mounts(false);
    kubelet.tells_of_starts(false);
    kubelet.starts(false);
    ended.iter().for_each(|pod| kubelet.kill(&pod.pod));
    let hold = porter.keep(Errand::Hold);
    fleet.switch_to(target)?;
    // Not if there is something to seal first: nobody is there who could.
    if hold.waits(ms(10_000)).await {
        let (page, list) = (porter.keep(Errand::FirstPage), porter.keep(Errand::List));
        porter.expire();
        others().for_each(|pod| kubelet.wire(&pod.pod, Way::Stalled));
        kubelet.starts(true);
        let _ = serves(fleet, |pod| pod.pod == again.pod && pod.restarts > again.restarts).await; // it may have been one too many
        kubelet.wire(&again.pod, Way::Stalled);
        page.waits(ms(3000)).await;
        drop(hold);
        let mut page = Some(page);
        if let Some(lives) = lives {
            let held = || async {
                let answers = fleet.answers().await?;
                ensure!(answers.get(&lives.pod).is_some_and(|answer| answer.kind == AnswerKind::Held), "{answers:?}");
                Ok(())
            };
            let _ = eventually("it has answered", ms(1000), held).await; // else the Hold is over
            page = None;
        }
        let open = timeout(TOO_LONG, reached(fleet, |state| is_open(state, target))).await == Ok(true);
        drop((page, list));
        others().for_each(|pod| kubelet.wire(&pod.pod, Way::Open));
        if open {
            sleep(TOO_LONG).await; // so long it writes to the old broker, and the others to the new one
        }
        kubelet.wire(&again.pod, Way::Open);
    }
    kubelet.starts(true);
    kubelet.tells_of_starts(true);
    kubelet.mounts(true);
    Ok(())
}

/// Waits until such a pod serves. Its name.
async fn serves(fleet: &Fleet, which: impl Fn(&Container) -> bool) -> Option<String> {
    let found = || async {
        let pods = fleet.kubelet.of("api");
        pods.into_iter().find(|pod| pod.ready && which(pod)).map(|pod| pod.pod).context("none")
    };
    eventually("a pod serves", ms(30_000), found).await.ok()
}

/// Looks closely until this is so. False: the attempt has failed, or takes too long; then it is not for this moment.
async fn reached(fleet: &Fleet, is: impl Fn(&SwitchState) -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < ms(10_000) {
        if fleet.state().await.is_ok_and(|state| is(&state)) {
            return true;
        }
        sleep(LOOK).await;
    }
    false
}

fn is_open(state: &SwitchState, target: &str) -> bool {
    *state.newest().backend == *target && *state.phase() == Phase::Steady
}

fn is_prepared(state: &SwitchState, target: &str) -> bool {
    matches!(state.phase(), Phase::Prepare { target: to } if **to == *target)
}

fn is_held(state: &SwitchState, target: &str) -> bool {
    matches!(state.phase(), Phase::Hold { target: to, .. } if **to == *target)
}
