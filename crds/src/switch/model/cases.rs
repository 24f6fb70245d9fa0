//! What is looked at.

use super::moves::{ENDS, LOST, Move, ORDER, Sees, TWICE};
use super::world::Faults;
use super::{Case, Rule, Rules};

const LEAD: Move = Move::Lead { leader: 0, sight: Sees::All };

const NONE: Faults = Faults {
    crashes: 0,
    worker_crashes: 0,
    timeouts: 0,
    scales: 0,
    ghosts: 0,
    aborts: 0,
    abandons: 0,
    refusals: 0,
    rebalances: 0,
    deletions: 0,
    stale_files: 0,
    leader_deaths: 0,
    breaks: 0,
};

fn case(name: &'static str, change: impl FnOnce(&mut Case)) -> Case {
    let mut case = Case {
        name,
        breaks: None,
        rules: Rules::default(),
        one_dedupe: true,
        compare_and_swap: true,
        purged_is_unknown: true,
        msgs: 2,
        switches: 1,
        one_pod: false,
        begins: &[],
        ordered: true,
        partitions: 1,
        workers: 2,
        sealers: 1,
        leaders: 1,
        prepare: false,
        purges: false,
        follows: false,
        stale_pods: false,
        emits: false,
        faults: NONE,
    };
    change(&mut case);
    case
}

/// Of leaders that follow a list of Prepare. What workers do then is of no matter.
fn follows(c: &mut Case) {
    (c.follows, c.prepare, c.workers) = (true, true, 1);
}

pub fn with_all_rules() -> Vec<Case> {
    vec![
        case("crash and timeout", |c| c.faults = Faults { crashes: 1, timeouts: 1, ..NONE }),
        case("timeout and worker crash", |c| c.faults = Faults { timeouts: 1, worker_crashes: 1, ..NONE }),
        case("crash and scale", |c| c.faults = Faults { crashes: 1, scales: 1, ..NONE }),
        case("scale up from one", |c| (c.one_pod, c.faults) = (true, Faults { scales: 2, ..NONE })),
        case("abort and crash", |c| c.faults = Faults { aborts: 1, crashes: 1, ..NONE }),
        case("abort and timeout", |c| c.faults = Faults { aborts: 1, timeouts: 1, ..NONE }),
        case("stale file", |c| c.faults = Faults { stale_files: 1, timeouts: 1, ..NONE }),
        case("back while draining", |c| (c.switches, c.msgs) = (2, 3)),
        case("back while draining, crash", |c| (c.switches, c.faults) = (2, Faults { crashes: 1, ..NONE })),
        case("back while draining, timeout", |c| (c.switches, c.faults) = (2, Faults { timeouts: 1, ..NONE })),
        case("back while draining, abort", |c| (c.switches, c.faults) = (2, Faults { aborts: 1, ..NONE })),
        case("back while draining, worker crash", |c| (c.switches, c.faults) = (2, Faults { worker_crashes: 1, ..NONE })),
        case("three switches", |c| (c.switches, c.one_pod) = (3, true)),
        case("forced deletion: nothing lost", |c| (c.ordered, c.faults) = (false, Faults { ghosts: 1, ..NONE })),
        case("drain abandoned: nothing lost", |c| (c.ordered, c.faults.abandons) = (false, 1)),
        case("drain abandoned, back: nothing lost", |c| (c.ordered, c.switches, c.one_pod, c.faults.abandons) = (false, 2, true, 1)),
        case("both workers seal", |c| (c.sealers, c.switches, c.one_pod) = (2, 2, true)),
        case("two partitions, rebalance", |c| {
            (c.partitions, c.msgs, c.one_pod, c.faults) = (2, 3, true, Faults { rebalances: 1, ..NONE });
        }),
        case("two partitions, rebalance, worker crash", |c| {
            (c.partitions, c.one_pod, c.faults) = (2, true, Faults { rebalances: 1, worker_crashes: 1, ..NONE });
        }),
        case("two partitions, back, rebalance", |c| {
            (c.partitions, c.switches, c.one_pod, c.faults) = (2, 2, true, Faults { rebalances: 1, ..NONE });
        }),
        case("prepare refused", |c| (c.prepare, c.faults) = (true, Faults { refusals: 1, ..NONE })),
        case("prepare overdue", |c| (c.prepare, c.faults) = (true, Faults { aborts: 1, ..NONE })),
        case("prepare with a crash", |c| (c.prepare, c.faults) = (true, Faults { crashes: 1, ..NONE })),
        case("stale look at containers", |c| (c.stale_pods, c.faults) = (true, Faults { crashes: 1, ..NONE })),
        case("purge", |c| c.purges = true),
        case("purge, back while draining", |c| (c.purges, c.switches, c.one_pod) = (true, 2, true)),
        case("purge and abort", |c| (c.purges, c.one_pod, c.workers, c.faults.aborts) = (true, true, 1, 1)),
        case("worker emits", |c| (c.emits, c.partitions, c.workers) = (true, 2, 1)),
        case("worker emits, timeout", |c| (c.emits, c.partitions, c.workers, c.faults) = (true, 2, 1, Faults { timeouts: 1, ..NONE })),
        case("worker emits, purge", |c| (c.emits, c.partitions, c.workers, c.purges) = (true, 2, 1, true)),
        case("worker emits, worker crash", |c| {
            (c.emits, c.partitions, c.workers, c.faults) = (true, 2, 1, Faults { worker_crashes: 1, ..NONE });
        }),
        case("worker emits, back while draining", |c| (c.emits, c.partitions, c.workers, c.switches) = (true, 2, 1, 2)),
        case("two leaders, either dies", |c| (c.leaders, c.faults.leader_deaths) = (2, 1)),
        case("two leaders, abort", |c| (c.leaders, c.one_pod, c.faults) = (2, true, Faults { aborts: 1, ..NONE })),
        case("two leaders, back", |c| (c.leaders, c.one_pod, c.switches, c.faults.leader_deaths) = (2, true, 2, 1)),
        case("followed", follows),
        case("followed, crash", |c| {
            follows(c);
            (c.one_pod, c.faults.crashes) = (true, 1);
        }),
        case("followed, one of two crashes", |c| {
            follows(c);
            (c.msgs, c.faults.crashes) = (1, 1);
        }),
        case("followed, crash, stale look at containers", |c| {
            follows(c);
            (c.one_pod, c.stale_pods, c.faults.crashes) = (true, true, 2);
        }),
        case("followed, scale up", |c| {
            follows(c);
            (c.one_pod, c.faults.scales) = (true, 1);
        }),
        case("followed, scale up and down", |c| {
            follows(c);
            (c.one_pod, c.msgs, c.faults.scales) = (true, 1, 2);
        }),
        case("followed, the watch breaks off", |c| {
            follows(c);
            (c.one_pod, c.faults.scales, c.faults.breaks) = (true, 1, 1);
        }),
        case("followed, the watch breaks off, crash", |c| {
            follows(c);
            (c.one_pod, c.faults.crashes, c.faults.breaks) = (true, 1, 2);
        }),
        case("followed, the leader dies", |c| {
            follows(c);
            (c.one_pod, c.faults.scales, c.faults.leader_deaths) = (true, 1, 1);
        }),
        case("followed, two leaders", |c| {
            follows(c);
            (c.one_pod, c.msgs, c.leaders, c.faults.scales) = (true, 1, 2, 1);
            c.begins = &[LEAD, Move::WriteArrives(0), LEAD, Move::WriteArrives(0), Move::Listen(0), Move::List(0)];
        }),
        case("followed, two leaders, abort", |c| {
            follows(c);
            (c.one_pod, c.msgs, c.leaders, c.faults.aborts) = (true, 1, 2, 1);
        }),
        case("followed, back", |c| {
            follows(c);
            (c.one_pod, c.msgs, c.switches, c.faults.crashes) = (true, 1, 2, 1);
        }),
        case("followed, rebuilt from status", |c| {
            follows(c);
            (c.one_pod, c.faults.scales, c.faults.deletions) = (true, 1, 1);
        }),
        case("rebuilt from status", |c| c.faults = Faults { deletions: 1, ..NONE }),
        case("rebuilt from status, prepare", |c| (c.prepare, c.faults) = (true, Faults { deletions: 1, ..NONE })),
        case("rebuilt from status, prepare, back", |c| {
            (c.prepare, c.switches, c.one_pod, c.workers, c.msgs, c.faults.deletions) = (true, 2, true, 1, 1, 1);
        }),
        case("rebuilt from status, back", |c| (c.switches, c.one_pod, c.faults) = (2, true, Faults { deletions: 1, ..NONE })),
        case("rebuilt from status, abort", |c| (c.workers, c.faults) = (1, Faults { deletions: 1, aborts: 1, ..NONE })),
        case("rebuilt from status twice", |c| (c.workers, c.one_pod, c.faults.deletions) = (1, true, 2)),
        case("rebuilt from status twice, prepare", |c| {
            (c.prepare, c.workers, c.one_pod, c.msgs, c.faults.deletions) = (true, 1, true, 1, 2);
        }),
    ]
}

/// Much at once: too large to go every way, so only random ones are gone.
pub fn with_much_at_once() -> Vec<Case> {
    let much = |c: &mut Case| {
        (c.msgs, c.switches, c.prepare, c.purges, c.stale_pods, c.leaders, c.sealers) = (4, 3, true, true, true, 2, 2);
        c.faults = Faults {
            crashes: 2,
            worker_crashes: 1,
            timeouts: 2,
            scales: 2,
            aborts: 2,
            deletions: 1,
            stale_files: 1,
            leader_deaths: 1,
            ..NONE
        };
    };
    vec![
        case("much at once", much),
        case("much at once, two partitions", |c| {
            much(c);
            (c.partitions, c.faults.rebalances) = (2, 2);
        }),
        case("much at once, worker emits", |c| {
            much(c);
            (c.emits, c.partitions, c.workers, c.sealers) = (true, 2, 1, 1);
        }),
        case("much at once, forced deletions, drains abandoned: nothing lost", |c| {
            much(c);
            (c.ordered, c.partitions, c.faults.ghosts, c.faults.abandons) = (false, 2, 1, 2);
        }),
        case("much at once, followed", |c| {
            much(c);
            (c.follows, c.faults.breaks) = (true, 2);
        }),
        case("much at once, rebuilt often", |c| {
            much(c);
            (c.follows, c.faults.breaks, c.faults.deletions) = (true, 1, 4);
        }),
        case("much at once, refusals", |c| {
            much(c);
            // The same pods from beginning to end: one that joins later may refuse when it is too late. And no state that is lost:
            // what is rebuilt from a Prepare has no way back, whoever refuses.
            (c.faults.refusals, c.faults.crashes, c.faults.scales, c.faults.deletions) = (2, 0, 0, 0);
        }),
    ]
}

/// What breaks without a rule must hold with it, or it broke for another reason.
pub fn with_the_rule_again() -> Vec<Case> {
    let again = |case: Case| Case {
        breaks: None,
        rules: Rules::default(),
        one_dedupe: true,
        compare_and_swap: true,
        purged_is_unknown: true,
        ..case
    };
    without_a_rule().into_iter().map(again).collect()
}

pub fn without_a_rule() -> Vec<Case> {
    let without = |name, rule, breaks, change: fn(&mut Case)| {
        case(name, |c| {
            (c.rules, c.breaks) = (Rules::without(rule), Some(breaks));
            change(c);
        })
    };
    vec![
        without("without HoldFirst", Rule::HoldFirst, ORDER, |c| c.workers = 1),
        without("without JoinBeforeRead", Rule::JoinBeforeRead, ORDER, |c| (c.workers, c.one_pod, c.faults.scales) = (1, true, 1)),
        without("without QuorumRead", Rule::QuorumRead, ORDER, |c| (c.workers, c.one_pod, c.faults.scales) = (1, true, 1)),
        without("without OnlyNewer", Rule::OnlyNewer, ORDER, |c| (c.workers, c.one_pod, c.faults.stale_files) = (1, true, 1)),
        without("without SettleBeforeAck", Rule::SettleBeforeAck, ORDER, |c| (c.workers, c.one_pod) = (1, true)),
        without("without ListAfterHold", Rule::ListAfterHold, ORDER, |c| (c.workers, c.one_pod, c.faults.scales) = (1, true, 1)),
        without("without ProvenByAnswer", Rule::ProvenByAnswer, ORDER, |c| {
            follows(c);
            (c.one_pod, c.faults.crashes) = (true, 1);
            c.begins = &[Move::Crash(0), LEAD, LEAD, Move::Listen(0), Move::List(0)];
        }),
        without("without ProvenInOrder", Rule::ProvenInOrder, ORDER, |c| {
            follows(c);
            (c.one_pod, c.faults.scales, c.faults.breaks) = (true, 1, 1);
            c.begins = &[
                LEAD,
                LEAD,
                Move::Listen(0),
                Move::List(0),
                Move::Observe(0),
                Move::Observe(0),
                Move::Prepared(0, true),
                Move::Answer(0),
                Move::Hear(0),
                Move::Create(1),
                Move::Join(1),
                Move::Read(1, 2),
                Move::Send(1),
            ];
        }),
        without("without WaitForAll", Rule::WaitForAll, ORDER, |c| c.workers = 1),
        without("without EndedAfterJoining", Rule::EndedAfterJoining, ORDER, |c| {
            (c.workers, c.one_pod, c.stale_pods, c.faults.crashes) = (1, true, true, 1);
        }),
        without("without SealAfterOpen", Rule::SealAfterOpen, ORDER, |c| c.workers = 1),
        without("without SealBeforeReuse", Rule::SealBeforeReuse, ENDS, |c| c.switches = 2),
        without("without DrainToSeal", Rule::DrainToSeal, ORDER, |c| (c.workers, c.one_pod) = (1, true)),
        without("without EpochFence", Rule::EpochFence, ORDER, |c| (c.msgs, c.switches) = (3, 2)),
        without("without ReadStragglers", Rule::ReadStragglers, LOST, |c| (c.workers, c.ordered, c.faults.ghosts) = (1, false, 1)),
        without("without MirrorBeforeNext", Rule::MirrorBeforeNext, ENDS, |c| (c.workers, c.one_pod, c.faults.deletions) = (1, true, 1)),
        without("without RestoredGoesOn", Rule::RestoredGoesOn, ORDER, |c| {
            (c.workers, c.one_pod, c.faults.deletions, c.faults.aborts) = (1, true, 1, 1);
        }),
        case("without one dedupe for all brokers", |c| {
            (c.breaks, c.one_dedupe, c.workers, c.one_pod, c.faults.timeouts) = (Some(TWICE), false, 1, true, 1);
        }),
        case("without compare-and-swap", |c| {
            (c.breaks, c.compare_and_swap, c.workers, c.one_pod, c.leaders, c.faults.aborts) = (Some(ENDS), false, 1, true, 2, 1);
        }),
        case("without giving up what is purged", |c| {
            (c.breaks, c.purged_is_unknown, c.purges, c.workers, c.one_pod) = (Some(ORDER), false, true, 1, true);
        }),
    ]
}
